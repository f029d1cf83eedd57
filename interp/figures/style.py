"""One look for all figures: readable in print, safe for colour-blind readers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from interp.runs.names import readable
from interp.text.numbers import three_digits

SEQUENTIAL = "cividis"
"""Colour map for masses; uniform in lightness for all readers."""
DIVERGING = "RdBu_r"
"""Colour map for effects that may have either sign."""
BLUE, ORANGE, GREEN, RED, PURPLE, GREY, SKY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666", "#56B4E9",
)  # fmt: skip
"""Okabe and Ito's palette."""

LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "anchorlens",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # ids, names and tokens are shown as they are: $ is no mathematics
}
SCREEN_DPI, FILE_DPI = 120, 200


@contextmanager
def look() -> Iterator[None]:
    """Matplotlib's settings while figures are made and saved, in which every text is drawable, labels of ticks
    included, which are set as late as in drawing. Importing this package changes none of them."""
    set_text = Text.set_text

    def set_drawable(self: Text, s: Any) -> None:
        set_text(self, drawable(s) if isinstance(s, str) else s)

    with matplotlib.rc_context(LOOK):
        Text.set_text = set_drawable  # type: ignore[method-assign]
        try:
            yield
        finally:
            Text.set_text = set_text  # type: ignore[method-assign]


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure of its own with axes, as pyplot's function of this name makes them, but known to no window manager."""
    with look():
        figure = Figure(figsize=figsize, dpi=SCREEN_DPI, layout=more.pop("layout", None))
        return figure, figure.subplots(rows, columns, **more)


def limit(values: Float[np.ndarray, ...], least: float, most: float) -> float:
    """The end of a colour scale that is symmetrical around 0: the largest size of the values, within bounds."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(np.clip(sizes.max(initial=0.0), least, most))


def mark_beyond(axis: Axes, values: Float[np.ndarray, "row column"], limit: float) -> None:
    """A white dot in every cell of a map whose size is beyond the end of its colour scale."""
    rows, columns = np.nonzero(np.nan_to_num(np.abs(values)) > limit * (1 + 1e-6))
    if len(rows):
        axis.plot(columns, rows, "o", color="white", markeredgecolor="black", markeredgewidth=0.5, markersize=2.5)


def save(figure: Figure, directory: Path, name: str) -> Path:
    """Writes NAME.png and NAME.pdf; the files carry no date, so the same run gives the same."""
    directory.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if text.get_text() != (shown := drawable(text.get_text())):
            text.set_text(shown)
    with look():
        # Measured once for both files: laying a figure out costs as much as drawing it.
        figure.draw_without_rendering()
        box = figure.get_tightbbox().padded(0.1)
        png, pdf = {"Software": None}, {"CreationDate": None, "Producer": None}
        figure.savefig(directory / f"{name}.png", bbox_inches=box, dpi=FILE_DPI, metadata=png)
        figure.savefig(directory / f"{name}.pdf", bbox_inches=box, metadata=pdf)
    return directory / f"{name}.png"


def label(token: str | None) -> str:
    """A token's text as a label: line breaks and inner spaces made visible, pads named."""
    if token is None:
        return "pad"
    shown = (token.strip(" ") or token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return drawable(shown) or "∅"


def drawable(text: str) -> str:
    """The text without empty boxes: what the font lacks stands in its narrow form, such as the full-width bars of R1's
    `<｜User｜>`, or is written out as an escape, such as `\\x1b` and `\\u4e2d`. Line breaks stay.

    Matplotlib's own font alone is used, so that a figure is the same on every machine.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_drawn(sign) for sign in text)


def _drawn(sign: str) -> str:
    if sign == "\n" or _known(sign):
        return sign
    narrow = unicodedata.normalize("NFKC", sign)
    return narrow if all(map(_known, narrow)) else sign.encode("unicode_escape").decode()


def _known(sign: str) -> bool:
    return sign.isprintable() and ord(sign) in _signs()


@cache
def _signs() -> frozenset[int]:
    """Code points that the font of all figures has."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


NAMED = ("model", "data", "example", "run", "series", "writer")
"""Columns of tables whose texts are names that somebody gave."""


def _spoken(value: object) -> object:
    return readable(value) if isinstance(value, str) else value


def save_table(table: pd.DataFrame, directory: Path, name: str) -> Path:
    """Writes NAME.csv, with one line of column names, and NAME.tex, for readers: readable names and three digits."""
    directory.mkdir(parents=True, exist_ok=True)
    index = not isinstance(table.index, pd.RangeIndex)
    flat = table.copy()
    if isinstance(table.columns, pd.MultiIndex):
        flat.columns = pd.Index([", ".join(map(str, names)) for names in table.columns])
    flat.to_csv(directory / f"{name}.csv", index=index, errors="replace")
    spoken = {name: flat[name].map(_spoken) for name in flat.columns if name not in NAMED}
    shown = flat.assign(**spoken).rename(columns=readable)
    text = shown.to_latex(index=index, float_format=three_digits, escape=True, na_rep="--")
    (directory / f"{name}.tex").write_text(text, encoding="utf-8", errors="replace")
    return directory / f"{name}.csv"
