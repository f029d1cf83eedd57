"""A part's figures and tables as a report shows them."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.runs.about import About
from interp.runs.names import readable
from interp.text.numbers import three_digits

FIGURE_DOTS = 1.8
"""Dots of a figure to one pixel of the page."""
MOST_ROWS, MOST_COLUMNS = 16, 9
"""Larger tables are named, not shown: the page would cut them."""
APPENDIX = "_appendix"
"""End of the names of figures that are folded."""


@dataclass(frozen=True)
class Shown:
    """One figure of a part, as a picture or a table."""

    caption: str
    picture: str | None
    """PNG, in base64."""
    width: int
    """In CSS pixels."""
    folded: bool
    header: Sequence[str]
    rows: Sequence[Sequence[str]] | None
    """None without a table, or with one that is too large."""
    file: str | None
    """Where a table that is too large lies, from the part's directory."""
    size: int
    """How many rows it has."""


def shown_figures(directory: Path, about: About) -> Iterator[Shown]:
    """Every figure and table of a part, the papers' own first."""
    for name in dict.fromkeys([*about.figures, *sorted(file.stem for file in directory.glob("*.[pc][ns][gv]"))]):
        yield shown_figure(directory, about, name)


def shown_figure(directory: Path, about: About, name: str) -> Shown:
    """One of them; without picture and table where there is no such file."""
    picture, table = (directory / f"{name}.{kind}" for kind in ("png", "csv"))
    content = picture.read_bytes() if picture.is_file() else None
    header, rows = table_of(list(_lines(table))) if table.is_file() else ([], [])
    fits = len(rows) <= MOST_ROWS and len(header) <= MOST_COLUMNS
    return Shown(
        about.figures.get(name, readable(name)),
        None if content is None else base64.b64encode(content).decode(),
        0 if content is None else _width(content),
        name.endswith(APPENDIX),
        header,
        rows if table.is_file() and fits else None,
        None if fits or not table.is_file() else f"{directory.name}/{table.name}",
        len(rows),
    )


def table_of(lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table's header and rows with readable names, the ends of intervals behind their values, and turned by a quarter
    where it has many columns and few rows."""
    header, *rows = lines
    ends = dict(_intervals(header))
    inside = {end for pair in ends.values() for end in pair}
    names = [name for name in header if name not in inside]
    told = [[_told(name, dict(zip(header, row, strict=True)), ends.get(name)) for name in names] for row in rows]
    shown = [readable(name) + (", 95 % interval" if name in ends else "") for name in names]
    if len(names) > MOST_COLUMNS and len(told) < MOST_COLUMNS:
        turned = zip(*told, strict=True)
        return ["", *map(str, range(1, len(told) + 1))], [[n, *row] for n, row in zip(shown, turned, strict=True)]
    return shown, told


def _intervals(header: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Columns with those that hold the ends of their intervals."""
    for i, name in enumerate(header):
        if header[i + 1 : i + 3] == ["low", "high"]:
            yield name, ("low", "high")
        elif {f"{name}_low", f"{name}_high"} <= set(header):
            yield name, (f"{name}_low", f"{name}_high")


def _told(name: str, row: Mapping[str, str], ends: tuple[str, str] | None) -> str:
    """A cell for readers; names of models and runs are not ours to change."""
    value = row[name] if name in ("writer", "model", "run") else readable(_short(row[name]))
    if ends is None or not all(row[end] for end in ends):
        return value
    return f"{value} [{', '.join(_short(row[end]) for end in ends)}]"


def _width(png: bytes) -> int:
    """In CSS pixels, such that letters have one size in all figures: a picture's header has its width at byte 16."""
    return round(int.from_bytes(png[16:20], "big") / FIGURE_DOTS)


def _lines(file: Path) -> Iterator[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.reader(lines)


def _short(text: str) -> str:
    """A number with three digits; any other text as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if not math.isfinite(number) or number == int(number) else three_digits(number)
