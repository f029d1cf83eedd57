"""Headline numbers of several runs side by side, each with its interval and its control."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.figures import style

COLUMNS, PANELS = 3, 12
"""Panels beside one another, and on one page."""


def side_by_side(numbers: pd.DataFrame) -> Iterator[Figure]:
    """One panel for each number that all runs have: runs from top to bottom, black the value, orange its control."""
    runs = list(numbers["run"].unique())
    names = [name for name, rows in numbers.groupby("name", sort=False) if set(rows["run"]) == set(runs)]
    for first in range(0, len(names), PANELS):
        page = names[first : first + PANELS]
        rows = -(-len(page) // COLUMNS)
        size = (3.6 * COLUMNS + 1.2, rows * (0.28 * len(runs) + 1.1) + 0.5)
        figure, axes = plt.subplots(rows, COLUMNS, figsize=size, sharey=True, squeeze=False)
        for axis, name in zip(axes.flat, page, strict=False):
            _panel(axis, numbers[numbers["name"] == name].set_index("run").loc[runs], str(name))
        for axis in list(axes.flat)[len(page) :]:
            axis.set_visible(False)
        marks = [("value, 95 % interval", style.BLUE, "o"), ("its control", style.ORANGE, "s")]
        handles = [Line2D([], [], color=colour, marker=mark, label=label) for label, colour, mark in marks]
        figure.legend(handles=handles, loc="lower center", ncol=2, frameon=False, fontsize=8)
        figure.tight_layout(rect=(0, 0.35 / size[1], 1, 1))
        yield figure


def _panel(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    places = range(len(rows))[::-1]
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        for prefix, colour, mark, shift in (("", style.BLUE, "o", 0.12), ("control_", style.ORANGE, "s", -0.16)):
            value, low, high = (row[f"{prefix}{key}"] for key in ("value", "low", "high"))
            if pd.isna(value):
                continue
            axis.plot(value, place + shift, mark, color=colour, markersize=4)
            if not pd.isna(low):
                axis.hlines(place + shift, low, high, color=colour, linewidth=1.2)
    axis.set_yticks(list(places), [textwrap.fill(str(label), 28) for label in rows.index], fontsize=7)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_title(textwrap.fill(name, 48), fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
