"""One look for all figures: readable in print, safe for colour-blind readers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from interp.errors import printable

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
    "text.parse_math": False,  # ids, names and tokens are shown as they are: $ is no mathematics
}
SCREEN_DPI, FILE_DPI = 120, 200


def look() -> AbstractContextManager[None]:
    """Matplotlib's settings while figures are made and saved. Importing this package changes none of them."""
    return matplotlib.rc_context(LOOK)


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure of its own with axes, as pyplot's function of this name makes them, but known to no window manager."""
    with look():
        figure = Figure(figsize=figsize, dpi=SCREEN_DPI, layout=more.pop("layout", None))
        return figure, figure.subplots(rows, columns, **more)


def save(figure: Figure, directory: Path, name: str) -> Path:
    """Writes NAME.png and NAME.pdf; the files carry no date, so the same run gives the same."""
    directory.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if text.get_text() != (shown := printable(text.get_text())):
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
    return "".join(c if c.isprintable() else "�" for c in shown) or "∅"


def save_table(table: pd.DataFrame, directory: Path, name: str) -> Path:
    """Writes NAME.csv, with one line of column names, and NAME.tex, with three digits."""
    directory.mkdir(parents=True, exist_ok=True)
    index = not isinstance(table.index, pd.RangeIndex)
    flat = table.copy()
    if isinstance(table.columns, pd.MultiIndex):
        flat.columns = pd.Index([", ".join(map(str, names)) for names in table.columns])
    flat.to_csv(directory / f"{name}.csv", index=index, errors="replace")
    text = table.to_latex(index=index, float_format="%.3g", escape=True, na_rep="--")
    (directory / f"{name}.tex").write_text(text, encoding="utf-8", errors="replace")
    return directory / f"{name}.csv"
