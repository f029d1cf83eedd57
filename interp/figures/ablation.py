"""What cutting heads and attention edges does to the answer: dose curves, single heads, knockout windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from interp.ablation.design import RFH
from interp.ablation.findings import SETS, dose_rows, random_sets
from interp.figures import style
from interp.figures.intervals import curve, point
from interp.heads.scores import Head
from interp.runs.effects import over_examples, over_examples_by
from interp.runs.names import readable
from interp.runs.store import records
from interp.stats import ANY_LAYER, ENOUGH_SETS, LEVEL

COLOURS = {
    "rfh": style.BLUE,
    "induction": style.ORANGE,
    "retrieval": style.GREEN,
    "receiver": style.PURPLE,
    "receiver_sentences": style.PURPLE,
    "greedy": style.RED,
    "trajectory": style.RED,
}
LINES = {
    "rfh": "o-",
    "induction": "s--",
    "retrieval": "^-.",
    "receiver": "D:",
    "receiver_sentences": "d--",
    "trajectory": "v-",
}
LISTS = {"rfh": "RFHs", "greedy": "heads that do most, one by one"}
AXES = {
    "ld": "logit difference, cut minus clean",
    "kl": "KL(clean || cut), nats",
    "flipped": "share of answers no longer likeliest",
    "same_answer": "share of answers that stay",
}


def doses(effects: pd.DataFrame, model: str) -> Figure | None:
    """Each effect against the number of ablated heads, with 95 % intervals over traces, for the kind of ablation and
    rows that the headline numbers are of; behind them the random sets beside the RFHs. None if no list of heads was
    ablated."""
    rows = dose_rows(effects)
    if rows.empty:
        return None
    first = rows.iloc[0]
    part = rows[(rows["intervention"] == first["intervention"]) & (rows["rows"] == first["rows"])]
    metrics = [m for m in AXES if (part["metric"] == m).any()]
    figure, axes = style.subplots(
        1, len(metrics), figsize=(2.9 * len(metrics) + 0.4, 3.1), squeeze=False, layout="constrained"
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        _dose_panel(axis, part[part["metric"] == metric])
        axis.set_xlabel("heads ablated")
        axis.set_title(AXES[metric], fontsize=8, pad=12)
    how = _ablated(str(first["intervention"]), str(first["rows"]))
    figure.suptitle(f"{model}, n = {part['example'].nunique()} traces; {how}\n{SETS_SHOWN}", fontsize=9)
    _dose_legend(figure, axes)
    return figure


def all_doses(effects: pd.DataFrame, model: str) -> Figure | None:
    """The same for every kind of ablation and rows, a column each. None where `doses` shows them all."""
    rows = dose_rows(effects)
    columns = list(rows[["intervention", "rows"]].drop_duplicates().itertuples(index=False, name=None))
    if len(columns) < 2:
        return None
    metrics = [m for m in AXES if (rows["metric"] == m).any()]
    figure, axes = style.subplots(
        len(metrics), len(columns), figsize=(2.5 * len(columns) + 0.8, 2.0 * len(metrics) + 0.6),
        squeeze=False, sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    for column, (intervention, where) in enumerate(columns):
        part = rows[(rows["intervention"] == intervention) & (rows["rows"] == where)]
        for row, metric in enumerate(metrics):
            axis = axes[row][column]
            here = part[part["metric"] == metric]
            if here.empty:
                axis.set_visible(False)  # answers are written anew under one kind of ablation only
                continue
            _dose_panel(axis, here)
            axis.tick_params(labelbottom=True)
            below = [m for m in metrics[row + 1 :] if (part["metric"] == m).any()]
            if not below:
                axis.set_xlabel("heads ablated")
            if row == 0:
                axis.set_title(_ablated(intervention, where), fontsize=8, pad=12)
            if column == 0:
                axis.set_ylabel(AXES[metric], fontsize=7.5)
    figure.suptitle(f"{model}, n = {rows['example'].nunique()} traces\n{SETS_SHOWN}", fontsize=9)
    _dose_legend(figure, axes)
    return figure


HOW = {"zero": "set to zero", "mean": "set to their mean", "resample": "taken from another trace"}


def _ablated(intervention: str, rows: str) -> str:
    kind = intervention.removeprefix("ablate_head_")
    return f"{HOW.get(kind, kind)}, {'all' if rows == 'all' else rows} rows"


def _dose_legend(figure: Figure, axes: np.ndarray) -> None:
    by_label = {label: of for axis in axes.flat for of, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = min(4, axes.size)
    figure.legend(
        by_label.values(), by_label.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=columns
    )


def _dose_panel(axis: Axes, rows: pd.DataFrame) -> None:
    for n, part in rows[rows["heads_kind"] == RFH].groupby("n_heads"):
        _beside(axis, float(n), part)
    for kind, part in rows[rows["control"].isna()].groupby("heads_kind", sort=False):
        points = over_examples_by(part, "n_heads")
        colour = COLOURS.get(str(kind), style.GREY)
        label = LISTS.get(str(kind), f"{readable(kind)} heads")
        curve(axis, points["at"], points, colour, label=label, look=LINES.get(str(kind), "o-"), alpha=0.15)
    axis.set_xscale("log")
    ticks = sorted(rows["n_heads"].dropna().astype(int).unique())
    axis.set_xticks(ticks, [str(n) for n in ticks], fontsize=7)
    axis.minorticks_off()


SETS_COLOURS = dict.fromkeys(SETS.values(), style.GREY) | {SETS[ANY_LAYER]: style.SKY}
SETS_SHOWN = (
    f"small numbers: random sets beside the RFHs; bars: middle 95 % of {ENOUGH_SETS} or more, with their "
    "mean; dots: single ones"
)


def _beside(axis: Axes, n: float, rows: pd.DataFrame) -> None:
    """The random sets beside one dose. Sets, not traces, are what chance chooses: of few there is no 95 %, and each
    dose has its own kind, so that no line goes from one to the next."""
    kind, sets = random_sets(rows)
    if kind is None:
        return
    colour = SETS_COLOURS[kind]
    axis.plot([], [], "s", color=colour, alpha=0.6, label=kind)
    if len(sets) < ENOUGH_SETS:
        axis.plot([n] * len(sets), sets, ".", color=colour, markersize=4, alpha=0.8, zorder=3)
    else:
        axis.vlines(n, *np.quantile(sets, [LEVEL / 2, 1 - LEVEL / 2]), color=colour, alpha=0.45, linewidth=6)
        axis.plot(n, float(sets.mean()), "_", color=colour, markersize=9)
    axis.annotate(
        str(len(sets)), (n, 1), (0, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="center", va="bottom", fontsize=6, color=colour, annotation_clip=False,
    )  # fmt: skip


def single_heads(
    effects: pd.DataFrame, lists: Mapping[str, Sequence[Head]], shape: tuple[int, int], model: str
) -> Figure | None:
    """Layer x head: what cutting each head alone does to the answer's logit difference; boxes: the RFHs that the
    claims are about, of both halves of the traces. None if heads were not cut alone."""
    alone = effects[effects["head"].notna() & (effects["metric"] == "ld")]
    if alone.empty:
        return None
    values = np.full(shape, np.nan)
    for row in records(alone.groupby(["layer", "head"])["value"].mean().reset_index()):
        values[int(row["layer"]), int(row["head"])] = row["value"]
    most = max(1e-9, float(np.nanmax(np.abs(values))))
    figure, axis = style.subplots(figsize=(0.45 * shape[1] + 2.2, 0.32 * shape[0] + 1.4))
    image = axis.imshow(values, cmap=style.DIVERGING, norm=TwoSlopeNorm(0, -most, most), aspect="auto", origin="lower")
    boxed = lists.get(RFH, ())
    for head in boxed:
        axis.add_patch(Rectangle((head.head - 0.5, head.layer - 0.5), 1, 1, fill=False, linewidth=1.8))
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    n = alone["example"].nunique()
    axis.set_title(f"{model}: one head cut at answer rows, n = {n}; boxes: RFHs", fontsize=8)
    figure.colorbar(image, ax=axis, label=f"{AXES['ld']}\n(at most {most:.2g})")
    figure.tight_layout()
    return figure


def windows(effects: pd.DataFrame, model: str) -> Figure | None:
    """Attention edges cut in a window of layers, against its first layer; dotted: cut in all layers. None without."""
    cut = effects[effects["intervention"].str.startswith("knockout_") & effects["heads_kind"].isna()]
    inside = cut[cut["layer"].notna()]
    if inside.empty:
        return None
    metrics = [m for m in ("ld", "kl", "flipped") if (inside["metric"] == m).any()]
    figure, axes = style.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 3.2), squeeze=False)
    colours = dict(zip(_edges(cut), (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.RED), strict=False))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for name, part in inside[inside["metric"] == metric].groupby("intervention", sort=False):
            edge, scaled = _edge(str(name)), not str(name).endswith("_unscaled")
            points = over_examples_by(part, "layer")
            label = _spoken(str(name))
            colour = colours.get(edge, style.GREY)
            curve(axis, points["at"], points, colour, label=label, look="o-" if scaled else "s--", alpha=0.12)
            whole = cut[(cut["intervention"] == name) & cut["layer"].isna() & (cut["metric"] == metric)]["value"].mean()
            if scaled:
                axis.axhline(whole, color=colour, linewidth=0.9, linestyle=":")
        axis.set_xlabel("first layer of the window")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylabel(AXES[metric], fontsize=8)
    width = int((inside["layer_end"] - inside["layer"]).iloc[0])
    axes[0][-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    n = inside["example"].nunique()
    layers = "1 layer" if width == 1 else f"{width} layers from there on"
    figure.suptitle(f"{model}: edges cut in {layers}, n = {n}; dotted: in all layers", fontsize=9)
    figure.tight_layout()
    return figure


def _spoken(name: str) -> str:
    source, _, target = _edge(name).partition("_")
    return f"{readable(source)} → {readable(target)}" + (", not rescaled" if name.endswith("_unscaled") else "")


def _edge(name: str) -> str:
    return name.removeprefix("knockout_").removesuffix("_unscaled")


def _edges(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(_edge(name) for name in rows["intervention"]))


def whole(effects: pd.DataFrame, model: str) -> Figure | None:
    """What whole knockouts do: tokens flipped and answers that stay the same. None without."""
    cut = effects[
        effects["intervention"].str.startswith("knockout_") & effects["heads_kind"].isna() & effects["layer"].isna()
    ]
    metrics = [m for m in ("flipped", "same_answer", "correct") if (cut["metric"] == m).any()]
    if cut.empty or not metrics:
        return None
    names = list(cut["intervention"].unique())
    titles = {**AXES, "correct": "change of accuracy"}
    figure, axes = style.subplots(
        1, len(metrics), figsize=(3.0 * len(metrics) + 1.6, 0.9 + 0.36 * len(names)), sharey=True, squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        for place, name in enumerate(reversed(names)):
            estimate = over_examples(cut[(cut["intervention"] == name) & (cut["metric"] == metric)])
            point(axis, estimate, place, style.BLUE)
        axis.set_yticks(range(len(names)), [_spoken(name) for name in names][::-1], fontsize=8)
        axis.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_xlabel(titles[metric], fontsize=8)
    figure.suptitle(f"{model}: edges cut in all heads, n = {cut['example'].nunique()}", fontsize=9)
    figure.tight_layout()
    return figure
