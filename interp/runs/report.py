"""A run's report as one page: findings in sentences, figures, tables, the token view. No network, no library.

Everything is inside the file; text that models wrote is escaped.
"""

from __future__ import annotations

import base64
import csv
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.runs.about import About

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #111; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 3rem; border-top: 1px solid #bbb; padding-top: 1rem; }
nav ol { columns: 2; } figure { margin: 1.5rem 0; } figcaption { color: #333; font-size: .92rem; }
img { max-width: 100%; height: auto; } .published { background: #f3f3f3; padding: .6rem .9rem; }
table { border-collapse: collapse; font-size: .85rem; } .wide { overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; } th { border-bottom-color: #555; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } summary { cursor: pointer; margin: 1rem 0; }
iframe { width: 100%; height: 44rem; border: 1px solid #bbb; } code { font-size: .9em; }
.apart { font-weight: 600; } li { margin: .3rem 0; }
"""


NULLS = frozenset({"random signs", "shifted in a circle"})
"""Controls that are null distributions: their interval holds 95 % of what chance gives."""


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


def report_page(report: Report, about: Mapping[str, About]) -> str:
    """The page's HTML."""
    done = [part for part in report.parts if part.summary is not None]
    missing = [part for part in report.parts if part.summary is None]
    body = [f"<h1>{_text(report.title)}</h1>", *(f"<p>{_text(note)}</p>" for note in report.notes), _made_by(report)]
    links = [f'<li><a href="#{part.name}">{_text(about[part.name].title)}</a></li>' for part in report.parts]
    body.append(f"<nav><ol>{''.join(links)}</ol></nav>")
    body.append(
        "<p>Each number stands with its 95 % interval, the number n of examples behind it, and its control where it "
        "has one. <em>Apart</em> means that the two intervals do not overlap: a stricter rule than a test at .05. "
        "<em>Outside</em> means that the value lies outside the middle 95 % of what chance gives.</p>"
    )
    leads = [f"<li><b>{_text(about[part.name].title)}</b> {sentence(lead(part))}</li>" for part in done]
    body.append(f"<h2>In short</h2><ul>{''.join(leads)}</ul>")
    body.append(_beside(done, about))
    body += [_section(part, about[part.name]) for part in done]
    if missing:
        rows = [f"<li><b>{_text(about[p.name].title)}</b> {_text(str(p.missing))}</li>" for p in missing]
        ids = "".join(f'<a id="{part.name}"></a>' for part in missing)
        body.append(f"<h2>Not run, and why</h2>{ids}<ul>{''.join(rows)}</ul>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def lead(part: Part) -> Mapping[str, Any]:
    """A part's first headline number that has a control, or its first one."""
    assert part.summary is not None
    headlines = part.summary["headlines"]
    found: Mapping[str, Any] = next((one for one in headlines if one["control"] is not None), headlines[0])
    return found


def sentence(headline: Mapping[str, Any]) -> str:
    """A headline number in words: value, interval, n, control, and whether the intervals are apart. HTML."""
    text = f"{_text(headline['name'])}: <b>{_estimate(headline)}</b> (n = {headline['n']})"
    control = headline.get("control")
    if control is None:
        return text + "."
    text += f"; {_text(control['kind'])}: {_estimate(control)}"
    null = control["kind"] in NULLS
    verdict = outside(headline, control) if null else apart(headline, control)
    if verdict is None:
        return text + "."
    words = ("outside", "inside") if null else ("apart", "not apart")
    return text + (f' — <span class="apart">{words[0]}</span>.' if verdict else f" — {words[1]}.")


def apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool | None:
    """Whether two intervals do not overlap; a control without interval is a point. None where there is no interval."""
    if first["value"] is None or second["value"] is None or first["low"] is None:
        return None
    low = second["value"] if second["low"] is None else second["low"]
    high = second["value"] if second["high"] is None else second["high"]
    return bool(first["low"] > high or first["high"] < low)


def outside(headline: Mapping[str, Any], null: Mapping[str, Any]) -> bool | None:
    """Whether a value lies outside the middle 95 % of its null distribution; None where one of them is unknown."""
    if headline["value"] is None or null["low"] is None:
        return None
    return bool(not null["low"] <= headline["value"] <= null["high"])


def _beside(parts: Sequence[Part], about: Mapping[str, About]) -> str:
    """Published numbers and ours in one table; the models differ, so no test is made between them."""
    rows = []
    for part in parts:
        assert part.summary is not None
        for key, published in about[part.name].beside.items():
            one = next((found for found in part.summary["headlines"] if key in found["name"]), None)
            if one is None:
                continue
            control = one["control"]
            against = f"{control['kind']}: {_estimate(control)}" if control else ""
            cells = (one["name"], published, f"{_estimate(one)}, n = {one['n']}", against)
            rows.append(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("", "published, on the papers' models", "here", "control here"))
    return (
        "<h2>Published and found</h2><p>The papers' models and data differ from these: the table shows whether things "
        "go the same way, not whether numbers agree.</p>"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _estimate(number: Mapping[str, Any]) -> str:
    if number["value"] is None:
        return "undefined"
    value = f"{number['value']:.3f}"
    return value if number["low"] is None else f"{value} [{number['low']:.3f}, {number['high']:.3f}]"


def _section(part: Part, about: About) -> str:
    assert part.summary is not None
    found = "".join(f"<li>{sentence(headline)}</li>" for headline in part.summary["headlines"])
    more = [f"<li>{_text(line)}</li>" for line in part.summary.get("lines", [])]
    skipped = part.summary.get("skipped") or {}
    left = "; ".join(f"{n} {reason}" for reason, n in skipped.items())
    return "\n".join(
        [
            f'<h2 id="{part.name}">{_text(about.title)}</h2>',
            f"<p>{_text(about.question)}</p>",
            f'<p class="published"><b>Published.</b> {_text(about.published)}</p>',
            f"<ul>{found}</ul>",
            _folded("Further", "lines", more, f"<ul>{''.join(more)}</ul>"),
            f"<p>Left out: {_text(left)}.</p>" if left else "",
            *_shown(part.directory / "figures", about),
            f"<p>Tables and figures: <code>{_text(part.directory.name)}/</code></p>",
        ]
    )


def _shown(directory: Path, about: About) -> list[str]:
    """Every figure and table of a part, the papers' own first."""
    names = list(dict.fromkeys([*about.figures, *sorted(file.stem for file in directory.glob("*"))]))
    shown = []
    for name in names:
        caption = about.figures.get(name, name.replace("_", " "))
        picture, table, page = (directory / f"{name}.{kind}" for kind in ("png", "csv", "html"))
        if picture.is_file():
            content = picture.read_bytes()
            data, width = base64.b64encode(content).decode(), _width(content)
            image = f'<img alt="{_text(caption)}" width="{width}" src="data:image/png;base64,{data}">'
            shown.append(f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>")
        if table.is_file():
            shown.append(_table(table, caption))
        if page.is_file():
            inner = html.escape(page.read_text(encoding="utf-8"), quote=True)
            shown.append(
                f"<p>{_text(caption)} Click an answer token to see where it looks.</p>"
                f'<iframe title="{_text(caption)}" srcdoc="{inner}"></iframe>'
            )
    return shown


def _width(png: bytes) -> int:
    """In CSS pixels, such that letters have one size in all figures: a picture's header has its width at byte 16."""
    return round(int.from_bytes(png[16:20], "big") / FIGURE_DOTS)


def _table(file: Path, caption: str) -> str:
    with file.open(newline="", encoding="utf-8") as lines:
        header, *rows = list(csv.reader(lines))
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return _folded(caption, "rows", rows, f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')


def _folded(title: str, unit: str, items: Sequence[Any], content: str) -> str:
    """The content below its title, folded where it is long; nothing without items."""
    if not items:
        return ""
    if len(items) <= LONG:
        return f"<p>{_text(title)}</p>{content}"
    return f"<details><summary>{_text(title)} ({len(items)} {unit})</summary>{content}</details>"


def _cell(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return f"<td>{_text(text)}</td>"
    return f'<td class="n">{text if not math.isfinite(number) or number == int(number) else f"{number:.3g}"}</td>'


def _made_by(report: Report) -> str:
    made = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    model = made["model"]
    about = f"Model {model['name']}, fingerprint {model['fingerprint'][:12]}, " if model else ""
    return (
        f"<p>{_text(about)}seed {made['seed']}, commit {_text(str(made['git_commit']))}, device "
        f"{_text(str(made['device']))}. Made by <code>{_text(made['command'])}</code>. {_text(versions)}.</p>"
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)
