"""Streaming reductions of attention: measures of every head in one forward pass, without ever keeping a T x T pattern.

A registered attention function sees the rotated queries and keys of each layer, computes the softmax for one block of
query rows at a time, hands the block to the reductions, and leaves the layer's output to fused attention. Memory is
O(heads x block x T). TransformerLens' `hook_pattern` is the reference that this is tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from interp.errors import UserError
from interp.lens import Lens

IMPLEMENTATION = "anchorlens_streaming"
BLOCK_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
"""Default size of one block of float32 attention weights: one that a CPU's cache holds, one that fills a GPU."""


class Reduction(Protocol):
    """Takes in attention weights block by block. The order of blocks and layers must not matter to the result."""

    rows: range
    """The query positions that it needs."""

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        """Rows first_row, first_row + 1, ... of a layer's pattern over keys 0..key-1; later keys have weight 0."""
        ...


@dataclass
class _Pass:
    """What the registered attention function works for."""

    reductions: Sequence[Reduction]
    block_bytes: int


_current: ContextVar[_Pass] = ContextVar("streaming_pass")


@torch.no_grad()
def stream(
    lens: Lens, token_ids: Sequence[int], *reductions: Reduction, block_bytes: int | None = None
) -> Float[Tensor, "position d"]:
    """One forward pass over one unpadded sequence that feeds every reduction; returns the last layer's normalised
    output, from which the unembedding makes logits.

    A block holds at least one row of queries, however small `block_bytes`; None = BLOCK_BYTES of the device.
    Raises UserError for architectures whose attention is more than a causal (or sliding-window) softmax.
    """
    ids = torch.tensor([list(token_ids)], device=lens.device)
    token = _current.set(_Pass(reductions, block_bytes or BLOCK_BYTES.get(lens.device.type, BLOCK_BYTES["cpu"])))
    try:
        with _streaming_attention(lens):
            output: Tensor = lens.hf.base_model(ids, use_cache=False).last_hidden_state[0]
    finally:
        _current.reset(token)
    return output


@contextmanager
def _streaming_attention(lens: Lens) -> Iterator[None]:
    lens.hf.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        lens.hf.set_attn_implementation("sdpa")


def require_plain_softmax(options: Mapping[str, Any]) -> None:
    """Raises UserError where a layer's attention is more than a softmax of scaled products."""
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unsupported:
        raise UserError(f"attention with {unsupported[0]} cannot be measured: use a model with plain softmax attention")


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "1 head row d"],
    key: Float[Tensor, "1 kv_head key d"],
    value: Float[Tensor, "1 kv_head key d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The layer's output by fused attention, its weights block by block to the reductions of the current pass."""
    require_plain_softmax(kwargs)
    this = _current.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    wanted = sorted({row for reduction in this.reductions for row in (reduction.rows.start, reduction.rows.stop)})
    for start, stop in pairwise(wanted):
        takers = [r for r in this.reductions if r.rows.start <= start and stop <= r.rows.stop]
        if takers:
            block = max(1, this.block_bytes // (query.shape[1] * stop * 4))
            for first in range(start, stop, block):
                pattern = pattern_rows(query[0], key[0], first, min(first + block, stop), scale, sliding_window)
                for reduction in takers:
                    reduction.add(layer, first, pattern)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
    )


def pattern_rows(
    query: Float[Tensor, "head row d"],
    key: Float[Tensor, "kv_head key d"],
    first: int,
    stop: int,
    scale: float,
    sliding_window: int | None = None,
) -> Float[Tensor, "head block visible"]:
    """Attention weights of query rows first..stop-1 over keys 0..stop-1, softmax in float32 (float64 stays float64).

    Grouped-query attention: query head h reads key head h // (heads / kv_heads).
    """
    heads, _, d = query.shape
    kv_heads = key.shape[0]
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    q = query[:, first:stop].to(work).reshape(kv_heads, heads // kv_heads * (stop - first), d)
    k = key[:, :stop].to(work)
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale).view(heads, stop - first, stop)
    rows = torch.arange(first, stop, device=query.device)[:, None]
    # Only keys from `first` on can lie in the future of a row of this block.
    future = torch.arange(first, stop, device=query.device)[None] > rows
    scores[:, :, first:].masked_fill_(future, float("-inf"))
    if sliding_window is not None:
        scores.masked_fill_(torch.arange(stop, device=query.device)[None] <= rows - sliding_window, float("-inf"))
    return scores.softmax(-1)


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
