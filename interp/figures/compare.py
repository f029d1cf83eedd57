"""Runs side by side: headline numbers run by run and along the layers, and what the layers of each run do."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.figures import style
from interp.figures.intervals import curve, point
from interp.heads.ranking import middle_third
from interp.runs.names import readable, readable_text
from interp.runs.store import records
from interp.stats import Estimate

COLUMNS, PANELS = 3, 12
"""Panels beside one another, and on one page."""
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE, style.GREY, "#56B4E9", "#000000")
MARKERS = "osD^vP*X"


def side_by_side(numbers: pd.DataFrame) -> Iterator[Figure]:
    """One panel for each number that all runs have: runs from top to bottom, blue the value, orange its control."""
    runs = list(numbers["run"].unique())
    marks = [("value, 95 % interval (hollow: none)", style.BLUE, "o"), ("its control", style.ORANGE, "s")]
    handles = [Line2D([], [], color=colour, marker=mark, label=label) for label, colour, mark in marks]

    def draw(axis: Axes, rows: pd.DataFrame) -> None:
        _runs_downwards(axis, rows.set_index("run").loc[runs])

    yield from _pages(numbers, draw, handles, 0.28 * len(runs) + 1.1)


def along_layers(numbers: pd.DataFrame) -> Iterator[Figure]:
    """For runs that differ by their layers: one panel for each number that changes with them, layers from left to
    right, a line for each series; crosses: controls. Nothing where layers do not tell the runs of a series apart."""
    runs = numbers.drop_duplicates("run")
    layers = list(runs["layers"].dropna().unique())
    if len(layers) < 2 or runs.duplicated(["series", "layers"]).any():
        return
    changes = numbers.groupby(["name", "series"])["value"].nunique().groupby("name").max() > 1
    changing = numbers[numbers["name"].map(changes)]
    series = list(runs["series"].unique())
    looks = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(series)}
    handles = [Line2D([], [], color=colour, marker=mark, label=name) for name, (colour, mark) in looks.items()]
    handles.append(Line2D([], [], color="black", marker="x", linestyle=":", label="their controls"))

    def draw(axis: Axes, rows: pd.DataFrame) -> None:
        for i, (name, (colour, mark)) in enumerate(looks.items()):
            of = rows[rows["series"] == name].set_index("layers").reindex(layers)
            x = np.arange(len(layers)) + 0.12 * (i - (len(series) - 1) / 2)
            for place, row in zip(x, records(of), strict=True):
                if not pd.isna(row["value"]):
                    point(axis, Estimate.of(row), place, colour, along="y", marker=mark, size=4)
            axis.plot(x, of["value"].to_numpy(float), "-", color=colour, linewidth=1)
            value, low, high = (of[f"control_{key}"].to_numpy(float) for key in ("value", "low", "high"))
            axis.plot(x, value, "x:", color=colour, markersize=4, linewidth=1)
            axis.vlines(x, low, high, color=colour, linewidth=1, linestyle=":")
        axis.set_xticks(range(len(layers)), layers)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_xlabel("layers", fontsize=7)

    yield from _pages(changing, draw, handles, 2.2)


def layer_profiles(layers: Mapping[str, pd.DataFrame], kind: str) -> Figure:
    """Mean score over heads (left) and share of the top heads (right) of several runs by the depth of the layer;
    bands: 95 % over examples. Grey: the middle third, where Paper A finds the RFHs, of each number of layers. Only
    layers with ranked heads."""
    figure, axes = style.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, (measure, label) in zip(
        axes, (("mean", f"mean {readable(kind)} score"), ("top_share", "share of the top heads")), strict=True
    ):
        for n in sorted({int(table["layer"].max()) + 1 for table in layers.values()}):
            middle = middle_third(n)
            axis.axvspan(middle.start / n, middle.stop / n, color=style.GREY, alpha=0.15, lw=0)
        for i, (name, table) in enumerate(layers.items()):
            of = table[table["kind"] == kind].sort_values("layer")
            ranked = of[(of["measure"] == "mean") & of["value"].notna()]["layer"]
            rows = of[(of["measure"] == measure) & of["layer"].isin(ranked)]
            depth = (rows["layer"] + 0.5) / (of["layer"].max() + 1)
            colour, look = COLOURS[i % len(COLOURS)], f"{MARKERS[i % len(MARKERS)]}-"
            curve(axis, depth, rows, colour, label=f"{name} (n = {rows['n'].max()})", look=look, size=3)
        axis.set_xlim(0, 1)
        axis.set_xlabel("depth (0: embedding, 1: unembedding)")
        axis.set_ylabel(label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False, fontsize=7)
    return figure


def _pages(
    numbers: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None], handles: list[Line2D], height: float
) -> Iterator[Figure]:
    """Pages of panels, one for each number that all runs have."""
    runs = set(numbers["run"])
    panels = [(str(name), rows) for name, rows in numbers.groupby("name", sort=False) if set(rows["run"]) == runs]
    for first in range(0, len(panels), PANELS):
        page = panels[first : first + PANELS]
        n_rows = -(-len(page) // COLUMNS)
        size = (3.6 * COLUMNS + 1.2, n_rows * height + 0.6)
        figure, axes = style.subplots(n_rows, COLUMNS, figsize=size, squeeze=False, layout="constrained")
        for axis, (name, rows) in zip(axes.flat, page, strict=False):
            draw(axis, rows)
            axis.set_title(textwrap.fill(readable_text(name), 48), fontsize=8)
            axis.tick_params(labelsize=7)
        for i, axis in enumerate(axes.flat):
            axis.set_visible(i < len(page))
        figure.legend(handles=handles, loc="outside lower center", ncol=4, frameon=False, fontsize=8)
        yield figure


def _runs_downwards(axis: Axes, rows: pd.DataFrame) -> None:
    places = range(len(rows))[::-1]
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        for prefix, colour, mark, shift in (("", style.BLUE, "o", 0.12), ("control_", style.ORANGE, "s", -0.16)):
            # A control that is known exactly has no interval and is no less sure for that.
            face = colour if prefix else None
            of = {"n": row["n"]} | {key: row[f"{prefix}{key}"] for key in ("value", "low", "high")}
            point(axis, Estimate.of(of), place + shift, colour, marker=mark, size=4, face=face)
    first_column = axis.get_subplotspec().is_first_col()  # type: ignore[union-attr]
    names = [textwrap.fill(str(label), 28) if first_column else "" for label in rows.index]
    labels = [f"{name} (n = {n})".strip() for name, n in zip(names, rows["n"], strict=True)]
    axis.set_yticks(list(places), labels)
    axis.set_ylim(-0.6, len(rows) - 0.4)
