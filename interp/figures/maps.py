"""Figure 4 of Paper A: where one head looks, answer token by answer token."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from interp.figures import style
from interp.heads.scores import Head
from interp.heads.trajectories import reflection_positions
from interp.text.trace import Segment, Trace

MAX_CELLS = 700
"""A map is drawn with at most this many cells along a side; a cell shows the largest weight in it."""
ROOM_BELOW, ROOM_BESIDE = 36, 30
"""Tokens that find room below a map, and beside it."""
NAMELESS = "⟨bos⟩"
"""A first token that has no text."""
NOTHING = 1e-4
"""A weight below it is next to nothing: no map makes anything of it."""
MAX_LABEL = 12
"""Signs of a token's label."""


def dense(maps: pd.DataFrame, example: str, head: Head | None) -> Float[np.ndarray, "query key"]:
    """The kept rows of one trace and head (None = mean over all heads), zero behind each query."""
    layer, number = (head.layer, head.head) if head is not None else (None, None)
    chosen = maps[maps["example"] == example]
    same = chosen["layer"].isna() if layer is None else (chosen["layer"] == layer) & (chosen["head"] == number)
    return dense_rows(chosen[same])


def dense_rows(maps: pd.DataFrame) -> Float[np.ndarray, "query key"]:
    """Rows of maps.parquet of one map as an array, zero behind each query."""
    rows = maps.sort_values("position")
    out = np.zeros((len(rows), int(rows["position"].max()) + 1))
    for row, weights in zip(out, rows["weights"], strict=True):
        row[: len(weights)] = weights
    return out


def mapped_heads(maps: pd.DataFrame) -> list[Head]:
    """The heads whose maps were kept, best first."""
    known = maps.dropna(subset="layer")[["layer", "head"]].drop_duplicates()
    return [Head(int(layer), int(head)) for layer, head in known.itertuples(index=False)]


def attention_maps(
    maps: pd.DataFrame, heads: pd.DataFrame, traces: Sequence[Trace], words: Sequence[str], model: str
) -> Figure:
    """Paper A, Fig. 4: attention of each answer token (rows) to all tokens before it, for each kept trace and head.

    The answer->reasoning block is boxed, dotted lines stand at reflection words of the reasoning. The colour is the
    square root of the weight, on one scale for all maps, up to the 99.5th percentile within their blocks; cells beyond
    are white. At the margins stand the tokens: all of them, or those with the largest weights.
    """
    chosen = mapped_heads(maps)
    figure, axes = style.subplots(
        len(chosen), len(traces), figsize=(3.9 * len(traces) + 0.8, 3.2 * len(chosen) + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    drawn = {(h, trace.example): dense(maps, trace.example, h) for h in chosen for trace in traces}
    blocks = [
        drawn[head, t.example][:, t[Segment.REASONING].start : t[Segment.REASONING].end]
        for head in chosen
        for t in traces
    ]
    scale = root_scale(np.concatenate([block.ravel() for block in blocks]))
    for head, row in zip(chosen, axes, strict=True):
        scores = heads[(heads["layer"] == head.layer) & (heads["head"] == head.head)].set_index("example")["trajectory"]
        for trace, axis in zip(traces, row, strict=True):
            image = _draw_map(axis, drawn[head, trace.example], trace, words, scale)
            rho = scores.get(trace.example)
            shown = "no trajectory" if rho is None or np.isnan(rho) else f"trajectory {rho:+.2f}"
            axis.set_title(f"{_short(trace.example)}\nhead {head}, {shown}", fontsize=8)
        row[0].set_ylabel("answer token")
    for axis in axes[-1]:
        axis.set_xlabel("attended token")
    root_bar(figure, image, axes)
    marked = [word for word in words if any(len(reflection_positions(trace, [word])) for trace in traces)]
    marks = "; dotted: " + ", ".join(f"“{word}”" for word in marked) if marked else ""
    figure.suptitle(f"{model}: attention weights; box: answer → reasoning{marks}", fontsize=9)
    return figure


def root_scale(weights: Float[np.ndarray, " weight"]) -> PowerNorm:
    """A scale for attention weights: their square root, up to the 99.5th percentile of those that are given, or to
    NOTHING where that is less."""
    top = float(np.quantile(weights, 0.995)) if len(weights) else 0.0
    return PowerNorm(0.5, 0, max(top, NOTHING))


def root_map(
    axis: Axes, weights: Float[np.ndarray, "query key"], scale: PowerNorm, first: tuple[int, int]
) -> AxesImage:
    """Draws a map of weights whose first row and column are these positions; what is beyond the scale is white."""
    extent = (first[1] - 0.5, first[1] + weights.shape[1] - 0.5, first[0] + weights.shape[0] - 0.5, first[0] - 0.5)
    image = axis.imshow(
        _pooled(weights), cmap=matplotlib.colormaps[style.SEQUENTIAL].with_extremes(over="white"), norm=scale,
        aspect="auto", extent=extent, interpolation="nearest",
    )  # fmt: skip
    axis.spines[:].set_visible(False)
    return image


def root_bar(figure: Figure, image: AxesImage, axes: np.ndarray) -> None:
    """The colour bar of maps on one scale, which says its range."""
    top = image.get_clim()[1] or 0.0
    ticks = np.linspace(0, 1, 4) ** 2 * top  # at equal distances, under the square root
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.85, ticks=ticks, format="%.2g", extend="max")
    bar.set_label(f"attention weight, 0 to {top:.2g}; white: beyond", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def token_margin(
    axes: Axes, tokens: Sequence[str], first: int, weights: Float[np.ndarray, " token"], *, below: bool
) -> None:
    """Tokens as the labels below a map, or beside it, whose side begins at position `first`: all of them, or, where
    there is no room for so many, those with the largest weights that do not stand on one another."""
    axis, room = (axes.xaxis, ROOM_BELOW) if below else (axes.yaxis, ROOM_BESIDE)
    apart = max(1, -(-len(tokens) // room))
    chosen: list[int] = []
    for place in np.argsort(-weights, kind="stable"):
        if all(abs(place - other) >= apart for other in chosen):
            chosen.append(int(place))
    chosen.sort()
    labels = [style.label(tokens[place])[:MAX_LABEL] for place in chosen]
    axis.set_ticks([first + place for place in chosen], labels, fontsize=5.5, rotation=90 if below else 0)


def _draw_map(
    axis: Axes, weights: Float[np.ndarray, "query key"], trace: Trace, words: Sequence[str], scale: PowerNorm
) -> AxesImage:
    answer, reasoning = trace[Segment.ANSWER], trace[Segment.REASONING]
    image = root_map(axis, weights, scale, (answer.start, 0))
    for position in reflection_positions(trace, words):
        axis.axvline(position, color="white", linestyle=":", linewidth=0.9)
    box = (reasoning.start - 0.5, answer.start - 0.5)
    axis.add_patch(Rectangle(box, len(reasoning), len(answer), fill=False, edgecolor=style.RED, linewidth=1.6))
    tokens = [trace.token_text(position) or NAMELESS for position in range(weights.shape[1])]
    token_margin(axis, tokens, 0, weights.max(axis=0), below=True)
    of_answer = weights[:, reasoning.start :].max(axis=1)
    token_margin(axis, tokens[answer.start :], answer.start, of_answer, below=False)
    return image


def _pooled(weights: Float[np.ndarray, "query key"]) -> Float[np.ndarray, "row column"]:
    """Largest weight in each of at most MAX_CELLS x MAX_CELLS cells, so that thin lines stay visible."""
    for axis in (0, 1):
        if weights.shape[axis] > MAX_CELLS:
            borders = np.linspace(0, weights.shape[axis], MAX_CELLS, endpoint=False).astype(int)
            weights = np.maximum.reduceat(weights, borders, axis=axis)
    return weights


def _short(name: str, width: int = 44) -> str:
    return name if len(name) <= width else f"…{name[-width + 1 :]}"
