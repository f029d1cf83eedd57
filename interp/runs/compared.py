"""What comparing runs takes and gives, and how runs are told apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.runs.columns import FLOAT, INT, TEXT, Column, Table, ends
from interp.runs.directory import ENVIRONMENT, SUMMARY
from interp.runs.headlines import Headline
from interp.runs.names import measured
from interp.runs.store import read_json
from interp.runs.verdicts import Verdict

NUMBERS_TABLE = Table(
    "numbers",
    Column("run", TEXT, "what tells the run from the others"),
    Column("series", TEXT, "what tells it from the others but for its layers"),
    Column("layers", TEXT, "its experiment.layers", null="the experiment has no such option"),
    Column("name", TEXT, "a headline number of its summary.json"),
    Column("value", FLOAT, "its value", null="undefined"),
    *ends("", "its 95 % interval", null="it has none"),
    Column("n", INT, "number of examples behind it"),
    Column("control", TEXT, "kind of its control", null="it has none"),
    Column("control_value", FLOAT, "the control's value", null="it has none"),
    *ends("control_", "the control's interval", null="it has none"),
)


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
    series: str
    """What tells it from the others but for its layers."""
    options: Options
    table: Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class Asked:
    """By what runs are to be compared."""

    kind: str
    """Of heads: a score or another kind."""
    published: str | None = None
    """A file of published numbers, for experiments that have some."""
    reference: str | None = None
    """Of trainings: the arm that the others are compared with."""


@dataclass(frozen=True)
class RunsCompared:
    """What comparing found."""

    tables: dict[str, list[dict[str, Any]]]
    headlines: Sequence[Headline]
    lines: Sequence[str] = ()
    subject: str = ""
    """What they are compared by, or what they are all about."""
    by_run: bool = True
    """Their headline numbers are drawn run by run as well."""
    verdicts: Sequence[Verdict] = ()
    published: Sequence[Verdict] = ()
    """What published measurements say by themselves."""


PLAIN = ("model.name", "data.name", "experiment.strategy")
"""Options that name a run by their value alone."""
SAYS_NOTHING = ("threads", "data.path", "run", "runs")
"""Options that may differ without telling what was tried."""


def labels(options: Sequence[Options]) -> list[str]:
    """What tells each run from the others: the options that differ; a number where that is not enough."""
    found = _different(options)
    counts = Counter(found)
    return [label if counts[label] == 1 else f"{label} #{i}" for i, label in enumerate(found, start=1)]


def series(options: Sequence[Options]) -> list[str]:
    """What tells runs from one another but for their layers: runs of one series differ by their layers at most."""
    return _different([{**one, "experiment": {**one["experiment"], "layers": None}} for one in options])


def unlike(runs: Sequence[Run]) -> list[str]:
    """What differs between runs without standing in their labels, one line each: options, the questions or traces that
    their data options led to, and the version that they were made by."""
    found, options = [], [_by_label(one.options) for one in runs]
    told = _telling([one.options for one in runs])
    whole = {f"{group}." for group in ("model", "data") if f"{group}.name" in told}
    # What one option of its group tells, the others of that group follow from.
    silent = [name for name in differing(options) if name not in (*told, "threads", "run", "runs", "seed")]
    if further := [name for name in silent if not name.startswith(tuple(whole))]:
        found.append(f"the runs differ further in {', '.join(further)}")
    made = [read_json(one.directory / ENVIRONMENT) for one in runs]
    if len({one.get("data") for one in made}) > 1 and not any(name.startswith("data.") for name in told):
        found.append("the runs did not measure the same texts")
    weights: dict[str, set[str]] = {}
    for run, one in zip(runs, made, strict=True):
        weights.setdefault(measured(run.options)[0], set()).add(str((one.get("model") or {}).get("fingerprint")))
    found += [f"{name} had other weights in one run than in another" for name, some in weights.items() if len(some) > 1]
    versions = [{**(one.get("versions") or {}), "device": one.get("device"), "dtype": one.get("dtype")} for one in made]
    if others := list(differing(versions)):
        found.append(f"the runs were made with several versions or kinds of {', '.join(others)}")
    commits = dict.fromkeys(str(one.get("git_commit")) for one in made)
    if len(commits) > 1:
        found.append(f"the runs were made by several versions of the code: {', '.join(commits)}")
    return found


def _different(given: Sequence[Options]) -> list[str]:
    """Each run's values of the options that tell it from the others."""
    options, names = [_by_label(one) for one in given], _telling(given)
    return [", ".join(_named(name, option(one, name)) for name in names) or one["model"]["name"] for one in options]


def _telling(given: Sequence[Options]) -> list[str]:
    """The options that tell runs apart: those that differ, without what follows from others."""
    options = [_by_label(one) for one in given]
    names = [name for name in differing(options) if name not in SAYS_NOTHING]
    for group in ("model", "data"):
        if f"{group}.name" in names:  # of another model or data set everything differs: its name is enough
            names = [
                name
                for name in names
                if not name.startswith(f"{group}.") or name == f"{group}.name" or _varies_within(group, options, name)
            ]
    # How it is generated mostly follows from the model.
    own = [name for name in names if not name.startswith("generation.") or _varies_within("model", options, name)]
    names = own or names
    pairs = {(one["model"]["name"], one["data"]["name"]) for one in options}
    scrambled = any(one["data"].get("scrambled") is not None for one in given)
    if len(pairs) == len({model for model, _ in pairs}) > 1 and not scrambled:  # the model says which data
        names = [name for name in names if name != "data.name"]
    return sorted(names, key=lambda name: (PLAIN.index(name) if name in PLAIN else len(PLAIN), name == "seed"))


def _by_label(options: Options) -> Options:
    """The same with models and data by the names that tables give them, which say what is random in them."""
    model, data = measured(options)
    return {
        **options,
        "model": {**options["model"], "name": model, "untrained": None},
        "data": {**options["data"], "name": data, "scrambled": None},
    }


def _varies_within(group: str, options: Sequence[Options], name: str) -> bool:
    """Whether an option differs between runs of one model or data set."""
    pairs = {(one[group]["name"], str(option(one, name))) for one in options}
    return len(pairs) > len({of for of, _ in pairs})


def _named(name: str, value: Any) -> str:
    if name in PLAIN or name.startswith("data.where"):
        return str(value)
    return f"{name.removeprefix('experiment.').replace('.', ' ')} {_text(value)}"


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def number_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every headline number of every run, each with its control: the rows of numbers.parquet.

    A number that not all runs have goes without its sizes, such as "top 10": models differ in them.
    """
    found = [read_json(run.directory / SUMMARY)["headlines"] for run in runs]
    named = [{headline["name"] for headline in headlines} for headlines in found]
    everywhere = set.intersection(*named)
    rows = []
    for run, headlines in zip(runs, found, strict=True):
        layers = option(run.options, "experiment.layers")
        short = Counter(_without_sizes(headline["name"]) for headline in headlines)
        for headline in headlines:
            name = headline["name"]
            if name not in everywhere and short[_without_sizes(name)] == 1:
                name = _without_sizes(name)
            control = headline["control"] or {"kind": None, "value": None, "low": None, "high": None}
            rows.append(
                {
                    "run": run.label,
                    "series": run.series,
                    "layers": None if layers is None else _text(layers),
                    "name": name,
                    **{key: headline[key] for key in ("value", "low", "high", "n")},
                    "control": control["kind"],
                    **{f"control_{key}": control[key] for key in ("value", "low", "high")},
                }
            )
    return rows


def _without_sizes(name: str) -> str:
    return re.sub(r" \(layers? [^)]*\)", "", re.sub(r"\btop \d+\b", "top k", name))


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
