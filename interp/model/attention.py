"""The one attention function of our own that models run with, and the one softmax of attention rows.

Whatever looks at a layer's rotated queries and keys, changes its mask or its output gives a function here; everything
else is left to fused attention. TransformerLens' hooks give the same, and the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from interp.errors import UserError

IMPLEMENTATION = "anchorlens"


@dataclass(frozen=True)
class LayerAttention:
    """What a layer's attention is asked to do, in one forward pass."""

    module: torch.nn.Module
    layer: int
    query: Float[Tensor, "row head q d"]
    """Rotated; the last q of the keys' positions."""
    key: Float[Tensor, "row kv_head key d"]
    value: Float[Tensor, "row kv_head key d"]
    mask: Tensor | None
    """The model's own, true where a key is seen; None = all keys up to the query."""
    scaling: float | None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scaling is None else self.scaling

    @property
    def places(self) -> Int[Tensor, " q"]:
        """The positions of the queries among the keys."""
        n_keys = self.key.shape[2]
        return torch.arange(n_keys - self.query.shape[2], n_keys, device=self.query.device)

    def allowed(self, mask: Tensor | None) -> Bool[Tensor, "row head q key"]:
        """What a mask (None = the future is hidden) lets each query of each head see."""
        n_keys = self.key.shape[2]
        if mask is None:
            mask = (torch.arange(n_keys, device=self.query.device)[None] <= self.places[:, None])[None, None]
        seen = mask if mask.dtype == torch.bool else mask >= 0
        return seen[..., :n_keys].expand(self.query.shape[0], self.query.shape[1], self.query.shape[2], n_keys)

    def rows(self, first: int, stop: int) -> LayerAttention:
        """The queries at positions first..stop-1 alone, with the keys up to the last; of a pass without a cache."""
        mask = None if self.mask is None else self.mask[:, :, first:stop, :stop]
        query = self.query[:, :, first:stop]
        return replace(self, query=query, key=self.key[:, :, :stop], value=self.value[:, :, :stop], mask=mask)

    def output(self, mask: Tensor | None) -> Float[Tensor, "row q head d"]:
        """The layer's output under a mask, by fused attention."""
        found: Tensor = sdpa_attention_forward(
            self.module, self.query, self.key, self.value, mask, scaling=self.scaling, **self.options
        )[0]
        return found


Attend = Callable[[LayerAttention], Float[Tensor, "row q head d"]]
_current: ContextVar[Attend] = ContextVar("attention")


@contextmanager
def attending(model: PreTrainedModel, attend: Attend) -> Iterator[None]:
    """While open, every layer's output is what `attend` makes of its queries, keys and values.

    Raises UserError, in the pass, where a layer's attention is more than a softmax of scaled products.
    """
    _register()
    before = model.config._attn_implementation
    token = _current.set(attend)
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _current.reset(token)


@cache
def _register() -> None:
    """Makes transformers know the function, when it is first needed: importing this module changes nothing."""
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "row q head d"], None]:
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unsupported:
        raise UserError(f"attention with {unsupported[0]} cannot be measured: use a model with plain softmax attention")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    attend = _current.get()
    return attend(LayerAttention(module, layer, query, key, value, attention_mask, scaling, kwargs)), None


def attention_rows(
    query: Float[Tensor, "row head q d"],
    key: Float[Tensor, "row kv_head key d"],
    first: int,
    scale: float,
    mask: Bool[Tensor, "#row #head q key"] | None = None,
    *,
    padded: bool = False,
    memory: Float[Tensor, " number"] | None = None,
) -> Float[Tensor, "row head q key"]:
    """Attention weights of the queries at positions first, first + 1, ... over keys 0..key-1.

    The softmax is in float32 (float64 stays float64). `mask` is true where a key is seen, beside the future being
    hidden. Grouped-query attention: query head h reads key head h // (heads / kv_heads). With `padded`, rows that see
    nothing are 0 instead of NaN. With `memory` the weights are written there, without gradients.
    """
    rows, heads, n, d = query.shape
    kv_heads, n_keys = key.shape[1], key.shape[2]
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    q = (query.to(work) * scale).reshape(rows * kv_heads, heads // kv_heads * n, d)
    k = key.to(work).reshape(rows * kv_heads, n_keys, d)
    place = None if memory is None else memory[: rows * heads * n * n_keys].view(len(q), -1, n_keys)
    scores = torch.bmm(q, k.transpose(1, 2), out=place).view(rows, heads, n, n_keys)
    places = torch.arange(first, first + n, device=query.device)[:, None]
    # Only keys from `first` on can lie in the future of one of these rows.
    future = torch.arange(first, n_keys, device=query.device)[None] > places
    scores[..., first:].masked_fill_(future, float("-inf"))
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    weights = torch.softmax(scores, -1, out=None if memory is None else scores)
    return weights.nan_to_num_(0.0) if padded else weights
