"""What stands twice in a list of options would count twice: it is refused, as is what another option overrules."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import AfterValidator

from experiments.base.experiment import experiments
from experiments.base.options import By, Options, distinct
from tests.command import run

NOT_SETS = {"horizon", "early_accuracy", "rfhs[]"}
"""Pairs of numbers, which may be equal."""
HARMLESS = {"hint_words"}
"""Looked up, never counted."""


def lists_of(kind: type[Options], before: str = "") -> dict[str, bool]:
    """Every option of list type, and whether it refuses what stands twice."""
    found: dict[str, bool] = {}
    for name, field in kind.model_fields.items():
        hints = [field.annotation, *field.metadata]
        found |= _lists(hints[0], hints[1:], before + name)
    return found


def _lists(hint: Any, metadata: list[Any], name: str) -> dict[str, bool]:
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        metadata = [*metadata, *more]
    if get_origin(hint) in (Union, UnionType):
        return {key: value for part in get_args(hint) for key, value in _lists(part, metadata, name).items()}
    by = next((one.model for one in metadata if isinstance(one, By)), hint)
    if isinstance(by, type) and issubclass(by, Options):
        return lists_of(by, f"{name}.")
    if get_origin(hint) is not list:
        return {}
    inner = _lists(get_args(hint)[0], [], f"{name}[]")
    return {name: any(isinstance(one, AfterValidator) and one.func is distinct for one in metadata), **inner}


def test_every_list_of_an_experiment_names_each_once() -> None:
    found = {
        f"{name}: {option}": once
        for name, one in experiments().items()
        for option, once in lists_of(one.options).items()
    }
    assert found["ablate: haystack.lengths"]
    repeated = {name for name, once in found.items() if not once}
    assert {name.partition(": ")[2] for name in repeated} <= NOT_SETS | HARMLESS


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("patching", "rfhs=[[0,3],[0,3]]"), "experiment.rfhs=[[0, 3], [0, 3]] must name each once"),
        (("patching", "rfhs=[[0,3]]", "top_k=7"), "experiment.rfhs names the heads"),
        (("ablate", "doses=[1,1]"), "experiment.doses=[1, 1] must name each once"),
        (("rhythm", "layers=[all,all]"), "must name each once"),
        (("rhythm", "receivers=100"), "experiment.receivers=100: reasoner has 48 heads in layers=all"),
        (("rhythm", "layers=[all,top]", "receivers=20"), "heads in layers=top"),
        (("perturb", "receivers=100"), "experiment.receivers=100: reasoner has 48 heads in layers=all"),
        (("heads", "haystack.depths=[]"), "must have at least 1 item"),
    ],
)
def test_refused(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    name, *rest = options
    asked = (f"experiment={name}", "model=reasoner", *(f"experiment.{option}" for option in rest), "progress=false")
    for more in ((f"hydra.run.dir={tmp_path / 'run'}",), ("dry_run=true",)):
        done = run(*asked, *more)
        assert done.returncode == 2
        assert complaint in " ".join(done.stderr.split())
        assert "loading" not in done.stderr
