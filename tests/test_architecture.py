"""The house: what may import what."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("interp/**/*.py"), *ROOT.glob("experiments/**/*.py")])


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> set[str]:
    """Modules that a file names in its import statements; `from package import module` counts as that module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


ORDER = [
    "errors",
    "safety",
    "stats",
    "text",
    "runs",
    "organisms",
    "data",
    "grading",
    "model",
    "training",
    "heads",
    "patching",
    "ablation",
    "perturb",
    "key_tokens",
    "rhythm",
    "sentences",
    "credit",
    "figures",
    "front",
]
"""The packages of interp/, each of which may import those before it."""


@pytest.mark.parametrize("file", [f for f in FILES if f.is_relative_to(ROOT / "interp")], ids=module)
def test_packages_import_only_what_stands_before_them(file: Path) -> None:
    own = module(file).split(".")[1:2]
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "interp" and len(parts) > 1 and own and parts[1] != own[0]:
            assert ORDER.index(parts[1]) < ORDER.index(own[0]), f"{module(file)} imports {name}"


def test_imports_have_no_cycles() -> None:
    modules = {module(file) for file in FILES}
    graph = {module(file): imports(file) & modules - {module(file)} for file in FILES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("file", [f for f in FILES if f.is_relative_to(ROOT / "interp")], ids=module)
def test_the_library_knows_neither_hydra_nor_the_experiments(file: Path) -> None:
    assert not {name for name in imports(file) if name.split(".")[0] in ("hydra", "omegaconf", "experiments")}


@pytest.mark.parametrize("file", sorted(ROOT.glob("interp/figures/*.py")), ids=module)
def test_figures_never_see_a_model(file: Path) -> None:
    assert not {name for name in imports(file) if name.split(".")[0] in ("torch", "transformers", "transformer_lens")}


@pytest.mark.parametrize("file", FILES, ids=module)
def test_every_file_says_what_it_is_and_can_be_read_in_one_sitting(file: Path) -> None:
    text = file.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400
    assert "pickle" not in imports(file)
