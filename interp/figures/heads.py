"""Figures 2 and 3 of Paper A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from interp.figures import style
from interp.figures.intervals import counted, curve, none_here
from interp.heads.ranking import middle_third
from interp.heads.scores import Head, head_array, masses_by_segment
from interp.runs.names import readable
from interp.runs.store import records
from interp.text.trace import Segment

PANELS = (Segment.BOS, Segment.PROMPT, Segment.REASONING, Segment.ANSWER)


def segment_masses(heads_by_model: Mapping[str, pd.DataFrame]) -> Figure:
    """Paper A, Fig. 2: for each model, box plots over traces of the answer's attention mass to each segment.

    Takes heads.parquet by model. Boxes: quartiles and median; whiskers: 5th to 95th percentile; dots: the mean.
    """
    names = list(heads_by_model)
    figure, axes = style.subplots(1, len(names), figsize=(0.6 + 3.4 * len(names), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        masses = masses_by_segment(heads_by_model[name])
        columns = [masses[column].dropna().to_numpy() for column in masses]
        boxes = axis.boxplot(
            columns, whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6, medianprops={"color": "black"}
        )
        for box in boxes["boxes"]:
            box.set(facecolor=style.BLUE, alpha=0.45, edgecolor="black")
        means = [column.mean() if len(column) else np.nan for column in columns]
        axis.plot(range(1, len(means) + 1), means, "o", color=style.RED, markersize=4)
        for x, column in enumerate(columns, start=1):
            if not len(column):
                none_here(axis, x, 0.02)
        axis.set_xticks(range(1, len(means) + 1), [readable(s) for s in Segment], rotation=35, ha="right")
        axis.set_title(f"{name} (n = {len(masses)} traces)")
        axis.set_xlabel("attended segment (dot: mean)")
        axis.set_ylim(0, 1)
    axes[0, 0].set_ylabel("attention mass from the answer\n(mean over all heads)")
    figure.tight_layout()
    return figure


MARKS = {"induction": ("o", style.ORANGE, 7.5), "retrieval": ("^", "white", 3.5)}
"""Sign, colour and size; the smaller one is drawn on the larger one."""


def head_masses(
    heads: pd.DataFrame,
    top: Sequence[Head],
    model: str,
    score_name: str,
    marks: Mapping[str, Sequence[Head]] | None = None,
) -> Figure:
    """Paper A, Fig. 3: layer x head maps of the answer's mass to four segments, on one scale from 0 to the largest mean
    mass of a head to anything but the first token, a sink; cells beyond it have a dot.

    Boxes: the top heads; circles: top induction heads; triangles: top retrieval heads.
    """
    first = head_array(heads, heads["answer_reasoning"])
    n_examples, n_layers, n_heads = first.shape
    width = np.clip(0.16 * n_heads, 1.7, 5.0)
    figure, axes = style.subplots(
        1,
        len(PANELS),
        figsize=(1.2 + width * len(PANELS), np.clip(0.19 * n_layers, 2.6, 7.5)),
        sharey=True,
        layout="constrained",
    )
    means = {segment: _mean_mass(heads, segment) for segment in PANELS}
    scaled = [mean for segment, mean in means.items() if segment != Segment.BOS and _known(mean)]
    top_mass = max((float(np.nanmax(mean)) for mean in scaled), default=1.0)
    for axis, (segment, mean) in zip(axes, means.items(), strict=True):
        image = axis.imshow(mean, vmin=0, vmax=top_mass, cmap=style.SEQUENTIAL, aspect="auto", origin="lower")
        if _known(mean):
            style.mark_beyond(axis, mean, top_mass)
            _mark_heads(axis, top, marks or {})
        else:
            axis.text(0.5, 0.5, f"no {readable(segment)}", ha="center", va="center", transform=axis.transAxes)
        axis.set_title(f"answer → {readable(segment)}", fontsize=9)
        axis.set_xlabel("head")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel("layer")
    more = any((np.nan_to_num(mean) > top_mass).any() for mean in means.values())
    bar = figure.colorbar(image, ax=axes, extend="max" if more else "neither")
    bar.set_label(f"mean attention mass, 0 to {top_mass:.2g}{'; dots: more' if more else ''}", fontsize=8)
    names = {"o": "circles", "^": "triangles"}
    signs = [
        f"{names[MARKS[kind][0]]}: top {len(places)} {kind} heads" if places else f"no {kind} head above the floor"
        for kind, places in (marks or {}).items()
    ]
    boxes = f"boxes: top {len(top)} heads by {score_name}"
    figure.suptitle(f"{model}, n = {n_examples} traces\n{'; '.join([boxes, *signs])}", fontsize=9)
    return figure


def _mark_heads(axis: Axes, top: Sequence[Head], marks: Mapping[str, Sequence[Head]]) -> None:
    for head in top:
        place = (head.head - 0.5, head.layer - 0.5)
        axis.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=style.RED, linewidth=1.4))
    for kind, places in marks.items():
        sign, colour, size = MARKS[kind]
        x, y = [head.head for head in places], [head.layer for head in places]
        axis.plot(x, y, sign, color=colour, markersize=size, markeredgecolor="black", markeredgewidth=0.6)


def _mean_mass(heads: pd.DataFrame, segment: Segment) -> Float[np.ndarray, "layer head"]:
    """Mean over traces of the answer's mass to a segment; NaN where no trace has it."""
    values = head_array(heads, heads[f"{Segment.ANSWER}_{segment}"].astype(float))
    known = ~np.isnan(values).all(axis=0)
    mean = np.full(values.shape[1:], np.nan)
    mean[known] = np.nanmean(values[:, known], axis=0)
    return mean


def _known(values: Float[np.ndarray, "layer head"]) -> bool:
    return bool(np.isfinite(values).any())


def layer_profile(layers: pd.DataFrame, score: str, model: str) -> Figure:
    """By layer: the mean score over heads (left) and the share of the top heads (right), 95 % bands over examples.

    Grey: the middle third of the layers, where Paper A finds the RFHs.
    """
    rows = layers[layers["kind"] == score]
    n_layers = int(rows["layer"].max()) + 1
    middle = middle_third(n_layers)
    figure, axes = style.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
    for axis, (measure, label) in zip(
        axes, (("mean", f"mean {readable(score)} score"), ("top_share", "share of the top heads")), strict=True
    ):
        of = rows[rows["measure"] == measure].sort_values("layer")
        axis.axvspan(middle.start - 0.5, middle.stop - 0.5, color=style.GREY, alpha=0.15, lw=0)
        curve(axis, of["layer"], of, style.BLUE, size=3, alpha=0.25)
        axis.set_xlim(-0.5, n_layers - 0.5)  # all layers, of which not all need to be ranked
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(
        f"{model}, n = {rows['n'].max()} examples; band: 95 % over examples; grey: middle third", fontsize=9
    )
    return figure


def ranking_stability(ranking: pd.DataFrame, score: str, model: str, shown: int = 24) -> Figure:
    """The best heads by the score: value with its 95 % interval, and how often resampling keeps them in the top k."""
    of_kind = ranking[ranking["kind"] == score].sort_values("rank")
    rows, k = of_kind.head(shown), int(of_kind["top"].sum())
    names = [f"({layer},{head})" for layer, head in zip(rows["layer"], rows["head"], strict=True)]
    x = np.arange(len(rows))
    figure, (upper, lower) = style.subplots(
        2, 1, figsize=(max(4.5, 0.3 * len(rows) + 1), 4.2), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    value = rows["value"].to_numpy(float)
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    colours = [style.RED if top else style.GREY for top in rows["top"]]
    upper.scatter(x, value, color=colours, s=14, zorder=3)
    upper.vlines(x, low, high, color=colours)
    upper.set_ylabel(f"{readable(score)} score")
    lower.bar(x, rows["inclusion"].astype(float), color=colours)
    lower.set_ylabel("share of resamples\namong the top")
    lower.set_ylim(0, 1)
    lower.set_xticks(x, names, rotation=90, fontsize=7)
    lower.set_xlabel("(layer, head)")
    figure.suptitle(
        f"{model}, n = {counted(rows['n'], 'traces')}; red: the top {k}; bars: 95 % over traces",
        fontsize=9,
    )
    return figure


def overlaps(table: pd.DataFrame, model: str) -> Figure:
    """How many heads two lists share, with what chance expects below; bold: p < .05 after Benjamini-Hochberg."""
    names = list(dict.fromkeys(table[["first", "second"]].to_numpy().ravel()))
    counts = np.full((len(names), len(names)), np.nan)
    size = 0.62 * len(names) + 2.2
    figure, axis = style.subplots(figsize=(size, size * 0.85), layout="constrained")
    for row in records(table):
        smaller = min(row["n_first"], row["n_second"])
        counts[_cell(row, names)] = row["shared"] / smaller if smaller else np.nan
    image = axis.imshow(counts, vmin=0, vmax=1, cmap=style.SEQUENTIAL)
    for row in records(table):
        i, j = _cell(row, names)
        known = min(row["n_first"], row["n_second"]) > 0
        weight = "bold" if known and row["p_adjusted"] < 0.05 else "normal"
        text = f"{row['shared']}\n({row['expected']:.1f})" if known else "none"
        colour = "white" if counts[i, j] < 0.55 else "black"
        axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour, weight=weight)
    shown = [readable(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=60, ha="right")
    axis.set_yticks(range(len(names)), shown)
    axis.set_xlim(-0.5, len(names) - 1.5)
    axis.set_ylim(len(names) - 0.5, 0.5)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, shrink=0.8).set_label("shared heads /\nlength of the shorter list", fontsize=8)
    figure.suptitle(f"{model}: heads in both lists (by chance)\nbold: q < .05, hypergeometric", fontsize=9)
    return figure


def _cell(row: Mapping[str, Any], names: Sequence[str]) -> tuple[int, int]:
    """Below the diagonal, whichever of the two lists a pair names first."""
    first, second = sorted(names.index(row[key]) for key in ("first", "second"))
    return second, first
