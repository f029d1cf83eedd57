"""Figures 2 and 3 of Paper A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from interp.figures import style
from interp.heads import Head, head_array, masses_by_segment
from interp.trace import Segment

PANELS = (Segment.BOS, Segment.PROMPT, Segment.REASONING, Segment.ANSWER)


def segment_masses(heads_by_model: Mapping[str, pd.DataFrame]) -> Figure:
    """Paper A, Fig. 2: for each model, box plots over traces of the answer's attention mass to each segment.

    Takes heads.parquet by model. Boxes: quartiles and median; whiskers: 5th to 95th percentile; dots: the mean.
    """
    names = list(heads_by_model)
    figure, axes = plt.subplots(1, len(names), figsize=(0.6 + 3.4 * len(names), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        masses = masses_by_segment(heads_by_model[name])
        columns = [masses[column].dropna().to_numpy() for column in masses]
        boxes = axis.boxplot(
            columns, whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6, medianprops={"color": "black"}
        )
        for box in boxes["boxes"]:
            box.set(facecolor=style.BLUE, alpha=0.45, edgecolor="black")
        means = [column.mean() if len(column) else np.nan for column in columns]
        axis.plot(range(1, len(means) + 1), means, "o", color=style.RED, markersize=4, label="mean")
        for x, column in enumerate(columns, start=1):
            if not len(column):
                axis.text(x, 0.02, "none", ha="center", va="bottom", fontsize=7, color=style.GREY)
        axis.set_xticks(range(1, len(means) + 1), [str(s) for s in Segment], rotation=35, ha="right")
        axis.set_title(f"{name} (n = {len(masses)} traces)")
        axis.set_xlabel("attended segment")
        axis.set_ylim(0, 1)
    axes[0, 0].set_ylabel("attention mass from the answer\n(mean over all heads)")
    axes[0, 0].legend(frameon=False, loc="upper left")
    figure.tight_layout()
    return figure


def head_masses(heads: pd.DataFrame, top: Sequence[Head], model: str, score_name: str) -> Figure:
    """Paper A, Fig. 3: layer x head maps of the answer's mass to four segments; boxes round the top heads."""
    first = head_array(heads, heads["answer_reasoning"])
    n_examples, n_layers, n_heads = first.shape
    width = np.clip(0.16 * n_heads, 1.7, 5.0)
    figure, axes = plt.subplots(
        1,
        len(PANELS),
        figsize=(1.2 + width * len(PANELS), np.clip(0.19 * n_layers, 2.4, 7.5)),
        sharey=True,
        layout="constrained",
    )
    for axis, segment in zip(axes, PANELS, strict=True):
        values = head_array(heads, heads[f"{Segment.ANSWER}_{segment}"])
        known = ~np.isnan(values).all(axis=0)
        mean = np.full(values.shape[1:], np.nan)
        mean[known] = np.nanmean(values[:, known], axis=0)
        image = axis.imshow(mean, vmin=0, vmax=1, cmap=style.SEQUENTIAL, aspect="auto", origin="lower")
        if not known.any():
            axis.text(0.5, 0.5, f"no {segment} token", ha="center", va="center", transform=axis.transAxes)
        for head in top:
            axis.add_patch(
                Rectangle((head.head - 0.5, head.layer - 0.5), 1, 1, fill=False, edgecolor=style.RED, linewidth=1.4)
            )
        axis.set_title(f"answer → {segment}")
        axis.set_xlabel("head")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("mean attention mass")
    figure.suptitle(f"{model}, n = {n_examples} traces; boxes: top {len(top)} heads by {score_name}")
    return figure
