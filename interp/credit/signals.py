"""WAAD, FAI and mean distances of a padded batch of responses, from one forward pass over a model in training.

The same measures as `interp.rhythm.waad_fai`, for chosen heads and many sequences at a time: our attention function
makes the weights of those heads' response rows block by block and leaves the layer's output to fused attention. It may
be a pass that is made anyway; one of its own (`measure_batch`) ends at the last layer that is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.heads.reductions import FIRST_TOKENS
from interp.heads.scores import Head
from interp.model.attention import LayerAttention, attending, attention_rows
from interp.model.streaming import BLOCK_BYTES
from interp.rhythm.waad_fai import MIN_LEFT, Settings, Sinks


@dataclass(frozen=True)
class CreditHeads:
    """The heads that WAAD (local) and FAI (global) are averaged over; none = that measure is not made."""

    local: Sequence[Head] = ()
    far: Sequence[Head] = ()

    @classmethod
    def of(cls, local: Iterable[tuple[int, int]], far: Iterable[tuple[int, int]]) -> CreditHeads:
        """From pairs of layer and head, both from 0."""
        return cls(tuple(Head(*pair) for pair in local), tuple(Head(*pair) for pair in far))

    @property
    def layers(self) -> list[int]:
        return sorted({head.layer for head in (*self.local, *self.far)})

    def of_layer(self, layer: int) -> tuple[list[int], list[int]]:
        """The local and the global heads of a layer."""
        return (
            [head.head for head in self.local if head.layer == layer],
            [head.head for head in self.far if head.layer == layer],
        )


@dataclass(frozen=True)
class Measuring:
    """What WAAD and FAI are measured on."""

    heads: CreditHeads
    settings: Settings
    sinks: Sinks = Sinks.KEPT


class _Enough(Exception):  # noqa: N818 - not an error
    """Every head that is needed has been seen."""


Weights = Callable[[list[int], int, int], Float[Tensor, "batch head row column"]]
"""The weights of some heads, in the rows first..stop-1 over the columns 0..stop-1."""


@dataclass
class BatchAttention(ABC):
    """Takes in the attention of a batch, layer by layer, as the batch goes through the model.

    Prompts are padded on the left and responses on the right, so that the distance of two tokens is that of their
    columns. Row t of the response is the query at column `start + t`.
    """

    mask: Int[Tensor, "batch column"]
    start: int
    """The first column of the responses."""
    sinks: Sinks = Sinks.KEPT
    stop_early: bool = True
    block_bytes: int | None = None
    rows: Int[Tensor, " batch"] | None = None
    """Which sequences of the pass are measured; `mask` is theirs. None = all."""
    _seen: set[int] = field(default_factory=set, init=False)

    @property
    @abstractmethod
    def layers(self) -> Sequence[int]:
        """The layers that are needed, in ascending order."""

    @abstractmethod
    def add(self, layer: int, weights: Weights, block: Callable[[int], range]) -> None:
        """Takes in a layer. `block(n)` gives the first rows of blocks in which n heads fit into memory."""

    def require_all_seen(self) -> None:
        """Raises UserError where a layer whose heads are needed has not come by."""
        missing = sorted(set(self.layers) - self._seen)
        if missing:
            raise UserError(
                f"the attention of layers {missing} cannot be seen: credit cannot be measured on this model"
            )

    def attend(self, call: LayerAttention) -> Tensor:
        """Takes in a layer's rows, and leaves its output to fused attention."""
        self.take_in(call)
        if self.stop_early and call.layer == self.layers[-1]:
            raise _Enough
        return call.output(call.mask)

    @torch.no_grad()
    def take_in(self, call: LayerAttention) -> None:
        """Takes in a layer's rows."""
        # Under autocast products of float32 would be rounded to half precision again.
        with torch.autocast(call.query.device.type, enabled=False):
            self._take_in(call)

    def take_in_weights(self, layer: int, weights: Float[Tensor, "batch head column column"]) -> None:
        """Takes in a layer's attention weights, where they are at hand."""
        self._add(layer, lambda heads, first, stop: weights[:, heads, first:stop, :stop].float(), weights.device.type)

    def _take_in(self, call: LayerAttention) -> None:
        self._add(call.layer, partial(self._softmax, call), call.query.device.type)

    def _add(self, layer: int, weights: Weights, device: str) -> None:
        self._seen.add(layer)
        n_columns = self.mask.shape[1]
        limit = self.block_bytes or BLOCK_BYTES.get(device, BLOCK_BYTES["cpu"])

        def block(n_heads: int) -> range:
            size = len(self.mask) * n_heads * n_columns * 4
            return range(self.start, n_columns, max(1, limit // size))

        self.add(layer, weights, block)

    def _softmax(
        self, call: LayerAttention, heads: list[int], first: int, stop: int
    ) -> Float[Tensor, "batch head row column"]:
        group = call.query.shape[1] // call.key.shape[1]
        chosen = slice(None) if self.rows is None else self.rows.to(call.query.device)
        query = call.query[chosen][:, heads, first:stop].float()
        key = call.key[chosen][:, [head // group for head in heads], :stop].float()
        seen = self.mask[:, None, None, :stop].to(query.device) != 0
        if call.mask is not None:
            rows = call.mask if len(call.mask) == 1 else call.mask[chosen]
            seen = seen & rows[:, :, first:stop, :stop]
        return attention_rows(query, key, first, call.scale, seen, padded=True)

    def rows_of(
        self, weights: Weights, heads: list[int], first: int, stop: int
    ) -> tuple[Float[Tensor, "batch head row column"], Float[Tensor, "batch head row"] | None]:
        """The weights of some heads in the rows first..stop-1, 0 in rows of padding.

        With `Sinks.REMOVED` they are 0 on the first tokens, and scaled to sum to 1 again where anything is left; then
        also what was left of each row.
        """
        found = weights(heads, first, stop)
        mask = self.mask.to(found.device)
        real = mask[:, None, first:stop]
        if self.sinks == Sinks.KEPT:
            return found * real[..., None], None
        sinks = (mask[:, :stop].cumsum(1) <= FIRST_TOKENS)[:, None, None]
        found = found.masked_fill(sinks, 0) * real[..., None]
        left = found.sum(-1)
        return torch.where(left[..., None] > 0, found / left[..., None], found), left

    def blocks_of(
        self, weights: Weights, heads: list[int], block: Callable[[int], range]
    ) -> Iterator[tuple[int, Float[Tensor, "batch head row column"], Float[Tensor, "batch head row"] | None]]:
        """The first row of each block of some heads, and what `rows_of` gives of it; nothing for no heads."""
        for first in (blocks := block(len(heads))) if heads else ():
            yield first, *self.rows_of(weights, heads, first, min(first + blocks.step, blocks.stop))

    @staticmethod
    def distances(first: int, rows: Tensor) -> Int[Tensor, "row column"]:
        """How far each column lies before each row."""
        steps = torch.arange(first, first + rows.shape[-2], device=rows.device)
        return steps[:, None] - torch.arange(rows.shape[-1], device=rows.device)[None]


class BatchRhythm(BatchAttention):
    """Collects WAAD and FAI."""

    def __init__(
        self,
        heads: CreditHeads,
        settings: Settings,
        sinks: Sinks,
        mask: Int[Tensor, "batch column"],
        start: int,
        stop_early: bool = True,
        block_bytes: int | None = None,
        rows: Int[Tensor, " batch"] | None = None,
    ) -> None:
        super().__init__(mask, start, sinks, stop_early, block_bytes, rows)
        self.heads, self.settings = heads, settings
        shape = (mask.shape[0], mask.shape[1] - start)
        self.waad: Float[Tensor, "batch token"] = torch.zeros(shape, device=mask.device)
        self._received: Float[Tensor, "batch token"] = torch.zeros(shape, device=mask.device)

    @property
    def layers(self) -> Sequence[int]:
        return self.heads.layers

    @property
    def fai(self) -> Float[Tensor, "batch token"]:
        """Mean attention from the response's tokens h_lo to h_hi ahead; NaN where there is none (Paper B, Def. 4.2)."""
        lengths = self.mask[:, self.start :].sum(1, keepdim=True)
        tokens = torch.arange(self._received.shape[1], device=self.mask.device)[None]
        last = torch.minimum(lengths - 1, tokens + self.settings.h_hi)
        queries = (last - tokens - self.settings.h_lo + 1).clamp(min=0)
        return torch.where(queries > 0, self._received / queries.clamp(min=1), torch.nan)

    def add(self, layer: int, weights: Weights, block: Callable[[int], range]) -> None:
        local, far = self.heads.of_layer(layer)
        for first, rows, left in self.blocks_of(weights, local, block):
            self._add_waad(first, rows.sum(1) / len(self.heads.local), left)
        for first, rows, _ in self.blocks_of(weights, far, block):
            self._add_received(first, rows.sum(1) / len(self.heads.far))

    def _add_waad(
        self, first: int, rows: Float[Tensor, "batch row column"], left: Float[Tensor, "batch head row"] | None
    ) -> None:
        distance = self.distances(first, rows)
        place = slice(first - self.start, first - self.start + rows.shape[1])
        found = torch.einsum("brc,rc->br", rows, distance.clamp(0, self.settings.window).to(rows))
        if left is not None:  # a token where a head looks nowhere has no WAAD
            real = self.mask[:, first : first + rows.shape[1]].to(left.device) != 0
            found = found.masked_fill((left == 0).any(1) & real, torch.nan)
        self.waad[:, place] += found.to(self.waad.device)

    def _add_received(self, first: int, rows: Float[Tensor, "batch row column"]) -> None:
        distance = self.distances(first, rows)[:, self.start :]
        near = (distance >= self.settings.h_lo) & (distance <= self.settings.h_hi)
        received = torch.einsum("brc,rc->bc", rows[:, :, self.start :], near.to(rows))
        self._received[:, : received.shape[1]] += received.to(self._received.device)


class BatchDistances(BatchAttention):
    """Collects the mean backward distance of every head of some layers (Paper B, section 4.1)."""

    def __init__(
        self, layers: Sequence[int], n_heads: int, sinks: Sinks, mask: Tensor, start: int, stop_early: bool = True
    ) -> None:
        super().__init__(mask, start, sinks, stop_early)
        self._layers, self._n_heads = sorted(layers), n_heads
        shape = (len(mask), len(layers), n_heads)
        self._distance, self._left = (torch.zeros(shape, dtype=torch.float64, device=mask.device) for _ in range(2))

    @property
    def layers(self) -> Sequence[int]:
        return self._layers

    @property
    def distance(self) -> Float[Tensor, "batch layer head"]:
        """In tokens, over the rows of each response; without sinks, of the attention that is left, NaN for a head that
        looks at little else, and for a response without tokens. `layer` runs over the layers that were asked for."""
        lengths = self.mask[:, self.start :].sum(1)[:, None, None]
        found = self._distance / (lengths if self.sinks == Sinks.KEPT else self._left)
        enough = (self._left / lengths >= MIN_LEFT) | (self.sinks == Sinks.KEPT)
        return torch.where(enough & (lengths > 0), found, torch.nan)

    def add(self, layer: int, weights: Weights, block: Callable[[int], range]) -> None:
        if layer not in self._layers:
            return
        place = self._layers.index(layer)
        for first, rows, left in self.blocks_of(weights, list(range(self._n_heads)), block):
            distance = torch.einsum("bhrc,rc->bhr", rows, self.distances(first, rows).to(rows))
            if left is not None:
                distance = distance * left
                self._left[:, place] += left.sum(-1).double().to(self._left.device)
            self._distance[:, place] += distance.sum(-1).double().to(self._distance.device)


@torch.no_grad()
def measure_batch(
    model: torch.nn.Module, core: PreTrainedModel, ids: Int[Tensor, "batch column"], into: BatchAttention
) -> None:
    """One forward pass of `model` (as wrapped for training) over a padded batch that fills `into`.

    `core` is the model inside the wrapping. Raises UserError for attention that is more than a masked softmax.
    """
    with suppress(_Enough), attending(core, into.attend):
        model(input_ids=ids, attention_mask=into.mask, use_cache=False, logits_to_keep=1)
    into.require_all_seen()
