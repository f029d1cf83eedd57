"""All tables of all topics: `python -m interp.runs.schema` prints them as Markdown."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

import interp
from interp.runs.columns import COMMON, TABLES, Table

NEEDS_MORE = ("interp.model.vllm", "interp.grading.worker")
"""Modules that need optional packages, or are programs."""


def declared() -> dict[str, Table]:
    """Every table that a module of `interp` declares, by name."""
    for module in walk_packages(interp.__path__, "interp."):
        if module.name not in NEEDS_MORE:
            import_module(module.name)
    return dict(sorted(TABLES.items()))


def markdown() -> str:
    """docs/tables.md."""
    lines = ["# Tables", "", "Every table also has " + ", ".join(f"`{c.name}`" for c in COMMON) + "."]
    for name, table in declared().items():
        lines += ["", f"## {name}.parquet", "", "| column | type | meaning | null means |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.meaning} | {c.null or 'never null'} |" for c in table.columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
