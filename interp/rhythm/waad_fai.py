"""WAAD, FAI, distances and entropies of one trace, from one streaming pass (Paper B, section 4).

All measures are linear in the attention pattern, so the measure of a mean pattern over a set of heads is the mean of
the measures of its heads: no map is ever averaged, and one pass serves every set of heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.heads.reductions import FIRST_TOKENS, ReceivedAttention
from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.model.streaming import Reduction, stream
from interp.model.unembedding import logits_of
from interp.text.trace import Segment, Trace

RECEIVER_GAP = 10
"""Receiver scores count attention from this distance on: within a sentence it is syntax."""
MIN_QUERIES = 10
"""Tokens with fewer later queries than this do not count for a head's kurtosis."""
ENTROPY_ROWS = 256
"""Rows of logits that exist at a time."""
MIN_LEFT = 0.01
"""A head that gives less than this to everything but the sink has no distance without it: it would be noise."""


class Sinks(StrEnum):
    """What happens to the attention on the first tokens, which draw it whatever they are (Xiao et al. 2024)."""

    KEPT = "kept"
    """Nothing: as in the paper."""
    REMOVED = "removed"
    """Their columns are set to 0 and each row is scaled to sum to 1 again, however little is left of it."""


@dataclass(frozen=True)
class Settings:
    """The windows of Paper B, Defs. 4.1 and 4.2."""

    window: int = 10
    """W: distances above it count as W."""
    h_lo: int = 10
    h_hi: int = 100
    """FAI looks from h_lo to h_hi tokens ahead."""
    end_lo: int = 1
    """The FAI of the paper's analysis looks from here to the end of the response."""

    def check(self) -> None:
        """Raises UserError for windows that hold nothing."""
        if self.window < 1 or not 0 <= self.h_lo <= self.h_hi:
            raise UserError(
                f"window={self.window}, horizon={self.h_lo, self.h_hi}: give window >= 1 and 0 <= H_lo <= H_hi"
            )


@dataclass(frozen=True)
class HeadCurves:
    """Every head's measures on one trace. Token axes run over the response; NaN where a window is empty."""

    waad: Float[np.ndarray, "layer head token"]
    fai: Float[np.ndarray, "layer head token"]
    fai_to_end: Float[np.ndarray, "layer head token"]
    distance: Float[np.ndarray, "layer head"]
    """d of Paper B, section 4.1, in tokens; without sinks that of the attention that is left, NaN for little."""
    kurtosis: Float[np.ndarray, "layer head"]

    def over(self, heads: Sequence[Head], name: str) -> Float[np.ndarray, " token"]:
        """A measure of the mean pattern over a set of heads; NaN over none."""
        of_all: np.ndarray = getattr(self, name)
        if not heads:
            return np.full(of_all.shape[-1], np.nan)
        layers, numbers = zip(*heads, strict=True)
        values: np.ndarray = of_all[list(layers), list(numbers)].mean(axis=0)
        return values


def response_of(trace: Trace) -> range:
    """The positions that the model wrote: reasoning, its closing tag and answer together."""
    written = [trace[s] for s in (Segment.REASONING, Segment.END_THINK, Segment.ANSWER) if len(trace[s])]
    return range(written[0].start, written[-1].end)


def _reach(
    first_row: int, pattern: Float[Tensor, "head row key"]
) -> tuple[Float[Tensor, "head row"], Float[Tensor, "head row"]]:
    """The sum of each row, and that of its weights times how many tokens back they lie."""
    rows = torch.arange(first_row, first_row + pattern.shape[1]).to(pattern)
    keys = torch.arange(pattern.shape[2]).to(pattern)
    mass, centre = (pattern @ torch.stack([torch.ones_like(keys), keys], 1)).unbind(-1)
    return mass, mass * rows - centre


class Distances:
    """How far each query looks back. Rows need not sum to 1.

    `waad[l, h, i]` = sum over s of A[t, s] * min(t - s, W) for the i-th row t (Paper B, Def. 4.1), between 0 and W; NaN
    for a row of zeros, which looks nowhere;
    `distance[l, h]` = mean over rows of the same without a window (section 4.1).
    """

    def __init__(self, rows: range, n_layers: int, n_heads: int, window: int) -> None:
        self.rows, self._window = rows, window
        self.waad: Float[Tensor, "layer head row"] = torch.zeros(n_layers, n_heads, len(rows))
        self.distance: Float[Tensor, "layer head"] = torch.zeros(n_layers, n_heads, dtype=torch.float64)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        _, n_rows, n_keys = pattern.shape
        rows = torch.arange(first_row, first_row + n_rows).to(pattern)
        keys = torch.arange(n_keys).to(pattern)
        mass, reach = _reach(first_row, pattern)
        self.distance[layer] += reach.double().sum(1).cpu() / len(self.rows)
        # Only the last W keys are nearer than W: everything counts as W but them.
        low = max(0, first_row - self._window + 1)
        short = self._window - (rows[:, None] - keys[None, low:])
        short = short.clamp(min=0) * (keys[None, low:] <= rows[:, None])
        near = (pattern[:, :, low:] * short).sum(-1)
        start = first_row - self.rows.start
        waad = torch.where(mass > 0, self._window * mass - near, torch.nan)
        self.waad[layer, :, start : start + n_rows] = waad.float().cpu()


class WithoutColumns:
    """Feeds other reductions with patterns whose first columns are removed and whose rows sum to 1 again; rows of which
    nothing is left in floating point are zeros.

    `left[l, h]` = mean over rows of the attention that was not on these columns; `distance[l, h]` = how far that
    attention reaches back, in tokens: the mean over all of it, not over rows, as a row that gives next to nothing
    elsewhere has no direction; NaN for a head of which less than MIN_LEFT is left.
    """

    def __init__(self, columns: int, n_layers: int, n_heads: int, *inner: Reduction) -> None:
        self.rows = inner[0].rows
        self.left: Float[Tensor, "layer head"] = torch.zeros(n_layers, n_heads, dtype=torch.float64)
        self._reach = torch.zeros_like(self.left)
        self._columns, self._inner = columns, inner

    @property
    def distance(self) -> Float[Tensor, "layer head"]:
        return torch.where(self.left >= MIN_LEFT, self._reach / self.left, torch.nan)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        rest = pattern.clone()
        rest[:, :, : self._columns] = 0
        left = rest.sum(-1, keepdim=True)  # not 1 minus the others: of that nearly all digits may be rounding
        self.left[layer] += left.double().sum((1, 2)).cpu() / len(self.rows)
        self._reach[layer] += _reach(first_row, rest)[1].double().sum(1).cpu() / len(self.rows)
        rest = torch.where(left > 0, rest / left, rest)
        for reduction in self._inner:
            reduction.add(layer, first_row, rest)


def measure_rhythm(
    lens: Lens, trace: Trace, settings: Settings, sinks: Sequence[Sinks], block_bytes: int | None = None
) -> tuple[Mapping[Sinks, HeadCurves], Float[np.ndarray, " token"]]:
    """Every head's curves with and without sinks, and the entropy of the prediction of each response token, in nats."""
    response, shape = response_of(trace), (lens.n_layers, lens.n_heads)
    parts = {
        sink: (
            Distances(response, *shape, settings.window),
            ReceivedAttention(response, response, *shape, settings.h_lo, settings.h_hi),
            ReceivedAttention(response, response, *shape, settings.end_lo),
            ReceivedAttention(response, response, *shape, RECEIVER_GAP),
        )
        for sink in sinks
    }
    reductions: list[Reduction] = []
    distance: dict[Sinks, Distances | WithoutColumns] = {}
    if Sinks.KEPT in parts:
        reductions += parts[Sinks.KEPT]
        distance[Sinks.KEPT] = parts[Sinks.KEPT][0]
    if Sinks.REMOVED in parts:
        distance[Sinks.REMOVED] = without = WithoutColumns(FIRST_TOKENS, *shape, *parts[Sinks.REMOVED])
        reductions.append(without)
    hidden = stream(lens, trace.measured_ids, *reductions, block_bytes=block_bytes)
    curves = {
        sink: HeadCurves(
            distances.waad.numpy(),
            near.received.numpy(),
            to_end.received.numpy(),
            distance[sink].distance.numpy(),
            far.kurtosis(MIN_QUERIES),
        )
        for sink, (distances, near, to_end, far) in parts.items()
    }
    return curves, prediction_entropy(lens, hidden[response.start - 1 : response.stop - 1])


class MeanRows:
    """The mean pattern over each of some sets of heads, for maps; memory O(sets x rows x keys)."""

    def __init__(self, rows: range, sets: Mapping[str, Sequence[Head]]) -> None:
        self.rows, self._sets = rows, sets
        self.mean: dict[str, Float[Tensor, "row key"]] = {name: torch.zeros(len(rows), rows.stop) for name in sets}

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        _, n_rows, n_keys = pattern.shape
        start = first_row - self.rows.start
        for name, heads in self._sets.items():
            here = [head.head for head in heads if head.layer == layer]
            if here:
                part = pattern[here].sum(0) / len(heads)
                self.mean[name][start : start + n_rows, :n_keys] += part.float().cpu()


def map_of_sets(
    lens: Lens, trace: Trace, sets: Mapping[str, Sequence[Head]], tokens: int, block_bytes: int | None = None
) -> list[dict[str, Any]]:
    """The rows of maps.parquet: mean attention over sets of heads from the first `tokens` tokens of the response."""
    response = response_of(trace)
    kept = MeanRows(range(response.start, min(response.stop, response.start + tokens)), sets)
    stream(lens, trace.measured_ids[: kept.rows.stop], kept, block_bytes=block_bytes)
    return [
        {"example": trace.example, "head_set": name, "position": position, "weights": rows[i, : position + 1].numpy()}
        for name, rows in kept.mean.items()
        for i, position in enumerate(kept.rows)
    ]


@torch.no_grad()
def prediction_entropy(lens: Lens, hidden: Float[Tensor, "token d"]) -> Float[np.ndarray, " token"]:
    """Entropy in nats of the distribution that each position predicts, from the last layer's normalised output."""
    entropies = []
    for rows in hidden.split(ENTROPY_ROWS):
        log_p = logits_of(lens, rows).float().log_softmax(-1)
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    values: np.ndarray = torch.cat(entropies).cpu().numpy().astype(np.float64)
    return values
