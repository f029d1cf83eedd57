"""Paper B's Table 1 and Fig. 3: what forced tokens do, by where they are forced, and which score foretells it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from interp.figures import style
from interp.figures.intervals import counted, handle, point
from interp.perturb.overlap import Group
from interp.perturb.tables import groups_of, problems_of
from interp.runs.names import readable
from interp.runs.store import records
from interp.stats import Estimate

METRICS = {
    "jaccard": "Jaccard overlap",
    "edit_distance": "edit distance",
    "answer_changed": "another answer",
    "correct_changed": "right or wrong changed",
}
GROUPS = {
    "top": "highest values",
    "bottom": "lowest values",
    "random": "random",
    "position_matched": "of the same position",
    "entropy_matched": "of the same entropy",
}
AS_MEASURED = "as measured; verdicts are net of forcing the trace's own token"
COLOURS = {
    "top": style.BLUE,
    "bottom": style.ORANGE,
    "random": style.GREY,
    "position_matched": style.GREEN,
    "entropy_matched": style.PURPLE,
}


def groups(perturbed: pd.DataFrame, model: str) -> Figure:
    """Table 1: each metric for the positions with the highest values of each score, the lowest, and three controls."""
    metrics = [m for m in METRICS if (perturbed["metric"] == m).any()]
    scores = list(perturbed["score"].unique())
    size = (2.7 * len(metrics) + 1.4, 0.8 + 0.62 * len(scores))
    figure, axes = style.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for i, score in enumerate(reversed(scores)):
            here = perturbed[(perturbed["score"] == score) & (perturbed["metric"] == metric)]
            rows = {row["group"]: row for row in records(here)}
            for j, (group, colour) in enumerate(COLOURS.items()):
                if group in rows:
                    point(axis, Estimate.of(rows[group]), i + 0.3 - 0.15 * j, colour, size=4)
        axis.set_yticks(range(len(scores)), [readable(s) for s in reversed(scores)])
        axis.set_xlabel(METRICS[metric], fontsize=8)
    handles = [handle(colour, GROUPS[group]) for group, colour in COLOURS.items() if group in set(perturbed["group"])]
    axes[0][-1].legend(
        handles=handles, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="positions"
    )
    axes[0][0].set_ylabel("chosen by")
    figure.suptitle(f"{model}, n = {counted(perturbed['n'], 'problems')}; {AS_MEASURED}", fontsize=9)
    figure.tight_layout()
    return figure


def problems(effects: pd.DataFrame, tokens: pd.DataFrame, k: int, seed: int, model: str) -> Figure | None:
    """Fig. 3: for each problem the mean Jaccard overlap at its k positions of highest and of lowest FAI, the groups of
    perturbed.parquet; below the diagonal, high-FAI tokens change more. None where not all of these were forced."""
    high, low = [], []
    for one in problems_of(tokens, effects, ["fai"]):
        groups = groups_of(one.scores, "fai", k, seed, one.example)
        top, bottom = (one.effects["jaccard"][groups[group]] for group in (Group.TOP, Group.BOTTOM))
        if len(top) and not np.isnan([*top, *bottom]).any():
            high.append(top.mean())
            low.append(bottom.mean())
    if not high:
        return None
    figure, axis = style.subplots(figsize=(3.6, 3.6))
    axis.plot([0, 1], [0, 1], ":", color=style.GREY, linewidth=0.9)
    axis.plot(low, high, "o", color=style.BLUE, alpha=0.6, markersize=5)
    axis.set_xlabel(f"mean Jaccard overlap,\n{k} tokens of lowest FAI", fontsize=8)
    axis.set_ylabel(f"mean Jaccard overlap,\n{k} tokens of highest FAI", fontsize=8)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_title(f"{model}, {len(high)} problems\n{AS_MEASURED}", fontsize=8)
    figure.tight_layout()
    return figure


def predictors(table: pd.DataFrame, model: str) -> Figure | None:
    """How well each score foretells the effect of a forced token over all positions: mean rank correlation over
    problems with 95 % intervals, by itself (filled) and given position and entropy (open)."""
    rows = table[table["metric"].isin(METRICS)]
    if rows.empty:
        return None
    metrics = [m for m in METRICS if (rows["metric"] == m).any()]
    scores = list(rows["score"].unique())
    size = (2.6 * len(metrics) + 1.2, 0.9 + 0.42 * len(scores))
    figure, axes = style.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for row in records(rows[rows["metric"] == metric]):
            alone = row["given"] == "nothing"
            place = len(scores) - 1 - scores.index(row["score"]) + (0.13 if alone else -0.13)
            point(axis, Estimate.of(row), place, style.BLUE, face=style.BLUE if alone else "white")
        axis.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_yticks(np.arange(len(scores)), [readable(s) for s in reversed(scores)])
        axis.set_xlabel(f"rank correlation with\n{METRICS[metric]}", fontsize=8)
    n = counted(rows["n"], "problems")
    figure.suptitle(f"{model}, n = {n}; filled: alone, open: given position and entropy", fontsize=9)
    figure.tight_layout()
    return figure


def group_table(perturbed: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with all scores, groups and metrics."""
    return perturbed.drop(columns=["experiment", "model", "data", "seed"]).reset_index(drop=True)
