"""What the answer makes of changed reasoning, by kind and place, and the way that a change takes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interp.figures import style
from interp.figures.intervals import counted, curve, handle, point
from interp.runs.effects import over_examples_by
from interp.runs.store import records
from interp.stats import Estimate

KINDS = {
    "change_number": ("number changed", style.BLUE),
    "swap_name": ("name swapped", style.ORANGE),
    "delete_step": ("step deleted", style.GREEN),
    "shuffle_step": ("step shuffled", style.RED),
    "paraphrase_step": ("step put into a template", style.PURPLE),
    "reword_step": ("step said in other words", style.SKY),
    "insert_inert": ("sentence without content put in", style.GREY),
}
ROLES = {
    "changed": ("the changed tokens", style.RED),
    "reasoning_after": ("reasoning behind them", style.ORANGE),
    "close": ("close tag", style.GREEN),
    "answer_before": ("answer so far", style.PURPLE),
    "predicting": ("predicting token", style.BLUE),
}
METRICS = {
    "answer_changed": "share of answers that change",
    "follows_corrupted": "share that follow the change",
    "neither": "share that are neither",
}


def kinds(corrupted: pd.DataFrame, model: str) -> Figure:
    """What became of the answer after each kind of change, with 95 % intervals over traces."""
    whole = corrupted[(corrupted["group"] == "all") & corrupted["metric"].isin(METRICS)]
    metrics = [m for m in METRICS if (whole["metric"] == m).any()]
    names = [k for k in KINDS if (whole["kind"] == k).any()]
    size = (2.9 * len(metrics) + 2.4, 0.9 + 0.4 * len(names))
    figure, axes = style.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for row in records(whole[whole["metric"] == metric]):
            place = len(names) - 1 - names.index(row["kind"])
            point(axis, Estimate.of(row), place, KINDS[row["kind"]][1], size=6)
        labels = [f"{KINDS[k][0]} (n = {counted(whole[whole['kind'] == k]['n'])})" for k in reversed(names)]
        axis.set_yticks(range(len(names)), labels)
        axis.set_xlim(-0.05, 1.05)
        axis.set_xlabel(METRICS[metric], fontsize=8)
    figure.suptitle(f"{model}; n: traces", fontsize=9)
    figure.tight_layout()
    return figure


def by_place(corrupted: pd.DataFrame, model: str) -> Figure:
    """Share of answers that change against where in the reasoning the change lies."""
    labels = {"third": "third of the reasoning", "step_from_end": "sentence from the end\n(4 = fourth or earlier)"}
    figure, axes = style.subplots(1, 2, figsize=(8.2, 3.1), sharey=True)
    for axis, (group, label) in zip(axes, labels.items(), strict=True):
        rows = corrupted[(corrupted["group"] == group) & (corrupted["metric"] == "answer_changed")]
        present = [kind for kind in KINDS if (rows["kind"] == kind).any()]
        for j, kind in enumerate(present):
            part = rows[rows["kind"] == kind]
            x = part["value_of_group"].astype(int).to_numpy() + 0.07 * (j - (len(present) - 1) / 2)
            for place, row in zip(x, records(part), strict=True):
                point(axis, Estimate.of(row), place, KINDS[kind][1], along="y", size=4)
            joined = part["value"].where(part["low"].notna())  # what one trace says is joined to nothing
            axis.plot(x, joined.astype(float), color=KINDS[kind][1], linewidth=1)
        axis.set_xticks(sorted(rows["value_of_group"].astype(int).unique()))
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylim(-0.05, 1.05)
    axes[1].invert_xaxis()
    axes[0].set_ylabel("share of answers that change")
    shown = corrupted[corrupted["group"].isin(labels) & (corrupted["metric"] == "answer_changed")]
    handles = [handle(colour, name) for kind, (name, colour) in KINDS.items() if (shown["kind"] == kind).any()]
    axes[1].legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(f"{model}, n = {counted(shown['n'], 'traces')} a point; bars: 95 %", fontsize=9)
    figure.tight_layout()
    return figure


def way(effects: pd.DataFrame, model: str) -> Figure | None:
    """NLD of patching clean activations into the corrupted run, by layer and part of the sequence: 1 = the clean answer
    is back. None if nothing was patched."""
    rows = effects[(effects["intervention"] == "patch_resid_pre") & (effects["metric"] == "nld")]
    if rows.empty:
        return None
    figure, axis = style.subplots(figsize=(5.4, 3.3))
    for role, (name, colour) in ROLES.items():
        part = rows[rows["role"] == role]
        if part.empty:
            continue
        points = over_examples_by(part, "layer")
        curve(axis, points["at"], points, colour, label=name, alpha=0.15)
    axis.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.axhline(1, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("NLD, 1 = the clean answer is back")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis.set_title(f"{model}, n = {rows['example'].nunique()} traces", fontsize=9)
    figure.tight_layout()
    return figure
