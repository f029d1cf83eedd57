"""What each sentence of a reasoning does to the answer, which later sentences need it, and what foretells that."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interp.figures import style
from interp.figures.intervals import counted, handle, none_here, point
from interp.runs.store import records
from interp.stats import Estimate

CAUSAL = {
    "suppressed": ("hidden: nats the answer loses", style.BLUE),
    "demanded": ("answer demanded: nats gained behind it", style.ORANGE),
    "resampled": ("rollouts: share of the same answer gained", style.GREEN),
    "counterfactual": ("another sentence there: share of the same answer lost", style.PURPLE),
    "published_resampled": ("published, resampled: KL", style.SKY),
    "published_counterfactual": ("published, counterfactual: KL", style.RED),
}
SIGNALS = {
    "demanded": "answer demanded",
    "resampled": "rollouts",
    "counterfactual": "another sentence in its place",
    "published_resampled": "published: resampled",
    "published_counterfactual": "published: counterfactual",
    "answer_mass": "attention of the answer",
    "rfh_mass": "attention of the answer's top heads",
    "received": "attention of later sentences",
    "receiver_heads": "attention of receiver heads",
    "fai": "FAI",
    "relevance": "relevance to the answer",
    "entropy": "entropy of its first token",
    "tokens": "length",
    "sentence": "place",
}
MOST = 40
"""Sentences that a figure names."""


def along_the_text(sentences: pd.DataFrame, model: str) -> Figure:
    """One trace: a row for each sentence, with its effect by each way, and the 95 % interval of what was sampled."""
    shown = sentences.iloc[:MOST]
    ways = [way for way in CAUSAL if shown[way].notna().any()]
    height = 1.1 + 0.24 * len(shown)
    figure, axes = style.subplots(1, len(ways), figsize=(3.4 + 2.2 * len(ways), height), sharey=True, squeeze=False)
    places = np.arange(len(shown))
    for axis, way in zip(axes[0], ways, strict=True):
        name, colour = CAUSAL[way]
        values = shown[way].to_numpy(dtype=float)
        axis.barh(places, values, color=colour, height=0.7)
        if f"{way}_low" in shown:
            axis.hlines(places, shown[f"{way}_low"], shown[f"{way}_high"], color="black", linewidth=0.8)
        for place in places[np.isnan(values)]:
            none_here(axis, 0, place, va="center")
        axis.axvline(0, color=style.GREY, linewidth=0.8)
        axis.set_xlabel(name.replace(": ", ":\n"), fontsize=7.5)
        axis.xaxis.set_major_locator(MaxNLocator(3))
    axes[0][0].set_yticks(places, [_short(text) for text in shown["text"]], fontsize=7)
    axes[0][0].invert_yaxis()
    left = len(sentences) - len(shown)
    more = f", the first {MOST} of {len(sentences)} sentences" if left else ""
    figure.suptitle(f"{model}, {style.label(str(shown['example'].iloc[0]))}{more}", fontsize=9)
    figure.tight_layout()
    return figure


def matrix(sentences: pd.DataFrame, edges: pd.DataFrame, model: str) -> Figure:
    """Nats that a token of each later sentence loses where a sentence is hidden from it."""
    n = len(sentences)
    values = np.full((n, n), np.nan)
    values[edges["sentence"], edges["later"]] = edges["value"].to_numpy(dtype=float)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    size = min(8.5, 2.8 + 0.2 * n)
    figure, axis = style.subplots(figsize=(size + 1.6, size))
    drawn = axis.imshow(values, cmap=style.DIVERGING, vmin=-largest, vmax=largest, aspect="equal")
    figure.colorbar(drawn, ax=axis, label=f"nats a token loses, {largest:.2g} at most", shrink=0.8)
    if n <= MOST:
        axis.set_yticks(range(n), [_short(text) for text in sentences["text"]], fontsize=6.5)
    axis.set_xlabel("later sentence")
    axis.set_ylabel("hidden sentence")
    axis.set_title(f"{model}, {style.label(str(sentences['example'].iloc[0]))}", fontsize=9)
    figure.tight_layout()
    return figure


def signals(table: pd.DataFrame, model: str) -> Figure:
    """Mean rank correlations over traces with 95 % intervals, as they are and with the place held constant; at the
    right of each panel the number of traces behind them."""
    ways = [way for way in CAUSAL if (table["causal"] == way).any()]
    n = max(1, len(ways))
    size = (2.6 + 2.3 * n, 3.4)
    figure, axes = style.subplots(1, n, figsize=size, sharey=True, squeeze=False, layout="constrained")
    names = [name for name in SIGNALS if (table["other"] == name).any()]
    for axis, way in zip(axes[0], ways, strict=False):
        for shift, (given, marker) in enumerate((("nothing", "o"), ("place", "D"))):
            rows = table[(table["causal"] == way) & (table["given"] == given)]
            colour = CAUSAL[way][1] if given == "nothing" else style.GREY
            for row in records(rows):
                place = names.index(row["other"]) + 0.22 * shift - 0.11
                point(axis, Estimate.of(row), place, colour, marker=marker, size=4)
        for other, part in table[table["causal"] == way].groupby("other"):
            axis.text(1.1, names.index(str(other)), counted(part["n"]), va="center", fontsize=6, color=style.GREY)
        axis.axvline(0, color=style.GREY, linewidth=0.8)
        axis.set_xlim(-1.05, 1.05)
        axis.set_xticks((-0.8, -0.4, 0, 0.4, 0.8))
        axis.set_title(CAUSAL[way][0].partition(":")[0], fontsize=9)
        axis.set_xlabel("rank correlation over sentences", fontsize=7.5)
    axes[0][0].set_yticks(range(len(names)), [SIGNALS[name] for name in names], fontsize=7.5)
    axes[0][0].invert_yaxis()
    handles = [handle(CAUSAL[ways[0]][1], "as it is"), handle(style.GREY, "place held constant", "D")] if ways else []
    figure.legend(handles=handles, fontsize=7, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{model}; grey numbers: traces in which both are known and differ", fontsize=9)
    return figure


def _short(text: str) -> str:
    return textwrap.shorten(text, 44, placeholder="…")
