"""Streaming reductions of attention: measures of every head in one forward pass, without ever keeping a T x T pattern.

Our attention function sees the rotated queries and keys of each layer, computes the softmax for one block of
query rows at a time, hands the block to the reductions, and leaves the layer's output to fused attention. Memory is
O(heads x block x T). TransformerLens' `hook_pattern` is the reference that this is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.attention import LayerAttention, attending, attention_rows
from interp.model.lens import Lens
from interp.model.pieces import in_pieces
from interp.model.trial import some_ids, tried
from interp.model.unembedding import trunk_of

MASSES = "attention masses"
CHECKED_ROWS = 8
"""So many rows of every layer are compared with the layer's output, in every pass."""
WEIGHT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
HALF_TOLERANCE = 0.05
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
    """What the attention function works for."""

    reductions: Sequence[Reduction]
    block_bytes: int
    n_heads: int
    seen: list[int] = field(default_factory=list)
    """The layers whose attention has come by."""

    def attend(self, call: LayerAttention) -> Tensor:
        """The layer's output by fused attention, its weights block by block to the reductions."""
        self.seen.append(call.layer)
        if call.query.shape[1] != self.n_heads:
            raise UserError(
                f"layer {call.layer} has {call.query.shape[1]} heads and others {self.n_heads}: {MASSES} need as many "
                "in each"
            )
        wanted = sorted({row for reduction in self.reductions for row in (reduction.rows.start, reduction.rows.stop)})
        for start, stop in pairwise(wanted):
            takers = [r for r in self.reductions if r.rows.start <= start and stop <= r.rows.stop]
            if takers:
                block = max(1, self.block_bytes // (call.query.shape[1] * stop * 4))
                for first in range(start, stop, block):
                    pattern = _pattern(call, first, min(first + block, stop))
                    for reduction in takers:
                        reduction.add(call.layer, first, pattern)
        output = call.output(call.mask)
        _require_same_output(call, output[0])
        return output


@torch.no_grad()
def stream(
    lens: Lens, token_ids: Sequence[int], *reductions: Reduction, block_bytes: int | None = None
) -> Float[Tensor, "position d"]:
    """One forward pass over one unpadded sequence that feeds every reduction; returns the last layer's normalised
    output, from which the unembedding makes logits.

    A block holds at least one row of queries, however small `block_bytes`; None = BLOCK_BYTES of the device.
    Raises UserError for architectures whose attention is more than a masked softmax or not to be seen, and where the
    weights that were measured are not those that made the layer's output.
    """
    require_masses(lens)
    return _stream(lens, token_ids, reductions, block_bytes)


def require_masses(lens: Lens) -> None:
    """Raises UserError for architectures whose attention cannot be measured."""
    trunk_of(lens)  # found by a pass of its own, so before any other begins
    tried(lens, MASSES, lambda: _trial(lens))


def _stream(
    lens: Lens, token_ids: Sequence[int], reductions: Sequence[Reduction], block_bytes: int | None
) -> Float[Tensor, "position d"]:
    ids = torch.tensor([list(token_ids)], device=lens.device)
    this = _Pass(reductions, block_bytes or BLOCK_BYTES.get(lens.device.type, BLOCK_BYTES["cpu"]), lens.n_heads)
    with in_pieces(lens, ids), attending(lens.hf, this.attend):
        output: Tensor = trunk_of(lens)(ids, use_cache=False).last_hidden_state[0]
    if sorted(this.seen) != list(range(lens.n_layers)):
        seen = f"in {len(set(this.seen))} of {lens.n_layers} layers, {len(this.seen)} times in all"
        raise UserError(f"attention of {lens.name} can be seen {seen}: {MASSES} need it once in each")
    return output


class _Weights:
    """Keeps everything."""

    def __init__(self, n: int) -> None:
        self.rows, self.kept = range(n), dict[int, Tensor]()

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        whole = self.kept.setdefault(layer, pattern.new_zeros(pattern.shape[0], len(self.rows), len(self.rows)))
        whole[:, first_row : first_row + pattern.shape[1], : pattern.shape[2]] = pattern


def _trial(lens: Lens) -> dict[str, float]:
    """Measured weights of a few tokens beside those that the model's own eager attention gives out."""
    ids = some_ids(lens)
    kept = _Weights(len(ids))
    _stream(lens, ids, [kept], None)
    ours = kept.kept if lens.hf.dtype in WEIGHT_TOLERANCE else _as_eager_rounds(lens, ids)
    own = eager_weights(lens, ids)
    difference = max(float((ours[layer] - own[layer].to(ours[layer])).abs().max()) for layer in ours)
    if not difference <= WEIGHT_TOLERANCE.get(lens.hf.dtype, HALF_TOLERANCE):
        raise UserError(f"attention of {lens.name} is not what its own eager attention gives: off by {difference:.2g}")
    return {"tokens": len(ids), "largest_difference_from_eager": difference}


@torch.no_grad()
def _as_eager_rounds(lens: Lens, token_ids: Sequence[int]) -> dict[int, Float[Tensor, "head row key"]]:
    """The weights of a pass in which every score is rounded to half precision, as eager attention does.

    Scores of models with large key biases (Qwen 2.5) lie in the hundreds, where bfloat16 has steps of .5 to 2: eager
    weights are then wrong by as much as .5, and what is measured (float32 scores, as in fused attention) is not. What
    there is to test is whether queries, keys, scale and mask are the model's.
    """
    found: dict[int, Tensor] = {}

    def attend(call: LayerAttention) -> Tensor:
        _, heads, n, _ = call.query.shape
        group = heads // call.key.shape[1]
        key, value = call.key.repeat_interleave(group, 1), call.value.repeat_interleave(group, 1)
        scores = torch.matmul(call.query, key.transpose(2, 3)) * call.scale
        seen = torch.ones(n, n, dtype=torch.bool, device=scores.device).tril() if call.mask is None else call.mask
        weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).float().softmax(-1)
        found[call.layer] = weights[0]
        return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).contiguous()

    with attending(lens.hf, attend):
        trunk_of(lens)(torch.tensor([list(token_ids)], device=lens.device), use_cache=False)
    return found


@torch.no_grad()
def eager_weights(lens: Lens, token_ids: Sequence[int]) -> list[Float[Tensor, "head row key"]]:
    """Every layer's attention weights from the model's own eager attention; memory O(layers x heads x T x T)."""
    lens.hf.set_attn_implementation("eager")
    try:
        ids = torch.tensor([list(token_ids)], device=lens.device)
        weights = trunk_of(lens)(ids, use_cache=False, output_attentions=True).attentions
    finally:
        lens.hf.set_attn_implementation(lens.attention)
    if weights is None or len(weights) != lens.n_layers or any(one is None for one in weights):
        raise UserError(f"{lens.name} does not give out its attention weights: they cannot be measured")
    return [one[0] for one in weights]


def _pattern(call: LayerAttention, first: int, stop: int) -> Float[Tensor, "head block visible"]:
    """Attention weights of query rows first..stop-1 over keys 0..stop-1."""
    mask = None if call.mask is None else call.mask[:, :, first:stop, :stop]
    return attention_rows(call.query[:, :, first:stop], call.key[:, :, :stop], first, call.scale, mask)[0]


def _require_same_output(call: LayerAttention, output: Float[Tensor, "row head d"]) -> None:
    """Raises UserError unless the measured weights give the layer's output, at a few rows of the sequence at hand."""
    n, worst = call.query.shape[2], 0.0
    key_heads = call.key.shape[1]
    for row in sorted({round(i * (n - 1) / (CHECKED_ROWS - 1)) for i in range(CHECKED_ROWS)}):
        pattern = _pattern(call, row, row + 1)
        values = call.value[0, :, : row + 1].to(pattern)
        expected = torch.bmm(pattern.view(key_heads, -1, row + 1), values).flatten(0, 1)
        worst = max(worst, float((expected - output[row].to(expected)).abs().max()))
    size = float(output.abs().max())
    if not worst <= OUTPUT_TOLERANCE.get(call.query.dtype, HALF_TOLERANCE) * size:
        raise UserError(
            f"layer {call.layer} makes its output otherwise than by the attention that was measured (off by "
            f"{worst:.2g} of {size:.2g}): {MASSES} of this model cannot be trusted"
        )
