"""Streaming reductions of attention: measures of every head in one forward pass, without ever keeping a T x T pattern.

Our attention function sees the rotated queries and keys of each layer, computes the softmax for one block of query rows
at a time and hands the block to the reductions. On a CPU the block also makes these rows of the layer's output, so that
no score is computed twice; rows that no reduction needs, and GPUs, have fused attention for it. Memory is
O(heads x block x T). TransformerLens' `hook_pattern` is the reference that this is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Protocol

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
WEIGHT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Eager attention has its softmax in float32 even in float64."""
OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
HALF_TOLERANCE = 0.05
BLOCK_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
"""Default size of one block of float32 attention weights: one that a CPU's cache holds, one that fills a GPU."""


class Reduction(Protocol):
    """Takes in attention weights block by block. The order of blocks and layers must not matter to the result."""

    rows: range
    """The query positions that it needs."""

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        """Rows first_row, first_row + 1, ... of a layer's pattern over keys 0..key-1; later keys have weight 0.

        The block's memory is used again for the next one: what is kept must be a copy.
        """
        ...


class Output(StrEnum):
    """What makes a layer's output in a pass that measures."""

    WEIGHTS = "weights"
    """The blocks of weights from the first measured row on, and fused attention before it."""
    FUSED = "fused"
    """Fused attention beside the blocks."""

    @classmethod
    def of(cls, lens: Lens) -> Output:
        """Weights on a CPU, where they cost less than fused attention beside the blocks (benchmarks/measuring.py). A
        model in half precision keeps its own rounding of them."""
        whole = lens.hf.dtype in (torch.float32, torch.float64)
        return cls.WEIGHTS if lens.device.type == "cpu" and whole else cls.FUSED


@dataclass
class _Pass:
    """What the attention function works for."""

    reductions: Sequence[Reduction]
    block_bytes: int
    n_heads: int
    output: Output
    seen: list[int] = field(default_factory=list)
    """The layers whose attention has come by."""

    def attend(self, call: LayerAttention) -> Tensor:
        """The layer's output, its weights block by block to the reductions."""
        self.seen.append(call.layer)
        if call.query.shape[1] != self.n_heads:
            raise UserError(
                f"layer {call.layer} has {call.query.shape[1]} heads and others {self.n_heads}: {MASSES} need as many "
                "in each"
            )
        if self.output == Output.FUSED:
            for _ in self._blocks(call, call.query.shape[2]):
                pass  # the reductions have taken it in
            output = call.output(call.mask)
        else:
            output = self._of_weights(call)
        _require_same_output(call, output[0], self.output)
        return output

    def _of_weights(self, call: LayerAttention) -> Float[Tensor, "row q head d"]:
        """The layer's output, made of the weights from the first measured row on."""
        start = min((r.rows.start for r in self.reductions if len(r.rows)), default=call.query.shape[2])
        before = call.rows(0, start)
        made = [before.output(before.mask)[0]] if start else []
        made += [_times(pattern, call.value).to(call.value.dtype) for pattern in self._blocks(call, start)]
        return torch.cat(made)[None]

    def _blocks(self, call: LayerAttention, start: int) -> Iterator[Float[Tensor, "head row key"]]:
        """Gives the weights block by block to the reductions that need them, and out: all rows from `start` on, and
        those before it that a reduction needs."""
        n, work = call.query.shape[2], torch.promote_types(call.query.dtype, torch.float32)
        most = min(n * n, max(n, self._weights))
        memory = call.query.new_empty(self.n_heads * most, dtype=work)
        edges = {edge for reduction in self.reductions for edge in (reduction.rows.start, reduction.rows.stop)}
        for low, high in pairwise(sorted(edges | {start, n})):
            takers = [r for r in self.reductions if r.rows.start <= low and high <= r.rows.stop]
            if takers or low >= start:
                while low < high:
                    stop = min(high, low + self._most_rows(low))
                    pattern = _pattern(call, low, stop, memory)
                    for reduction in takers:
                        reduction.add(call.layer, low, pattern)
                    yield pattern
                    low = stop

    @property
    def _weights(self) -> int:
        """How many weights of each head a block may hold."""
        return self.block_bytes // (4 * self.n_heads)

    def _most_rows(self, first: int) -> int:
        """How many rows from `first` on fit into a block: n rows have first + n keys."""
        return max(1, (math.isqrt(first**2 + 4 * self._weights) - first) // 2)


@torch.no_grad()
def stream(
    lens: Lens,
    token_ids: Sequence[int],
    *reductions: Reduction,
    block_bytes: int | None = None,
    output: Output | None = None,
) -> Float[Tensor, "position d"]:
    """One forward pass over one unpadded sequence that feeds every reduction; returns the last layer's normalised
    output, from which the unembedding makes logits.

    A block holds at least one row of queries, however small `block_bytes`; None = BLOCK_BYTES of the device. `output`
    says what makes the layers' outputs; None = the faster way on the device.
    Raises UserError for architectures whose attention is more than a masked softmax or not to be seen, and where the
    weights that were measured are not those that made the layer's output.
    """
    require_masses(lens)
    return _stream(lens, token_ids, reductions, block_bytes, output)


def require_masses(lens: Lens) -> None:
    """Raises UserError for architectures whose attention cannot be measured."""
    trunk_of(lens)  # found by a pass of its own, so before any other begins
    tried(lens, MASSES, lambda: _trial(lens))


def _stream(
    lens: Lens,
    token_ids: Sequence[int],
    reductions: Sequence[Reduction],
    block_bytes: int | None = None,
    output: Output | None = None,
) -> Float[Tensor, "position d"]:
    ids = torch.tensor([list(token_ids)], device=lens.device)
    block = block_bytes or BLOCK_BYTES.get(lens.device.type, BLOCK_BYTES["cpu"])
    this = _Pass(reductions, block, lens.n_heads, output or Output.of(lens))
    with in_pieces(lens, ids), attending(lens.hf, this.attend):
        hidden: Tensor = trunk_of(lens)(ids, use_cache=False).last_hidden_state[0]
    if sorted(this.seen) != list(range(lens.n_layers)):
        seen = f"in {len(set(this.seen))} of {lens.n_layers} layers, {len(this.seen)} times in all"
        raise UserError(f"attention of {lens.name} can be seen {seen}: {MASSES} need it once in each")
    return hidden


class _Weights:
    """Keeps everything."""

    def __init__(self, n: int) -> None:
        self.rows, self.kept = range(n), dict[int, Tensor]()

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        whole = self.kept.setdefault(layer, pattern.new_zeros(pattern.shape[0], len(self.rows), len(self.rows)))
        whole[:, first_row : first_row + pattern.shape[1], : pattern.shape[2]] = pattern


def _trial(lens: Lens) -> dict[str, Any]:
    """Measured weights of a few tokens beside those that the model's own eager attention gives out."""
    ids = some_ids(lens)
    kept = _Weights(len(ids))
    _stream(lens, ids, [kept])
    ours = kept.kept if lens.hf.dtype in WEIGHT_TOLERANCE else _as_eager_rounds(lens, ids)
    own = eager_weights(lens, ids)
    difference = max(float((ours[layer] - own[layer].to(ours[layer])).abs().max()) for layer in ours)
    if not difference <= WEIGHT_TOLERANCE.get(lens.hf.dtype, HALF_TOLERANCE):
        raise UserError(f"attention of {lens.name} is not what its own eager attention gives: off by {difference:.2g}")
    made_of = Output.of(lens).value
    return {"tokens": len(ids), "largest_difference_from_eager": difference, "output_made_of": made_of}


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


def _pattern(
    call: LayerAttention, first: int, stop: int, memory: Float[Tensor, " number"] | None = None
) -> Float[Tensor, "head row key"]:
    """Attention weights of query rows first..stop-1 over keys 0..stop-1."""
    part = call.rows(first, stop)
    return attention_rows(part.query, part.key, first, part.scale, part.mask, memory=memory)[0]


def _times(
    pattern: Float[Tensor, "head row key"], value: Float[Tensor, "1 kv_head key_or_later d"]
) -> Float[Tensor, "row head d"]:
    """The rows' weights times the values of their keys."""
    heads, rows, keys = pattern.shape
    values = value[0, :, :keys].to(pattern)
    return torch.bmm(pattern.view(len(values), -1, keys), values).view(heads, rows, -1).transpose(0, 1)


def _require_same_output(call: LayerAttention, output: Float[Tensor, "row head d"], made_of: Output) -> None:
    """Raises UserError unless the measured weights give the layer's own output, at a few rows of the sequence at hand.

    An output made of weights is compared with fused attention of each row alone, as in decoding.
    """
    n, worst = call.query.shape[2], 0.0
    for row in sorted({round(i * (n - 1) / (CHECKED_ROWS - 1)) for i in range(CHECKED_ROWS)}):
        if made_of == Output.FUSED:
            other = _times(_pattern(call, row, row + 1), call.value)
        else:
            alone = call.rows(row, row + 1)
            other = alone.output(alone.mask)[0]
        worst = max(worst, float((other[0] - output[row].to(other)).abs().max()))
    size = float(output.abs().max())
    if not worst <= OUTPUT_TOLERANCE.get(call.query.dtype, HALF_TOLERANCE) * size:
        raise UserError(
            f"layer {call.layer} makes its output otherwise than by the attention that was measured (off by "
            f"{worst:.2g} of {size:.2g}): {MASSES} of this model cannot be trusted"
        )
