"""A run's report as one page: findings in sentences, figures, tables. No network, no script of others.

The page is `report.html.j2`, which escapes whatever it is given: text from models is only ever text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.runs.about import About
from interp.runs.glossary import GLOSSARY, Explainer
from interp.runs.names import readable_text
from interp.runs.shown import Shown, shown_figure, shown_figures
from interp.runs.verdicts import UNITS, Outcome, Sign, Verdict
from interp.stats import LEVEL, ComparedBy
from interp.text.numbers import difference_text, with_interval

WAYS = {Sign.HIGHER: "▲ higher", Sign.LOWER: "▼ lower"}
LONG = 12
"""Longer lists are folded."""


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
    verdicts = [(one.about, one.as_json()) for one in report.verdicts]
    explained = Explainer()
    return _macro(
        "page",
        report=report,
        about=about,
        done=done,
        missing=[part for part in report.parts if part.summary is None],
        tested=[one for one in verdicts if one[1]["outcome"] != Outcome.NOT_TESTED],
        untested=[one for one in verdicts if one[1]["outcome"] == Outcome.NOT_TESTED],
        glossary=GLOSSARY,
        rows_of=lambda part: list(_rows(part, about[part.name])),
        figures_of=lambda part: shown_figures(part.directory / "figures", about[part.name]),
        first_picture=_first_picture(done, about),
        begin=explained.begin,
        said=lambda text: explained(readable_text(str(text))),
    )


FIRST_PICTURES = ("a_fig8_hand_over", "a_fig3_head_masses", "a_fig1_accuracy")
"""What the first screen shows: the first of these that a part has drawn."""


def _first_picture(done: Sequence[Part], about: Mapping[str, About]) -> Shown | None:
    found = (
        shown_figure(part.directory / "figures", about[part.name], name)
        for name in FIRST_PICTURES
        for part in done
        if name in about[part.name].figures
    )
    return next((one for one in found if one.picture), None)


def sentence(headline: Mapping[str, Any]) -> str:
    """A headline number in words: value, interval, n, control, and whether it differs from that. HTML."""
    return _macro("sentence", headline, said=readable_text)


def _macro(name: str, *arguments: Any, **names: Any) -> str:
    module = environment().get_template("report.html.j2").make_module(names)
    return str(getattr(module, name)(*arguments))


@cache
def environment() -> Environment:
    """Escapes everything, and knows no name that it is not given."""
    made = Environment(autoescape=True, undefined=StrictUndefined, loader=PackageLoader("interp.runs", "."))
    made.globals |= {"compared_in_words": compared_in_words, "way": way, "long": LONG}
    made.globals |= {"with_interval": with_interval, "difference_text": difference_text}
    return made


def lead_of(headlines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first headline number that has a control, or the first one."""
    return next((one for one in headlines if one["control"] is not None), headlines[0])


def way(sign: str | None) -> str:
    """The direction of a difference, as a sign and a word."""
    return "" if sign is None else WAYS[Sign(sign)]


def compared_in_words(headline: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether a headline number differs from its control, and the words for it; None without a comparison."""
    found = headline.get("comparison")
    if found is None or found["value"] is None:
        return None
    p = "" if found["p"] is None else f"p = {found['p']:.2g}, "
    unit = UNITS[ComparedBy(found["test"])].format(n=found["n"])
    if found["p"] is not None and found["p"] < LEVEL:
        differs = difference_text(found["value"], found["low"], found["high"])
        way = Sign.HIGHER if found["value"] > 0 else Sign.LOWER
        return {"holds": True, "way": way, "words": f"differs by {differs}, {p}{unit}"}
    words = f"undecided with {unit} ({p}difference {difference_text(found['value'])})"
    return {"holds": False, "way": None, "words": words}


@dataclass
class NumberRow:
    """A headline number, what was published for it, and the controls that it stands beside."""

    name: str
    number: Mapping[str, Any]
    published: str
    beside: list[Mapping[str, Any]]


def _rows(part: Part, about: About) -> Iterator[NumberRow]:
    """A part's headline numbers: one that stands beside several controls is told once."""
    assert part.summary is not None
    published = about.placed(one["name"] for one in part.summary["headlines"])
    last: NumberRow | None = None
    for one in part.summary["headlines"]:
        name, _, control = one["name"].partition(", beside ")
        if control and last is not None and (last.name, last.number["value"]) == (name, one["value"]):
            last.beside.append(one)
            continue
        if last is not None:
            yield last
        _, said = published.get(one["name"], ("", ""))
        last = NumberRow(name, one, said, [one] if one["control"] else [])
    if last is not None:
        yield last
