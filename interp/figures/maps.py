"""Figure 4 of Paper A: where one head looks, answer token by answer token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from interp.figures import style
from interp.heads.scores import Head
from interp.heads.trajectories import reflection_positions
from interp.text.trace import Segment, Trace

MAX_CELLS = 700
"""A map is drawn with at most this many cells along a side; a cell shows the largest weight in it."""


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
    square root of the weight, up to its 99.5th percentile within that block.
    """
    chosen = mapped_heads(maps)
    figure, axes = style.subplots(
        len(chosen), len(traces), figsize=(3.6 * len(traces) + 0.8, 2.9 * len(chosen) + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for head, row in zip(chosen, axes, strict=True):
        scores = heads[(heads["layer"] == head.layer) & (heads["head"] == head.head)].set_index("example")["trajectory"]
        for trace, axis in zip(traces, row, strict=True):
            weights = dense(maps, trace.example, head)
            image = _draw_map(axis, weights, trace, words)
            rho = scores.get(trace.example)
            shown = "no trajectory" if rho is None or np.isnan(rho) else f"trajectory {rho:+.2f}"
            axis.set_title(f"{_short(trace.example)}\nhead {head}, {shown}", fontsize=8)
            ticks = np.linspace(0, 1, 4) ** 2 * image.norm.vmax  # at equal distances, under the square root
            bar = figure.colorbar(image, ax=axis, shrink=0.85, ticks=ticks, format="%.2g")
            bar.ax.tick_params(labelsize=7)
        row[0].set_ylabel("position of the answer token")
    for axis in axes[-1]:
        axis.set_xlabel("attended position")
    marked = [word for word in words if any(len(reflection_positions(trace, [word])) for trace in traces)]
    marks = "; dotted: " + ", ".join(f"“{word}”" for word in marked) if marked else ""
    figure.suptitle(f"{model}: attention weights; box: answer → reasoning{marks}", fontsize=9)
    return figure


def _draw_map(axis: Axes, weights: Float[np.ndarray, "query key"], trace: Trace, words: Sequence[str]):  # type: ignore[no-untyped-def]
    answer, reasoning = trace[Segment.ANSWER], trace[Segment.REASONING]
    block = weights[:, reasoning.start : reasoning.end]
    top = max(float(np.quantile(block, 0.995)), 1e-6)
    extent = (-0.5, weights.shape[1] - 0.5, answer.end - 0.5, answer.start - 0.5)
    image = axis.imshow(
        _pooled(weights), cmap=style.SEQUENTIAL, norm=PowerNorm(0.5, 0, top, clip=True), aspect="auto", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    for position in reflection_positions(trace, words):
        axis.axvline(position, color="white", linestyle=":", linewidth=0.9)
    box = (reasoning.start - 0.5, answer.start - 0.5)
    axis.add_patch(Rectangle(box, len(reasoning), len(answer), fill=False, edgecolor=style.RED, linewidth=1.6))
    axis.spines[:].set_visible(False)
    axis.tick_params(labelsize=7)
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
