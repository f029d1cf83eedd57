"""WAAD and FAI of a padded batch of responses, from one extra forward pass over a model in training.

The same measures as `interp.rhythm.waad_fai`, for a few chosen heads and many sequences at a time: a registered
attention function makes the weights of those heads' response rows block by block and leaves the layer's output to fused
attention. The pass ends at the last layer that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from interp.errors import UserError
from interp.heads.reductions import FIRST_TOKENS
from interp.heads.scores import Head
from interp.model.streaming import BLOCK_BYTES, require_plain_softmax
from interp.rhythm.waad_fai import NOTHING_LEFT, Settings, Sinks

IMPLEMENTATION = "anchorlens_credit"


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

    def take(self, layer: int, query: Tensor, key: Tensor, scale: float, visible: Tensor | None) -> None:
        """A layer's rotated queries and keys, [batch, head, column, d], and the model's own mask."""
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
                    add(first, self._mean_rows(query, key, heads, first, stop, scale, visible) / total)
        if self.stop_early and layer == self.heads.last_layer:
            raise _Enough

    def _mean_rows(
        self,
        query: Tensor,
        key: Tensor,
        heads: list[int],
        first: int,
        stop: int,
        scale: float,
        visible: Tensor | None,
    ) -> Float[Tensor, "batch row column"]:
        """The sum over some heads of the attention weights of rows first..stop-1 over columns 0..stop-1."""
        group = query.shape[1] // key.shape[1]
        q = query[:, heads, first:stop].float()
        k = key[:, [head // group for head in heads], :stop].float()
        scores = (q @ k.transpose(2, 3)) * scale
        rows = torch.arange(first, stop, device=query.device)[:, None]
        columns = torch.arange(stop, device=query.device)[None]
        hidden = columns > rows
        if visible is not None:
            hidden = hidden | ~visible[:, :, first:stop, :stop]
        padding = self.mask[:, None, None, :stop] == 0
        # A row of padding sees nothing: finite, so that its weights are wrong and not NaN. They are never read.
        weights = scores.masked_fill(hidden | padding, torch.finfo(torch.float32).min).softmax(-1)
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


_current: ContextVar[BatchRhythm] = ContextVar("credit_pass")


@torch.no_grad()
def measure_batch(
    model: torch.nn.Module, core: PreTrainedModel, ids: Int[Tensor, "batch column"], into: BatchRhythm
) -> None:
    """One forward pass of `model` (as wrapped for training) over a padded batch that fills `into`.

    `core` is the model inside the wrapping. Raises UserError for attention that is more than a masked softmax.
    """
    token = _current.set(into)
    try:
        with _measuring(core):
            model(input_ids=ids, attention_mask=into.mask, use_cache=False, logits_to_keep=1)
    except _Enough:
        pass
    finally:
        _current.reset(token)
    into.require_all_seen()


@contextmanager
def _measuring(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    require_plain_softmax(kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    _current.get().take(int(module.layer_idx), query, key, scale, attention_mask)  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
