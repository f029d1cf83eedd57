"""WAAD and FAI of a padded batch of responses, from one extra forward pass over a model in training.

The same measures as `interp.rhythm.waad_fai`, for a few chosen heads and many sequences at a time: our
attention function makes the weights of those heads' response rows block by block and leaves the layer's output to fused
attention. The pass ends at the last layer that is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.heads.reductions import FIRST_TOKENS
from interp.heads.scores import Head
from interp.model.attention import LayerAttention, attending, attention_rows
from interp.model.streaming import BLOCK_BYTES
from interp.rhythm.waad_fai import NOTHING_LEFT, Settings, Sinks


@dataclass(frozen=True)
class CreditHeads:
    """The heads that WAAD (local) and FAI (global) are averaged over; none = that measure is not made."""

    local: Sequence[Head] = ()
    far: Sequence[Head] = ()

    @property
    def last_layer(self) -> int:
        return max(head.layer for head in (*self.local, *self.far))

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


@dataclass
class BatchRhythm:
    """Collects WAAD and FAI while a batch goes through the model.

    Prompts are padded on the left and responses on the right, so that the distance of two tokens is that of their
    columns. Row t of the response is the query at column `start + t`.
    """

    heads: CreditHeads
    settings: Settings
    sinks: Sinks
    mask: Int[Tensor, "batch column"]
    start: int
    """The first column of the responses."""
    stop_early: bool = True
    block_bytes: int | None = None
    waad: Float[Tensor, "batch token"] = field(init=False)
    _received: Float[Tensor, "batch token"] = field(init=False)
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        shape = (self.mask.shape[0], self.mask.shape[1] - self.start)
        self.waad = torch.zeros(shape, device=self.mask.device)
        self._received = torch.zeros(shape, device=self.mask.device)

    @property
    def fai(self) -> Float[Tensor, "batch token"]:
        """Mean attention from the response's tokens h_lo to h_hi ahead; NaN where there is none (Paper B, Def. 4.2)."""
        lengths = self.mask[:, self.start :].sum(1, keepdim=True)
        tokens = torch.arange(self._received.shape[1], device=self.mask.device)[None]
        last = torch.minimum(lengths - 1, tokens + self.settings.h_hi)
        queries = (last - tokens - self.settings.h_lo + 1).clamp(min=0)
        return torch.where(queries > 0, self._received / queries.clamp(min=1), torch.nan)

    def require_all_seen(self) -> None:
        """Raises UserError where a layer whose heads are needed has not come by."""
        missing = sorted({head.layer for head in (*self.heads.local, *self.heads.far)} - self._seen)
        if missing:
            raise UserError(
                f"the attention of layers {missing} cannot be seen: credit cannot be measured on this model"
            )

    def attend(self, call: LayerAttention) -> Tensor:
        """Takes in a layer's rows, and leaves its output to fused attention."""
        # Under autocast products of float32 would be rounded to half precision again.
        with torch.autocast(call.query.device.type, enabled=False):
            self._take_in(call)
        if self.stop_early and call.layer == self.heads.last_layer:
            raise _Enough
        return call.output(call.mask)

    def _take_in(self, call: LayerAttention) -> None:
        layer, query = call.layer, call.query
        self._seen.add(layer)
        for heads, add, total in zip(
            self.heads.of_layer(layer),
            (self._add_waad, self._add_received),
            (len(self.heads.local), len(self.heads.far)),
            strict=True,
        ):
            if heads:
                size = query.shape[0] * len(heads) * query.shape[2] * 4
                limit = self.block_bytes or BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
                block = max(1, limit // size)
                for first in range(self.start, query.shape[2], block):
                    stop = min(first + block, query.shape[2])
                    add(first, self._mean_rows(call, heads, first, stop) / total)

    def _mean_rows(
        self, call: LayerAttention, heads: list[int], first: int, stop: int
    ) -> Float[Tensor, "batch row column"]:
        """The sum over some heads of the attention weights of rows first..stop-1 over columns 0..stop-1."""
        group = call.query.shape[1] // call.key.shape[1]
        query = call.query[:, heads, first:stop].float()
        key = call.key[:, [head // group for head in heads], :stop].float()
        seen = self.mask[:, None, None, :stop] != 0
        if call.mask is not None:
            seen = seen & call.mask[:, :, first:stop, :stop]
        weights = attention_rows(query, key, first, call.scale, seen, padded=True)
        if self.sinks is Sinks.REMOVED:
            real = self.mask[:, :stop].cumsum(1)[:, None, None]
            weights = weights.masked_fill(real <= FIRST_TOKENS, 0)
            left = weights.sum(-1, keepdim=True)
            weights = torch.where(left > NOTHING_LEFT, weights / left, torch.zeros_like(weights))
        return weights.sum(1) * self.mask[:, first:stop, None]

    def _add_waad(self, first: int, rows: Float[Tensor, "batch row column"]) -> None:
        distance = self._distances(first, rows)
        place = slice(first - self.start, first - self.start + rows.shape[1])
        self.waad[:, place] += torch.einsum("brc,rc->br", rows, distance.clamp(0, self.settings.window).to(rows))

    def _add_received(self, first: int, rows: Float[Tensor, "batch row column"]) -> None:
        distance = self._distances(first, rows)[:, self.start :]
        near = (distance >= self.settings.h_lo) & (distance <= self.settings.h_hi)
        received = torch.einsum("brc,rc->bc", rows[:, :, self.start :], near.to(rows))
        self._received[:, : received.shape[1]] += received

    @staticmethod
    def _distances(first: int, rows: Tensor) -> Int[Tensor, "row column"]:
        steps = torch.arange(first, first + rows.shape[1], device=rows.device)
        return steps[:, None] - torch.arange(rows.shape[2], device=rows.device)[None]


@torch.no_grad()
def measure_batch(
    model: torch.nn.Module, core: PreTrainedModel, ids: Int[Tensor, "batch column"], into: BatchRhythm
) -> None:
    """One forward pass of `model` (as wrapped for training) over a padded batch that fills `into`.

    `core` is the model inside the wrapping. Raises UserError for attention that is more than a masked softmax.
    """
    with suppress(_Enough), attending(core, into.attend):
        model(input_ids=ids, attention_mask=into.mask, use_cache=False, logits_to_keep=1)
    into.require_all_seen()
