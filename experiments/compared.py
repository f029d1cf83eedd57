"""What comparing runs takes and gives, and how runs are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.summary import Headline
from interp.store import SUMMARY, read_json

Options = dict[str, Any]
TIMING = "timing.json"
"""How long the steps of a training took."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path
    experiment: str
    label: str
    """What tells it from the others."""
    options: Options
    table: Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class RunsCompared:
    """What comparing found."""

    tables: dict[str, list[dict[str, Any]]]
    headlines: Sequence[Headline]
    lines: Sequence[str] = ()
    title: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further content of summary.json."""


PLAIN = ("model.name", "data.name", "experiment.strategy")
"""Options that name a run by their value alone."""
SAYS_NOTHING = ("threads", "data.path", "run", "runs")
"""Options that may differ without telling what was tried."""


def labels(options: Sequence[Options]) -> list[str]:
    """What tells each run from the others: the options that differ; a number where that is not enough."""
    names = [name for name in differing(options) if name not in SAYS_NOTHING]
    for group in ("model", "data"):  # of another model or data set everything differs: its name is enough
        if f"{group}.name" in names:
            names = [name for name in names if not name.startswith(f"{group}.") or name == f"{group}.name"]
    names = [name for name in names if not name.startswith("generation.")] or names
    pairs = {(one["model"]["name"], one["data"]["name"]) for one in options}
    if len(pairs) == len({model for model, _ in pairs}) > 1:  # the model says which data
        names = [name for name in names if name != "data.name"]
    order = sorted(names, key=lambda name: (PLAIN.index(name) if name in PLAIN else len(PLAIN), name == "seed"))
    found = [", ".join(_named(name, option(one, name)) for name in order) or one["model"]["name"] for one in options]
    counts = Counter(found)
    return [label if counts[label] == 1 else f"{label} #{i}" for i, label in enumerate(found, start=1)]


def _named(name: str, value: Any) -> str:
    if name in PLAIN or name.startswith("data.where"):
        return str(value)
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{name.removeprefix('experiment.').replace('.', ' ')} {text}"


def number_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every headline number of every run, each with its control: the rows of numbers.parquet."""
    rows = []
    for run in runs:
        for headline in read_json(run.directory / SUMMARY)["headlines"]:
            control = headline["control"] or {"kind": None, "value": None, "low": None, "high": None}
            rows.append(
                {
                    "run": run.label,
                    **{key: headline[key] for key in ("name", "value", "low", "high", "n")},
                    "control": control["kind"],
                    **{f"control_{key}": control[key] for key in ("value", "low", "high")},
                }
            )
    return rows


def differing(options: Sequence[Options], prefix: str = "") -> Iterator[str]:
    """Dotted names of the options that are not the same in all runs; a list counts as one value."""
    for key in dict.fromkeys(key for one in options for key in one):
        values = [one.get(key) for one in options]
        name = f"{prefix}{key}"
        inner = [value for value in values if isinstance(value, dict)]
        if len(inner) == len(values):
            yield from differing(inner, f"{name}.")
        elif any(value != values[0] for value in values):
            yield name


def option(options: Options, name: str) -> Any:
    """An option by its dotted name; None where it is not set."""
    value: Any = options
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
