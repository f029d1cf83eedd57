"""What comparing runs takes and gives, and how runs are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.summary import Headline

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


def labels(options: Sequence[Options]) -> list[str]:
    """What tells each run from the others: model, data, selection, seed; a number where that is not enough."""
    parts = [
        {
            "model": one["model"]["name"],
            "data": one["data"]["name"],
            "where": "/".join(map(str, (one["data"].get("where") or {}).values())),
            "limit": f"limit {one['data'].get('limit')}",
            "data seed": f"data seed {one['data'].get('seed')}",
            "seed": f"seed {one['seed']}",
        }
        for one in options
    ]
    differing = [key for key in parts[0] if len({part[key] for part in parts}) > 1] or ["model"]
    found = [", ".join(part[key] for key in differing if part[key]) or part["model"] for part in parts]
    counts = Counter(found)
    return [label if counts[label] == 1 else f"{label} #{i}" for i, label in enumerate(found, start=1)]


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
