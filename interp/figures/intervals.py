"""Estimates as points with their 95 % intervals. One that has no interval is hollow: it is not the surest, but the
least sure."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interp.figures import style
from interp.stats import Estimate


def point(
    axis: Axes,
    of: Estimate,
    at: float,
    colour: str,
    *,
    along: Literal["x", "y"] = "x",
    marker: str = "o",
    size: float = 5,
    face: str | None = None,
) -> None:
    """An estimate with its interval along an axis, at a place on the other one; nothing where it has no value.

    Without an interval the marker is hollow, with `n = 1` beside it where one value is all there is; `face` sets
    another filling, for figures in which that says something else.
    """
    if np.isnan(of.value):
        return
    known = of.low is not None and of.high is not None
    if of.low is not None and of.high is not None:
        ends = ([of.low, of.high], [at, at])
        axis.plot(*(ends if along == "x" else ends[::-1]), color=colour, linewidth=1.2)
    place = (of.value, at) if along == "x" else (at, of.value)
    fill = face or (colour if known else "white")
    axis.plot(*place, marker, color=colour, markerfacecolor=fill, markersize=size)
    if of.n == 1:
        axis.annotate(
            "n = 1", place, (4, 0), textcoords="offset points", va="center", fontsize=6, color=style.GREY,
            annotation_clip=False,
        )  # fmt: skip


def curve(
    axis: Axes,
    x: pd.Series,
    of: pd.DataFrame,
    colour: str,
    *,
    label: str | None = None,
    look: str = "o-",
    size: float = 4,
    alpha: float = 0.2,
) -> None:
    """Estimates (columns `value`, `low`, `high`) along x, joined, with their intervals as a band; markers of those that
    have none are hollow, and an interval between two such is a bar. `look`: marker and line, as matplotlib has them."""
    at, value, low, high = (column.to_numpy(float) for column in (x, of["value"], of["low"], of["high"]))
    known = ~np.isnan(low) & ~np.isnan(high)
    marker, line = look[0], look[1:]
    axis.plot(at, value, line, color=colour)
    axis.fill_between(at, low, high, color=colour, alpha=alpha, linewidth=0)
    beside = np.concatenate([[False], known, [False]])
    alone = known & ~beside[:-2] & ~beside[2:]
    if alone.any():
        axis.vlines(at[alone], low[alone], high[alone], color=colour, alpha=0.5, linewidth=1.2)
    for some, face in ((known, colour), (~known, "white")):
        axis.plot(at[some], value[some], marker, color=colour, markersize=size, markerfacecolor=face)
    if label is not None:
        axis.plot([], [], look, color=colour, markersize=size, label=label)


def share_bar(axis: Axes, of: Estimate, x: float, width: float, colour: str) -> None:
    """A bar with its interval; without an interval an empty one, `n = 1` above it where one value is all there is."""
    known = of.low is not None and of.high is not None
    axis.bar(x, of.value, width, facecolor=colour if known else "white", edgecolor=colour)
    if of.low is not None and of.high is not None:
        axis.vlines(x, of.low, of.high, color="black", linewidth=0.8)
    if of.n == 1:
        axis.text(x, of.value, " n = 1", ha="center", va="bottom", rotation="vertical", fontsize=6, color=style.GREY)


def counted(n: pd.Series, what: str = "") -> str:
    """`6 traces`, or `3 to 6 traces` where some of what is shown has fewer."""
    least, most = int(n.min()), int(n.max())
    return (f"{most}" if least == most else f"{least} to {most}") + (f" {what}" if what else "")


def handle(colour: str, label: str, marker: str = "o") -> Line2D:
    """A legend's entry for such points, filled whatever the first of them is."""
    return Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)


def none_here(axis: Axes, x: float, y: float, va: str = "bottom", rotation: str = "horizontal") -> None:
    """The word for a value that there is not, where one of 0 would look the same."""
    axis.text(x, y, "none", fontsize=6, color=style.GREY, ha="center", va=va, rotation=rotation)
