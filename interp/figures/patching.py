"""Figures 6, 7 and 8 of Paper A, whole maps, heads, paths and attribution, from pairs.parquet and effects.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from interp.figures import style
from interp.figures.intervals import curve
from interp.heads.scores import Head
from interp.patching.align import Role
from interp.patching.profiles import curves, head_effects, select
from interp.runs.effects import over_examples_by
from interp.runs.names import readable
from interp.runs.store import records
from interp.stats import ANY_LAYER, SAME_LAYERS

ROLE_COLOURS = {
    Role.PHRASE: "#f0f0f0",
    Role.PHRASE_ANSWER: style.ORANGE,
    Role.END_THINK: style.PURPLE,
    Role.ANSWER: "#d0e4f2",
    Role.PREDICTING: style.BLUE,
}
LEAST, MOST = 0.1, 1.25
"""Bounds of the end of the colour scale of NLD: no map makes much of noise, and none pales for one cell."""
PATCHED = "patched token, as the corrupted run has it"
NAMES = {Role.PHRASE_ANSWER: "the phrase's answer", Role.PREDICTING: "the token before the prediction"}


def aligned_pair(pair: Mapping[str, Any], model: str) -> Figure:
    """Paper A, Fig. 6: a clean and a corrupted run, token over token, with what each position is for.

    From a few tokens before the probing phrase to a few behind the close tag, and the end; left out in between: dots.
    """
    rows = [list(pair["clean_tokens"]), list(pair["corrupted_tokens"])]
    all_roles = list(pair["roles"])
    shown = _shown_positions(all_roles)
    figure, axis = style.subplots(figsize=(0.36 * len(shown) + 1.4, 2.3), layout="constrained")
    for y, row in enumerate(rows):
        for x, i in enumerate(shown):
            if i is None:
                axis.text(x + 0.47, y + 0.47, "…", ha="center", va="center")
                continue
            role = all_roles[i]
            colour = ROLE_COLOURS[Role(role)] if role is not None else "white"
            axis.add_patch(Rectangle((x, y), 0.94, 0.94, facecolor=colour, edgecolor=style.GREY, lw=0.5))
            text = "white" if role == Role.PREDICTING else "black"
            axis.text(
                x + 0.47, y + 0.47, style.label(row[i]), rotation=90, ha="center", va="center", fontsize=7, color=text
            )
    axis.set_xlim(0, len(shown))
    axis.set_ylim(2, 0)
    axis.set_yticks([0.47, 1.47], ["clean", "corrupted"])
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    legend = [Rectangle((0, 0), 1, 1, facecolor=c, edgecolor=style.GREY) for c in ROLE_COLOURS.values()]
    labels = [readable(role) for role in ROLE_COLOURS]
    figure.legend(legend, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=7)
    figure.suptitle(f"{model}, pair {pair['example']}: aligned positions", fontsize=9)
    return figure


def _shown_positions(roles: Sequence[str | None], around: int = 8, end: int = 14) -> list[int | None]:
    """Indices to draw, with None for a gap."""
    inside = [i for i, role in enumerate(roles) if role in (Role.PHRASE, Role.PHRASE_ANSWER, Role.END_THINK)]
    first = max(0, inside[0] - around) if inside else max(0, len(roles) - 34)
    behind = inside[-1] + 4 if inside else first
    tail = max(behind, len(roles) - end)
    if tail - behind <= 3:
        return list(range(first, len(roles)))
    return [*range(first, behind), None, *range(tail, len(roles))]


def case(effects: pd.DataFrame, model: str) -> Figure:
    """Paper A, Fig. 7: NLD by layer and key position for one pair: of those with the clearest answers, the first.

    Clear: clean logit difference above 5 and corrupted below -5, as in the paper; else the pair with the largest gap.
    """
    rows = select(effects, "patch_resid_pre").dropna(subset="role")
    example = _clear_case(effects)
    rows = rows[rows["example"] == example]
    table = rows.pivot_table(index="layer", columns="position", values="value")
    tokens = rows.drop_duplicates("position").sort_values("position")
    figure, axis = style.subplots(
        figsize=(0.42 * len(table.columns) + 1.8, np.clip(0.16 * len(table), 2.6, 6.5)), layout="constrained"
    )
    _heatmap(figure, axis, table.to_numpy(), list(table.index))
    axis.set_xticks(range(len(tokens)), [style.label(token) for token in tokens["token"]], rotation=60, ha="right")
    for tick, role in zip(axis.get_xticklabels(), tokens["role"], strict=True):
        tick.set_fontweight("bold" if role in NAMES else "normal")
    axis.set_xlabel(f"{PATCHED}\nbold: the phrase's answer, the token before the prediction", fontsize=8)
    ld = select(effects, "patch_resid_pre", "ld")
    one = records(ld[ld["example"] == example])[0]
    gap = f"logit difference {one['clean']:+.1f} clean, {one['corrupted']:+.1f} corrupted"
    figure.suptitle(f"{model}, pair {example}\n{gap}", fontsize=9)
    return figure


def _clear_case(effects: pd.DataFrame) -> str:
    ld = select(effects, "patch_resid_pre", "ld").drop_duplicates("example")
    clear = ld[(ld["clean"] > 5) & (ld["corrupted"] < -5)]
    if len(clear):
        return str(clear["example"].iloc[0])
    return str(ld["example"].iloc[int((ld["clean"] - ld["corrupted"]).argmax())])


def _heatmap(figure: Figure, axis: Axes, values: np.ndarray, layers: Sequence[int]) -> None:
    """NLD: 0 = nothing, 1 = the clean answer. White is 0 and the darkest red and blue the largest size in the map, at
    least LEAST and at most MOST, beyond which cells have a dot; the bar shows no more than what occurs."""
    limit = style.limit(values, LEAST, MOST)
    image = axis.imshow(values, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    style.mark_beyond(axis, values, limit)
    step = max(1, len(layers) // 10)
    axis.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axis.set_ylabel("layer")
    axis.spines[:].set_visible(False)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    bar = figure.colorbar(image, ax=axis, shrink=0.85)
    bar.ax.set_ylim(max(-limit, min(low, 0.0)), min(limit, max(high, 0.0)) or limit)
    ends = f"{round(low, 2) + 0.0:.2f} to {round(high, 2) + 0.0:.2f}"
    beyond = "; white dots: beyond" if max(high, -low) > limit else ""
    bar.set_label(f"NLD, {ends}{beyond}:\n0 nothing, 1 clean answer", fontsize=7)


def whole_map(effects: pd.DataFrame, example: str, model: str) -> Figure:
    """NLD by layer and position over the whole reasoning and answer of one pair."""
    verified, estimated = (select(effects, f"{verb}_resid_pre") for verb in ("patch", "attribute"))
    verified, estimated = (rows[rows["example"] == example] for rows in (verified, estimated))
    estimated = estimated[estimated["role"].isna()]
    rows = pd.concat([verified, estimated])
    exact, rest = (
        part.pivot_table(index="layer", columns="position", values="value") for part in (verified, estimated)
    )
    table = exact if estimated.empty else exact.combine_first(rest)
    first, last = int(table.columns.min()), int(table.columns.max())
    tokens = rows.drop_duplicates("position").set_index("position")
    stops = tokens["position_end"].astype(int)
    table = table.reindex(columns=range(first, max(last + 1, int(stops.max()))))
    for start in stops.index[stops > stops.index + 1]:  # a window of positions, patched together
        for inside in range(start + 1, stops[start]):
            table[inside] = table[start]
    few = len(table.columns) <= 90
    figure, axis = style.subplots(
        figsize=(np.clip(0.13 * len(table.columns) + 1.8, 5, 14), np.clip(0.16 * len(table), 2.6, 6)),
        layout="constrained",
    )
    _heatmap(figure, axis, table.to_numpy(), list(table.index))
    how = "every position both sides share" if (stops == stops.index + 1).all() else "neighbouring positions together"
    if len(estimated):
        how = "estimated; dots: patched exactly"
        layers = list(table.index)
        places = verified[["layer", "position"]].drop_duplicates()
        dots = [layers.index(layer) for layer in places["layer"]]
        axis.plot(places["position"] - first, dots, ".", color="black", markersize=1.5)
    if few:
        labels = [style.label(tokens["token"].get(p, "")) if p in tokens.index else "" for p in table.columns]
        axis.set_xticks(range(len(table.columns)), labels, rotation=90, fontsize=6)
        axis.set_xlabel(PATCHED)
    else:
        axis.set_xlabel(f"patched position (0 = position {first} of the sequence)")
        for position in tokens.index[tokens["role"].isin(list(NAMES))]:
            axis.axvline(position - first, color=style.GREY, lw=0.5, ls=":")
    figure.suptitle(f"{model}, pair {example}: residual stream, {how}", fontsize=9)
    return figure


def nld_map(nld: np.ndarray, layers: Sequence[int], tokens: Sequence[str], title: str) -> Figure:
    """NLD by layer and position, from an array [layer, position]."""
    figure, axis = style.subplots(
        figsize=(np.clip(0.13 * len(tokens) + 1.8, 4, 14), np.clip(0.16 * len(layers), 2.6, 6)), layout="constrained"
    )
    _heatmap(figure, axis, nld, list(layers))
    if len(tokens) <= 90:
        axis.set_xticks(range(len(tokens)), [style.label(token) for token in tokens], rotation=90, fontsize=6)
    axis.set_xlabel("patched token")
    figure.suptitle(title, fontsize=9)
    return figure


def hand_over_curves(effects: pd.DataFrame, rfhs: Sequence[Head], model: str) -> Figure:
    """Paper A, Fig. 8: NLD against layer, mean over pairs with one SD (band), for the two tokens, with controls."""
    figure, axis = style.subplots(figsize=(5.6, 4.0), layout="constrained")
    n = _hand_over(axis, effects)
    axis.set_ylabel("normalised logit difference")
    layers = sorted({head.layer for head in rfhs})
    top = axis.get_ylim()[1]
    axis.plot(
        layers, [top] * len(layers), "|", color=style.RED, markersize=9, clip_on=False, label="layers of the RFHs"
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    figure.suptitle(f"{model}, n = {n} pairs; band: one SD over pairs", fontsize=9)
    return figure


def hand_overs(effects_by_run: Mapping[str, pd.DataFrame]) -> Figure:
    """The same of several runs, one panel each."""
    names = list(effects_by_run)
    size = (0.8 + 3.6 * len(names), 4.0)
    figure, axes = style.subplots(1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        n = _hand_over(axis, effects_by_run[name])
        axis.set_title(f"{name} (n = {n} pairs)", fontsize=8)
    axes[0, 0].set_ylabel("normalised logit difference")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def _hand_over(axis: Axes, effects: pd.DataFrame) -> int:
    """The curves of one run, and how many pairs it has."""
    n = 0
    for role, colour in ((Role.PHRASE_ANSWER, style.ORANGE), (Role.PREDICTING, style.BLUE)):
        table = curves(effects, role)
        if table.empty:
            continue
        n = len(table)
        mean, sd = table.mean(), table.std(ddof=1)  # of one pair there is none, and no band
        axis.plot(table.columns, mean, "o-", color=colour, markersize=3, label=NAMES[role])
        axis.fill_between(table.columns.astype(float), mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)
        unrelated = curves(effects, role, control="unrelated_pair")
        if not unrelated.empty:
            axis.plot(unrelated.columns, unrelated.mean(), ":", color=colour, label=f"{NAMES[role]}, unrelated pair")
    random = curves(effects, None, control="random_position")
    if not random.empty:
        axis.plot(random.columns, random.mean(), "--", color=style.GREY, label="random positions of the reasoning")
    axis.axhline(0, color="black", lw=0.5)
    axis.set_xlabel("patched layer (residual stream before it)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return n


def head_map(effects: pd.DataFrame, rfhs: Sequence[Head], shape: tuple[int, int], model: str) -> Figure | None:
    """Mean NLD of patching each head's output at the two tokens; boxes: RFHs."""
    found = [(role, head_effects(effects, role, shape)) for role in NAMES]
    known = [(role, values) for role, values in found if values is not None]
    if not known:
        return None
    limit = style.limit(np.stack([values for _, values in known]), LEAST, MOST)
    width = np.clip(0.2 * shape[1], 2.2, 5.0)
    figure, axes = style.subplots(
        1, len(known), figsize=(width * len(known) + 1.4, np.clip(0.19 * shape[0], 2.6, 7.0)), squeeze=False,
        sharey=True, layout="constrained",
    )  # fmt: skip
    for (role, values), axis in zip(known, axes[0], strict=True):
        image = axis.imshow(values, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
        style.mark_beyond(axis, values, limit)
        for head in rfhs:
            place = (head.head - 0.5, head.layer - 0.5)
            axis.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="black", linewidth=1.3))
        axis.set_title(f"at {NAMES[role]}", fontsize=9)
        axis.set_xlabel("head")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("layer")
    figure.colorbar(image, ax=axes[0].tolist()).set_label("mean NLD of one head's output", fontsize=8)
    n = effects["example"].nunique()
    figure.suptitle(f"{model}, n = {n} pairs; boxes: Reasoning-Focus Heads", fontsize=9)
    return figure


def paths(effects: pd.DataFrame, model: str) -> Figure | None:
    """Effect of the phrase's answer by layer: whole, through the RFHs alone, through random heads alone."""
    whole, through, same, any_layer = (
        select(effects, f"{verb}_resid_pre", "nld", Role.PHRASE_ANSWER, control)
        for verb, control in (("patch", None), ("through", None), ("through", SAME_LAYERS), ("through", ANY_LAYER))
    )
    if through.empty:
        return None
    lines = [
        ("whole effect", whole, style.ORANGE, "-"),
        ("through the RFHs only", through, style.RED, "-"),
        ("through random heads of the same layers only", same, style.GREY, "--"),
        ("through random heads of any layer only", any_layer, style.SKY, "--"),
    ]
    figure, axis = style.subplots(figsize=(5.6, 3.5), layout="constrained")
    for name, rows, colour, line in (one for one in lines if len(one[1])):
        points = over_examples_by(rows, "layer")
        curve(axis, points["at"], points, colour, label=name, look=f"o{line}", size=3)
    axis.axhline(0, color="black", lw=0.5)
    axis.set_xlabel("patched layer")
    axis.set_ylabel("NLD, the phrase's answer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(f"{model}, n = {whole['example'].nunique()} pairs; band: 95 % of the mean", fontsize=9)
    return figure


def attribution(effects: pd.DataFrame, model: str) -> Figure | None:
    """Attributed against exact NLD, one point a patch, for the residual stream and for heads."""
    keys = ["example", "layer", "head", "position"]
    panels = []
    for site, title in (("resid_pre", "residual stream"), ("z", "single heads")):
        exact, estimate = (select(effects, f"{verb}_{site}") for verb in ("patch", "attribute"))
        estimate = estimate.dropna(subset="role")  # of estimated maps only the highest are patched too
        both = (
            exact[[*keys, "value"]]
            .fillna({"head": -1})
            .merge(estimate[[*keys, "value"]].fillna({"head": -1}), on=keys, suffixes=("_exact", "_attributed"))
        )
        if len(both):
            panels.append((title, both))
    if not panels:
        return None
    figure, axes = style.subplots(1, len(panels), figsize=(3.5 * len(panels), 3.3), squeeze=False, layout="constrained")
    for (title, both), axis in zip(panels, axes[0], strict=True):
        a, b = both["value_exact"].to_numpy(float), both["value_attributed"].to_numpy(float)
        axis.plot(a, b, ".", color=style.BLUE, markersize=3, alpha=0.35, rasterized=True)
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        axis.plot([low, high], [low, high], color=style.RED, lw=0.8)
        axis.set_title(f"{title} ({len(both)} patches)", fontsize=9)
        axis.set_xlabel("exact NLD")
    axes[0, 0].set_ylabel("attributed NLD")
    n = effects["example"].nunique()
    figure.suptitle(f"{model}, n = {n} pairs; line: equal", fontsize=9)
    return figure
