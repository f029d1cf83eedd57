"""A run's report as one page: findings in sentences, figures, tables. No network, no script of others.

The page is `report.html.j2`, which escapes whatever it is given: text from models is only ever text.
"""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.runs.about import About
from interp.runs.verdicts import Verdict
from interp.stats import LEVEL, ComparedBy

UNITS = {ComparedBy.PAIRED: "n = {n} pairs", ComparedBy.SETS: "{n} sets", ComparedBy.NULL: "n = {n}"}
FIGURE_DOTS = 1.8
"""Dots of a figure to one pixel of the page."""
LONG = 12
"""Longer tables and lists are folded."""


@dataclass(frozen=True)
class Part:
    """One experiment of the run: its directory and summary, or the reason why there is none."""

    name: str
    directory: Path
    summary: Mapping[str, Any] | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Report:
    """What the page is made of."""

    title: str
    parts: Sequence[Part]
    environment: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=tuple)
    verdicts: Sequence[Verdict] = ()
    explorer: str | None = None
    """Where the page lies on which every token can be asked where it looks, from the report."""


def report_page(report: Report, about: Mapping[str, About]) -> str:
    """The page's HTML; `about` says of each part what it is."""
    done = [part for part in report.parts if part.summary is not None]
    missing = [part for part in report.parts if part.summary is None]
    return _macro(
        "page",
        report=report,
        about=about,
        done=done,
        missing=missing,
        beside=list(_beside(done, about)),
        verdicts=[(one.about, one.as_json()) for one in report.verdicts],
        lead=lead,
        figures_of=lambda part: _shown(part.directory / "figures", about[part.name]),
    )


def sentence(headline: Mapping[str, Any]) -> str:
    """A headline number in words: value, interval, n, control, and whether it differs from that. HTML."""
    return _macro("sentence", headline)


def _macro(name: str, *arguments: Any, **names: Any) -> str:
    module = environment().get_template("report.html.j2").make_module(names)
    return str(getattr(module, name)(*arguments))


@cache
def environment() -> Environment:
    """Escapes everything, and knows no name that it is not given."""
    made = Environment(autoescape=True, undefined=StrictUndefined, loader=PackageLoader("interp.runs", "."))
    made.globals |= {"compared_in_words": compared_in_words, "long": LONG}
    return made


def lead(part: Part) -> Mapping[str, Any]:
    """A part's first headline number that has a control, or its first one."""
    assert part.summary is not None
    return lead_of(part.summary["headlines"])


def lead_of(headlines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first headline number that has a control, or the first one."""
    return next((one for one in headlines if one["control"] is not None), headlines[0])


def compared_in_words(headline: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether a headline number differs from its control, and the words for it; None without a comparison."""
    found = headline.get("comparison")
    if found is None or found["value"] is None:
        return None
    p = "" if found["p"] is None else f"p = {found['p']:.2g}, "
    unit = UNITS[ComparedBy(found["test"])].format(n=found["n"])
    if found["p"] is not None and found["p"] < LEVEL:
        ends = "" if found["low"] is None else f" [{found['low']:+.3g}, {found['high']:+.3g}]"
        return {"holds": True, "words": f"differs by {found['value']:+.3g}{ends}, {p}{unit}"}
    return {"holds": False, "words": f"undecided with {unit} ({p}difference {found['value']:+.3g})"}


def _beside(parts: Sequence[Part], about: Mapping[str, About]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Published numbers with ours; the models differ, so no test is made between them."""
    for part in parts:
        assert part.summary is not None
        for key, published in about[part.name].beside.items():
            one = next((found for found in part.summary["headlines"] if key in found["name"]), None)
            if one is not None:
                yield published, one


@dataclass(frozen=True)
class Shown:
    """One figure of a part, as a picture or a table."""

    caption: str
    picture: str | None
    """PNG, in base64."""
    width: int
    """In CSS pixels."""
    header: Sequence[str]
    rows: Sequence[Sequence[Mapping[str, Any]]] | None


def _shown(directory: Path, about: About) -> Iterator[Shown]:
    """Every figure and table of a part, the papers' own first."""
    for name in dict.fromkeys([*about.figures, *sorted(file.stem for file in directory.glob("*"))]):
        picture, table = (directory / f"{name}.{kind}" for kind in ("png", "csv"))
        content = picture.read_bytes() if picture.is_file() else None
        header, *rows = list(_lines(table)) if table.is_file() else [[]]
        yield Shown(
            about.figures.get(name, name.replace("_", " ")),
            None if content is None else base64.b64encode(content).decode(),
            0 if content is None else _width(content),
            header,
            [[_cell(text) for text in row] for row in rows] if table.is_file() else None,
        )


def _width(png: bytes) -> int:
    """In CSS pixels, such that letters have one size in all figures: a picture's header has its width at byte 16."""
    return round(int.from_bytes(png[16:20], "big") / FIGURE_DOTS)


def _lines(file: Path) -> Iterator[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.reader(lines)


def _cell(text: str) -> dict[str, Any]:
    try:
        number = float(text)
    except ValueError:
        return {"text": text, "number": False}
    short = text if not math.isfinite(number) or number == int(number) else f"{number:.3g}"
    return {"text": short, "number": True}
