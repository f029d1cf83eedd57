"""Measures of attention as streaming reductions: masses, sinks, distances, received attention, attended positions.

Each takes in the weights of a layer block by block (`interp/model/streaming.py`) and keeps no more than its result.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from interp.text.trace import Segment, Trace

FIRST_TOKENS = 4
"""How many tokens at the start of a sequence count as its attention sink (Xiao et al. 2024, arXiv 2309.17453)."""
LEAST = 2.0**-24
"""Rounding of an attention weight of 1 in float32: what varies by less moves no output of a head."""


class SegmentMasses:
    """Attention mass, sinks and mean backward distance of source segments (Paper A, section 4.1).

    `mass[l, h, i, j]` = mean over q in sources[i] of the attention of q to all tokens of the j-th Segment; over j it
    sums to 1. `first_tokens[l, h, i]` = the same to the first FIRST_TOKENS positions, whatever their segment: the sink
    of models with and without a beginning-of-sequence token. `distance[l, h, i]` = mean over q in sources[i] of
    sum over s of A[q, s] * (q - s), in tokens (Paper B, section 4.1, when the sources are the response).
    Raises TraceError for a source without tokens.
    """

    def __init__(self, trace: Trace, n_layers: int, n_heads: int, sources: Sequence[Segment] = (Segment.ANSWER,)):
        trace.require(*sources)
        self.sources = tuple(sources)
        spans = [trace[source] for source in self.sources]
        self.rows = range(min(s.start for s in spans), max(s.end for s in spans))
        # All are linear in a row, and taken in one product: the segments, the sink, the mean key position.
        n = len(Segment)
        self._columns: Float[Tensor, "key column"] = torch.zeros(trace.n_measured, n + 2, dtype=torch.float64)
        self._row_weights = torch.zeros(trace.n_measured, len(spans))
        for j, span in enumerate(trace.spans):
            self._columns[span.start : span.end, j] = 1
        self._columns[:FIRST_TOKENS, n] = 1
        self._columns[:, n + 1] = torch.arange(trace.n_measured)
        for i, span in enumerate(spans):
            self._row_weights[span.start : span.end, i] = 1 / len(span)
        self._lengths = torch.tensor([len(span) for span in trace.spans], dtype=torch.float64)
        self._positions = torch.tensor([(s.start + s.end - 1) / 2 for s in spans], dtype=torch.float64)
        self._sums = torch.zeros(n_layers, n_heads, len(spans), n + 2, dtype=torch.float64)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        weights = self._row_weights[first_row : first_row + pattern.shape[1]]
        sources = weights.any(0)
        means = weights[:, sources].T.to(pattern) @ pattern  # first over rows: one row a source is left
        columns = self._columns[: pattern.shape[2]].to(pattern.device)
        self._sums[layer][:, sources] += (means.double() @ columns).cpu()

    @property
    def mass(self) -> Float[Tensor, "layer head source segment"]:
        return self._sums[..., : len(Segment)]

    @property
    def per_token(self) -> Float[Tensor, "layer head source segment"]:
        """The mass divided by the number of tokens of the attended segment; NaN for a segment without any."""
        return self.mass / self._lengths

    @property
    def first_tokens(self) -> Float[Tensor, "layer head source"]:
        return self._sums[..., len(Segment)]

    @property
    def distance(self) -> Float[Tensor, "layer head source"]:
        return self._positions - self._sums[..., -1]

    def of(self, source: Segment, destination: Segment) -> Float[Tensor, "layer head"]:
        """The mass from one segment to another."""
        return self.mass[:, :, self.sources.index(source), list(Segment).index(destination)]


class ReceivedAttention:
    """The attention that each key receives from later queries: the column means of a pattern.

    `received[l, h, i]` = mean over q in `rows` with gap <= q - keys[i] <= horizon of A[q, keys[i]]; NaN for a key with
    no such q. With the rows and keys of the response this is the FAI of each head (Paper B, Def. 4.2); its kurtosis
    over keys tells receiver heads (Bogdan et al. 2025, arXiv 2506.19143).
    """

    def __init__(
        self, rows: range, keys: range, n_layers: int, n_heads: int, gap: int = 1, horizon: int | None = None
    ) -> None:
        self.rows, self.keys, self._gap, self._horizon = rows, keys, gap, horizon
        self._sums = torch.zeros(n_layers, n_heads, len(keys), dtype=torch.float64)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        n_rows = pattern.shape[1]
        low = self.keys.start if self._horizon is None else max(self.keys.start, first_row - self._horizon)
        high = min(self.keys.stop, first_row + n_rows - self._gap)
        if low >= high:
            return
        if self._horizon is None:
            # Keys up to `whole` lie at least `gap` before every row of the block: nothing to cut there.
            whole = min(max(low, first_row - self._gap + 1), high)
            near = pattern[:, :, whole:high].tril(first_row - self._gap - whole)
            sums = torch.cat([pattern[:, :, low:whole].sum(1), near.sum(1)], dim=1)
        else:
            band = pattern[:, :, low:high].tril(first_row - self._gap - low)
            sums = band.triu(first_row - self._horizon - low).sum(1)
        self._sums[layer, :, low - self.keys.start : high - self.keys.start] += sums.double().cpu()

    @property
    def n_queries(self) -> Int[Tensor, " key"]:
        """How many queries stand behind each key's mean."""
        keys = torch.arange(self.keys.start, self.keys.stop)
        first = (keys + self._gap).clamp(min=self.rows.start)
        last = torch.full_like(keys, self.rows.stop - 1)
        if self._horizon is not None:
            last = torch.minimum(last, keys + self._horizon)
        return (last - first + 1).clamp(min=0)

    @property
    def received(self) -> Float[Tensor, "layer head key"]:
        return self._sums / torch.where(self.n_queries > 0, self.n_queries, torch.nan)

    def kurtosis(self, min_queries: int = 1) -> Float[np.ndarray, "layer head"]:
        """Excess kurtosis over keys of the received attention; high for heads that single out a few tokens.

        Keys with fewer than `min_queries` queries are left out; NaN with fewer than four keys, or if all are equal.
        """
        return _kurtosis(self.received[:, :, self.n_queries >= max(1, min_queries)].numpy())


class ReceivedBySentences:
    """How much each sentence receives from later ones (thought-anchors, Bogdan et al. 2025).

    For sentences i and j, in the order of the text, the mean of their block of the pattern; a sentence's value is the
    mean of these over all i at least `apart` sentences behind it. Only its sums by key are kept: the blocks are linear
    in the pattern.
    """

    def __init__(self, sentences: Sequence[tuple[int, int]], n_layers: int, n_heads: int, apart: int = 4) -> None:
        self.rows = range(sentences[0][0], sentences[-1][1]) if sentences else range(0)
        self.counts = torch.tensor([max(0, len(sentences) - j - apart) for j in range(len(sentences))])
        self._sentences, self._apart = list(sentences), apart
        self._ends = [end for _, end in sentences]
        self._sums = torch.zeros(n_layers, n_heads, self.rows.stop, dtype=torch.float64)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        last = first_row + pattern.shape[1]
        i = max(self._apart, bisect_right(self._ends, first_row))
        while i < len(self._sentences) and self._sentences[i][0] < last:
            start, end = self._sentences[i]
            before = self._ends[i - self._apart]
            rows = pattern[:, max(start - first_row, 0) : end - first_row, :before]
            self._sums[layer, :, :before] += rows.sum(1).double().cpu() / (end - start)
            i += 1

    @property
    def received(self) -> Float[Tensor, "layer head sentence"]:
        """The mean over blocks; NaN for sentences without one far enough behind them."""
        found = self._sums.new_full((*self._sums.shape[:2], len(self._sentences)), torch.nan)
        for j, (start, end) in enumerate(self._sentences[: max(0, len(self._sentences) - self._apart)]):
            found[..., j] = self._sums[..., start:end].mean(-1) / self.counts[j]
        return found

    def kurtosis(self) -> Float[np.ndarray, "layer head"]:
        """Excess kurtosis over the sentences that have a later one far enough; NaN for fewer than four of them."""
        return _kurtosis(self.received[..., self.counts > 0].numpy())


class MassOfSpans:
    """Attention mass from some queries to each of some spans of keys.

    `mass[l, h, j]` = mean over q in `rows` of the attention of q to all tokens of the j-th span.
    """

    def __init__(self, rows: range, spans: Sequence[tuple[int, int]], n_layers: int, n_heads: int) -> None:
        self.rows = rows
        self._inside: Float[Tensor, "key span"] = torch.zeros(rows.stop, len(spans))
        for j, (start, end) in enumerate(spans):
            self._inside[start:end, j] = 1
        self._sums = torch.zeros(n_layers, n_heads, len(spans), dtype=torch.float64)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:  # noqa: ARG002
        self._sums[layer] += (pattern.sum(1) @ self._inside[: pattern.shape[2]].to(pattern)).double().cpu()

    @property
    def mass(self) -> Float[Tensor, "layer head span"]:
        return self._sums / len(self.rows)


def _kurtosis(values: Float[np.ndarray, "layer head value"]) -> Float[np.ndarray, "layer head"]:
    """Excess kurtosis; NaN for fewer than four values, or if all are equal."""
    if values.shape[-1] < 4:
        return np.full(values.shape[:2], np.nan)
    values = values.astype(np.float64)  # fourth powers of small weights are 0 in single precision
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy's, for heads that look everywhere alike
        found = stats.kurtosis(values, axis=-1)
    return np.where(np.ptp(values, axis=-1) > 1e-12, found, np.nan)


class AttendedPositions:
    """Where within a range of keys each query looks.

    For each query in `rows`: `mass` = its attention to all of `keys`; `centre` = the centre of mass of that attention
    and `peak` = the key that gets most of it, both as positions in the sequence. The centre is NaN for no mass. With
    `origin` also `centre_of_origin`: the same of other positions that the keys count as. `focus` = 1 minus the entropy
    of the attention within the keys as a share of an even head's, 0..1; NaN for no mass or a single key.
    """

    def __init__(
        self, rows: range, keys: range, n_layers: int, n_heads: int, origin: Sequence[int] | None = None
    ) -> None:
        self.rows, self.keys = rows, keys
        self.origin = None if origin is None else torch.tensor(origin)
        shape = (n_layers, n_heads, len(rows))
        self.mass: Float[Tensor, "layer head row"] = torch.zeros(shape)
        self.centre: Float[Tensor, "layer head row"] = torch.full(shape, torch.nan)
        self.centre_of_origin: Float[Tensor, "layer head row"] = torch.full(shape, torch.nan)
        self.focus: Float[Tensor, "layer head row"] = torch.full(shape, torch.nan)
        self.peak: Int[Tensor, "layer head row"] = torch.full(shape, -1, dtype=torch.int32)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        seen = pattern[:, :, self.keys.start : self.keys.stop]
        if not seen.shape[-1]:
            return
        start = first_row - self.rows.start
        place = (layer, slice(None), slice(start, start + pattern.shape[1]))
        steps = torch.arange(seen.shape[-1]).to(seen)
        mass = seen.sum(-1)
        self.mass[place] = mass.float().cpu()
        self.centre[place] = (self.keys.start + seen @ steps / mass).float().cpu()
        self.peak[place] = (self.keys.start + seen.argmax(-1)).int().cpu()
        if self.origin is not None:
            origin = self.origin[: seen.shape[-1]].to(seen)
            self.centre_of_origin[place] = (seen @ origin / mass).float().cpu()
        shares = seen / mass[..., None]
        entropy = -torch.xlogy(shares, shares).sum(-1)
        # Of a row inside the keys an even head sees those up to its own place.
        visible = torch.arange(first_row, first_row + pattern.shape[1]).to(seen) + 1 - self.keys.start
        visible = visible.clamp(1, len(self.keys))
        self.focus[place] = (1 - entropy / visible.log()).masked_fill(visible < 2, torch.nan).float().cpu()


class AttentionRows:
    """Whole rows of a few chosen heads, and of the mean over all heads, for maps; memory O(rows x keys x heads)."""

    def __init__(self, rows: range, heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int) -> None:
        self.rows, self.heads = rows, list(heads)
        self._share = 1 / (n_layers * n_heads)
        self.mean: Float[Tensor, "row key"] = torch.zeros(len(rows), rows.stop)
        self.of_head: Float[Tensor, "chosen row key"] = torch.zeros(len(self.heads), len(rows), rows.stop)

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        _, n_rows, n_keys = pattern.shape
        start = first_row - self.rows.start
        self.mean[start : start + n_rows, :n_keys] += (pattern.sum(0) * self._share).float().cpu()
        for i, (of_layer, head) in enumerate(self.heads):
            if of_layer == layer:
                self.of_head[i, start : start + n_rows, :n_keys] = pattern[head].float().cpu()


def even_mass(trace: Trace, source: Segment, destination: Segment) -> float:
    """The mass of a head that spreads evenly over all tokens up to its own: what length alone gives a segment."""
    span, target = trace[source], trace[destination]
    rows = torch.arange(span.start, span.end, dtype=torch.float64)
    seen = (rows + 1).clamp(max=target.end) - target.start
    return float((seen.clamp(min=0) / (rows + 1)).mean())
