"""Paper B's Fig. 2 (maps and curves) and Tables 2 and 10 as figures, with nulls, lags, peak shares and boundaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from interp.figures import style
from interp.figures.intervals import counted, curve, none_here, point, share_bar
from interp.figures.maps import NOTHING, dense_rows, root_bar, root_map, root_scale, token_margin
from interp.rhythm.couplings import Coupling
from interp.rhythm.published import LIFTS
from interp.runs.names import readable
from interp.runs.store import records
from interp.stats import Estimate

CURVE_TOKENS = 64
"""How many tokens the curves show: as many as have room for their labels."""
LEAST = 1e-3
"""Curves below it are drawn in a power of ten."""
NO_CURVE = 1e-6
"""Curves below it are flat, without peaks: attention of that size is rounding."""
LABELS = {
    Coupling.ENTROPY: "(1) entropy at WAAD peaks",
    Coupling.RECEIVER: "(2) receiver peaks that are FAI peaks",
    Coupling.FOLLOWING: "(3) FAI peaks at or after WAAD peaks",
}
CURVES = {
    "receiver_fai": ("FAI by receiver heads", "receiver_peak", style.PURPLE),
    "fai_to_end": ("FAI by global heads", "fai_peak", style.BLUE),
    "waad": ("WAAD, tokens", "waad_peak", style.RED),
    "entropy": ("entropy, nats", None, style.GREY),
}


def maps_of_sets(maps: pd.DataFrame, tokens: pd.DataFrame, model: str) -> Figure:
    """Fig. 2 left: the mean pattern of the local and of the global heads within the first trace's response, its tokens
    at the margins. The colour is the square root of the weight, on one scale; cells beyond are white.

    Takes maps.parquet and tokens.parquet.
    """
    sets = list(maps["head_set"].unique())
    start = int(maps["position"].min())
    drawn = [dense_rows(maps[maps["head_set"] == name])[:, start:] for name in sets]
    scale = root_scale(np.concatenate([weights[weights > 0] for weights in drawn]))
    of_trace = tokens[tokens["example"] == maps["example"].iloc[0]].set_index("position")["token"]
    texts = [str(of_trace.get(start + place, "")) for place in range(drawn[0].shape[1])]
    figure, axes = style.subplots(1, len(sets), figsize=(4.4 * len(sets), 4.2), squeeze=False, layout="constrained")
    for axis, name, weights in zip(axes[0], sets, drawn, strict=True):
        image = root_map(axis, weights, scale, (0, 0))
        largest = float(weights.max())
        said = "" if largest >= NOTHING else ": next to nothing"
        axis.set_title(f"{name} heads, largest weight {largest:.2g}{said}", fontsize=9)
        axis.set_xlabel("attended token of the response")
        token_margin(axis, texts, 0, weights.max(axis=0), below=True)
        token_margin(axis, texts, 0, weights.max(axis=1), below=False)
    axes[0][0].set_ylabel("token of the response")
    root_bar(figure, image, axes)
    figure.suptitle(f"{model}, first trace", fontsize=9)
    return figure


def curves(tokens: pd.DataFrame, model: str) -> Figure:
    """Fig. 2 right: along the first trace's response, FAI by receiver and by global heads, WAAD and entropy, with peaks
    marked, grey lines where sentences begin, and tokens as labels."""
    first = tokens[tokens["example"] == tokens["example"].iloc[0]].head(CURVE_TOKENS)
    x = np.arange(len(first))
    figure, axes = style.subplots(len(CURVES), 1, figsize=(max(6.0, 0.15 * len(first) + 1.5), 6.2), sharex=True)
    for axis, (column, (label, peaks, colour)) in zip(axes, CURVES.items(), strict=True):
        values = first[column].to_numpy(dtype=float)
        for start in x[first["sentence_start"].to_numpy(dtype=bool)]:
            axis.axvline(start, color="#cccccc", linewidth=0.7, zorder=0)
        largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        axis.plot(x, values, color=colour, linewidth=1.1)
        if largest < NO_CURVE:
            axis.set_ylim(-NO_CURVE, NO_CURVE)
            axis.set_yticks([0])
            axis.text(
                0.5, 0.6, f"next to nothing, {largest:.1g} at most", transform=axis.transAxes, ha="center", fontsize=7
            )
        elif peaks is not None:
            marked = first[peaks].to_numpy(dtype=bool)
            axis.plot(x[marked], values[marked], "v", color=colour, markersize=5, markeredgecolor="black")
        if NO_CURVE <= largest < LEAST:  # no power of ten above the axis, where the next panel's ticks are
            power = int(np.floor(np.log10(largest)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _, power=power: f"{y / 10.0**power:.1f}"))
            label = f"{label}\n(times 1e{power})"
        axis.set_ylabel(label, fontsize=7)
        axis.tick_params(labelsize=7)
        axis.margins(y=0.15)
    labels = [style.label(token) for token in first["token"]]
    axes[-1].set_xticks(x, labels, rotation=90, fontsize=6.5)
    axes[-1].set_xlim(-0.7, len(first) - 0.3)
    axes[0].set_title(f"{model}, first trace; triangles: peaks; lines: beginnings of sentences", fontsize=8)
    figure.align_ylabels(axes)
    figure.tight_layout()
    return figure


def couplings(table: pd.DataFrame, model: str) -> Figure:
    """Table 2: each coupling with its interval, the mean over all tokens (grey bar) and the middle 95 % under circular
    shifts (grey box), for both horizons, with and without sinks."""
    first = table.iloc[0]
    rows = table[(table["layers"] == first["layers"]) & (table["rule"] == first["rule"])]
    figure, axes = style.subplots(1, len(Coupling), figsize=(10.4, 3.0))
    for axis, coupling in zip(axes, Coupling, strict=True):
        found = records(rows[rows["coupling"] == coupling])
        for place, row in enumerate(reversed(found)):
            low, high = row["null_low"], row["null_high"]
            axis.barh(place, high - low, left=low, height=0.5, color="#dddddd")
            axis.plot([row["baseline"]] * 2, [place - 0.3, place + 0.3], color=style.GREY, linewidth=2)
            point(axis, Estimate.of(row), place, style.BLUE)
            lift = "" if pd.isna(row["lift"]) else f"{100 * row['lift']:+.0f} %"
            axis.annotate(lift, (row["value"], place + 0.3), ha="center", va="bottom", fontsize=7)
        labels = [f"{_setting(row)} (n = {row['n']})" for row in reversed(found)]
        axis.set_yticks(range(len(found)), labels, fontsize=7)
        axis.set_ylim(-0.6, len(found) - 0.2)
        axis.use_sticky_edges = False  # a bar that begins at 0 leaves room as well
        axis.margins(x=0.12)
        axis.set_title(LABELS[coupling], fontsize=8)
        axis.set_xlabel("nats" if coupling == Coupling.ENTROPY else "share", fontsize=8)
    figure.suptitle(f"{model}; point: at events; grey: all tokens, circular shifts; n: traces", fontsize=8)
    figure.tight_layout()
    return figure


def _setting(row: dict[str, Any]) -> str:
    horizon = "" if pd.isna(row["horizon"]) else f"FAI {readable(row['horizon'])}, "
    return f"{horizon}sinks {row['sinks']}"


def by_layers(table: pd.DataFrame, model: str) -> Figure:
    """Table 10: the lift of each coupling by layers, FAI to the end, filled where the circular-shift p-value is below
    .05 after Benjamini-Hochberg; orange diamonds: published, where the model is the paper's."""
    first = table.iloc[0]
    rows = table[(table["sinks"] == first["sinks"]) & (table["rule"] == first["rule"])]
    rows = rows[rows["horizon"].isna() | (rows["horizon"] == "to_end")]
    figure, axes = style.subplots(1, len(Coupling), figsize=(10.4, 0.9 + 0.38 * rows["layers"].nunique()), sharey=True)
    names = list(rows["layers"].unique())[::-1]
    for axis, coupling in zip(axes, Coupling, strict=True):
        for row in records(rows[rows["coupling"] == coupling]):
            place = names.index(row["layers"])
            face = style.BLUE if row["p_adjusted"] < 0.05 else "white"
            lift = {
                end: 100 * row[name] for end, name in (("value", "lift"), ("low", "lift_low"), ("high", "lift_high"))
            }
            point(axis, Estimate.of({**lift, "n": row["n"]}), place, style.BLUE, face=face)
            published = LIFTS.get(model, {}).get(row["layers"], {}).get(coupling)
            if published is not None:
                axis.plot(100 * published, place, "D", color=style.ORANGE, markersize=5)
        axis.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(names)), [f"{name} layers" for name in names], fontsize=8)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlabel("above all tokens, %", fontsize=8)
        axis.set_title(LABELS[coupling], fontsize=8)
        axis.margins(x=0.08)
    n = counted(rows["n"], "traces")
    figure.suptitle(f"{model}, n = {n}, FAI to the end; filled: q < .05 against circular shifts", fontsize=8)
    figure.tight_layout()
    return figure


def lags(table: pd.DataFrame, model: str) -> Figure:
    """Each curve around WAAD peaks, relative to its mean over the trace, with 95 % intervals; grey: circular shifts."""
    names = list(table["curve"].unique())
    figure, axes = style.subplots(1, len(names), figsize=(3.5 * len(names), 2.8), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = table[table["curve"] == name]
        label, _, colour = CURVES[name]
        axis.axhspan(rows["null_low"].iloc[0], rows["null_high"].iloc[0], color="#dddddd")
        curve(axis, rows["lag"], rows, colour, size=3)
        axis.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_title(f"{label.split(',')[0]} (n = {counted(rows['n'], 'traces')})", fontsize=9)
        axis.set_xlabel("tokens after a WAAD peak")
    axes[0][0].set_ylabel("relative to the trace's mean")
    figure.suptitle(model, fontsize=9)
    figure.tight_layout()
    return figure


def by_share(table: pd.DataFrame, model: str) -> Figure | None:
    """The lift of each coupling against the share of tokens that count as peaks; None if that was not computed."""
    rows = table[(table["rule"] == "quantile") & table["share"].notna()]
    if rows.empty:
        return None
    figure, axes = style.subplots(1, len(Coupling), figsize=(10.4, 2.8))
    for axis, coupling in zip(axes, Coupling, strict=True):
        here = rows[rows["coupling"] == coupling]
        for (horizon, part), colour in zip(
            here.groupby("horizon", dropna=False), (style.BLUE, style.ORANGE), strict=False
        ):
            label = None if pd.isna(horizon) else f"FAI {readable(horizon)}"
            lifts = 100 * part[["lift", "lift_low", "lift_high"]].astype(float)
            curve(axis, part["share"], lifts.set_axis(["value", "low", "high"], axis=1), colour, label=label)
        if coupling != Coupling.ENTROPY:
            axis.legend(frameon=False, fontsize=7)
        axis.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_xlabel("share of tokens that are peaks")
        axis.set_title(LABELS[coupling], fontsize=8)
    axes[0].set_ylabel("above all tokens, %")
    figure.suptitle(f"{model}, n = {counted(rows['n'], 'traces')}; band: 95 %", fontsize=9)
    figure.tight_layout()
    return figure


def token_types(table: pd.DataFrame, model: str) -> Figure:
    """Which types of tokens are peaks, beside their share of all tokens."""
    shares = ["share of tokens", "share of waad_peaks", "share of fai_peaks", "share of receiver_peaks"]
    kinds = list(table["type"].unique())
    figure, axis = style.subplots(figsize=(6.6, 2.9))
    colours = (style.GREY, style.RED, style.BLUE, style.PURPLE)
    handles = []
    for j, (measure, colour) in enumerate(zip(shares, colours, strict=True)):
        found = {row["type"]: Estimate.of(row) for row in records(table[table["measure"] == measure])}
        for i, kind in enumerate(kinds):
            x = i + (j - 1.5) * 0.2
            if kind in found:
                share_bar(axis, found[kind], x, 0.18, colour)
            else:
                none_here(axis, x, 0.004, rotation="vertical")
        name = readable(measure.removeprefix("share of "))
        most = max((share.n for share in found.values()), default=0)
        label = f"of {'all ' if name == 'tokens' else ''}{name} (n = {most})"
        handles.append(Rectangle((0, 0), 1, 1, facecolor=colour, label=label))
    axis.set_xticks(range(len(kinds)), [readable(kind) for kind in kinds])
    axis.set_xlim(-0.5, len(kinds) - 0.5)
    axis.set_ylabel("share, with 95 % interval")
    axis.set_title(f"{model}; n: traces that have such tokens", fontsize=9)
    axis.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def boundaries(table: pd.DataFrame, model: str) -> Figure:
    """Precision and recall of WAAD peaks for boundaries; grey bars: peaks at random places."""
    figure, axes = style.subplots(1, 2, figsize=(8.4, 0.8 + 0.3 * len(table) / 2), sharey=True)
    for axis, measure in zip(axes, ("precision", "recall"), strict=True):
        rows = records(table[table["measure"] == measure])[::-1]
        for place, row in enumerate(rows):
            axis.plot([row["chance"]] * 2, [place - 0.3, place + 0.3], color=style.GREY, linewidth=2)
            point(axis, Estimate.of(row), place, style.BLUE)
        labels = [f"{row['boundary']}, {_within(row['tolerance'])} (n = {row['n']})" for row in rows]
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
        axis.set_xlim(0, 1)
        axis.set_xlabel(f"{measure} of WAAD peaks")
    figure.suptitle(f"{model}; grey: peaks at random places", fontsize=9)
    figure.tight_layout()
    return figure


def _within(tolerance: int) -> str:
    """How far off a hit may be."""
    return "exactly there" if tolerance == 0 else f"{tolerance} token{'s' if tolerance > 1 else ''} off at most"


def coupling_table(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Tables 2, 10 and 12: every coupling by layers, sinks and horizon, with the published lift of this model."""
    rows = table[table["rule"] == table["rule"].iloc[0]].copy()
    rows = rows.drop(columns=["experiment", "model", "data", "seed", "share"])
    published = LIFTS.get(model, {})
    rows["published_lift"] = [published.get(row["layers"], {}).get(Coupling(row["coupling"])) for row in records(rows)]
    return rows.reset_index(drop=True)
