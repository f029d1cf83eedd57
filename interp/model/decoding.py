"""The one place that calls `generate`: rows padded on the left, decoded as the configuration given says, no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

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
