"""The one place that calls `generate`: rows padded on the left, decoded as the configuration given says, no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from interp.model.lens import Lens
from interp.model.pieces import in_pieces


@torch.no_grad()
def decoded(
    lens: Lens,
    rows: Sequence[Sequence[int]],
    config: GenerationConfig,
    past_key_values: Cache | None = None,
    processors: Sequence[LogitsProcessor] = (),
) -> Any:
    """What `generate` returns for token sequences side by side; `past_key_values` holds all but their last tokens, and
    `processors` may change what is chosen."""
    batch = lens.tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt")
    ids, mask = batch["input_ids"].to(lens.device), batch["attention_mask"].to(lens.device)
    cache = {} if past_key_values is None else {"past_key_values": past_key_values}
    with plain_decoding(lens.hf), in_pieces(lens, ids):
        return lens.hf.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            **cache,
        )


class OwnDraws(LogitsProcessor):
    """Samples each row's next token by random numbers of the row's own, so that what a row is does not depend on the
    rows beside it: a number for each step, looked up in the cumulated probabilities. For `do_sample=False`."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, width: int, steps: int) -> None:
        """`width`: of the padded rows that are continued; `steps`: the most tokens that any row gets."""
        numbers = [torch.rand(steps, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        self._numbers = torch.stack(numbers)
        self._width = width
        self._warps: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
        self._warps += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        warped = scores
        for warp in self._warps:
            warped = warp(input_ids, warped)
        exact = torch.float32 if scores.device.type == "mps" else torch.float64  # which MPS does not have
        total = warped.softmax(-1, dtype=exact).cumsum(-1)
        number = self._numbers[:, input_ids.shape[1] - self._width, None].to(total)
        chosen = torch.searchsorted(total, number * total[:, -1:], right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@contextmanager
def plain_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model's own generation settings are transformers' defaults, but for its special tokens: whatever a
    caller of `generate` leaves open is filled in from there."""
    own = model.generation_config
    assert own is not None
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)
    try:
        yield
    finally:
        model.generation_config = own
