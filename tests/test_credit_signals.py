"""WAAD and FAI of padded batches equal those of one trace at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, random_lens
from transformers import LlamaConfig, PreTrainedTokenizerBase

from interp.credit.signals import BatchRhythm, CreditHeads, measure_batch
from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.attention import LayerAttention
from interp.model.lens import Lens
from interp.rhythm.waad_fai import Settings, Sinks, measure_rhythm
from interp.text.trace import parse_response
from tests.families import IDS, lens_of

SETTINGS = Settings(window=4, h_lo=3, h_hi=9)
HEADS = CreditHeads([Head(0, 1), Head(1, 4), Head(1, 5)], [Head(0, 0), Head(1, 3)])
LENGTHS = [(5, 20), (9, 12), (2, 3)]
"""Tokens of prompt and response."""


def batch(lens: Lens) -> tuple[list[list[int]], list[list[int]], torch.Tensor, torch.Tensor]:
    """Prompts, responses, and both as one batch: prompts padded on the left, responses on the right."""
    rng = np.random.default_rng(0)
    prompts = [[1, *rng.integers(5, 100, n - 1).tolist()] for n, _ in LENGTHS]
    responses = [rng.integers(5, 100, n).tolist() for _, n in LENGTHS]
    before, after = max(n for n, _ in LENGTHS), max(n for _, n in LENGTHS)
    ids, mask = torch.zeros(3, before + after, dtype=torch.long), torch.zeros(3, before + after, dtype=torch.long)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        real = slice(before - len(prompt), before + len(response))
        ids[i, real], mask[i, real] = torch.tensor(prompt + response), 1
    return prompts, responses, ids, mask


@pytest.mark.parametrize("sinks", list(Sinks))
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("block_bytes", [None, 1000])
def test_a_padded_batch_equals_traces_one_by_one(
    small_lens: Lens, sinks: Sinks, stop_early: bool, block_bytes: int | None
) -> None:
    prompts, responses, ids, mask = batch(small_lens)
    rhythm = BatchRhythm(HEADS, SETTINGS, sinks, mask, max(n for n, _ in LENGTHS), stop_early, block_bytes)
    measure_batch(small_lens.hf, small_lens.hf, ids, rhythm)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        trace = parse_response(prompt, response, small_lens.tokenizer, small_lens.markers)
        curves, _ = measure_rhythm(small_lens, trace, SETTINGS, [sinks])
        n = len(response)
        for found, name, heads in ((rhythm.waad, "waad", HEADS.local), (rhythm.fai, "fai", HEADS.far)):
            wanted = curves[sinks].over(heads, name)
            np.testing.assert_allclose(found[i, :n].numpy(), wanted, atol=2e-5, equal_nan=True)


def test_autocast_does_not_round_what_is_measured(small_lens: Lens) -> None:
    _, _, ids, mask = batch(small_lens)
    start = max(n for n, _ in LENGTHS)
    rounded, exact = (BatchRhythm(HEADS, SETTINGS, Sinks.KEPT, mask, start, stop_early=False) for _ in range(2))
    take_in = rounded._take_in

    def both(call: LayerAttention) -> None:
        take_in(call)
        with torch.autocast("cpu", enabled=False):
            exact._take_in(replace(call, query=call.query.double(), key=call.key.double()))

    rounded._take_in = both  # type: ignore[method-assign]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measure_batch(small_lens.hf, small_lens.hf, ids, rounded)
    torch.testing.assert_close(rounded.waad, exact.waad, atol=1e-5, rtol=0)
    torch.testing.assert_close(rounded.fai, exact.fai, atol=1e-6, rtol=0, equal_nan=True)


def test_a_sliding_window_is_kept_to(words: PreTrainedTokenizerBase) -> None:
    from transformers import MistralConfig

    lens = random_lens(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4), words)
    ids = torch.arange(5, 25)[None]
    rhythm = BatchRhythm(HEADS, Settings(window=10, h_lo=4, h_hi=9), Sinks.KEPT, torch.ones_like(ids), 3)
    measure_batch(lens.hf, lens.hf, ids, rhythm)
    assert float(rhythm.waad.max()) <= 3 + 1e-5  # nothing lies further back
    assert float(rhythm.fai.nan_to_num().max()) < 1e-6


def test_the_model_is_left_as_it_was(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(LlamaConfig(**SMALL), words)
    ids = torch.arange(5, 25)[None]
    before = lens.hf(ids).logits
    rhythm = BatchRhythm(HEADS, SETTINGS, Sinks.KEPT, torch.ones_like(ids), 3)
    measure_batch(lens.hf, lens.hf, ids, rhythm)
    assert lens.hf.config._attn_implementation == "sdpa"
    torch.testing.assert_close(lens.hf(ids).logits, before)


def test_layers_behind_the_last_needed_one_are_not_run(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(LlamaConfig(**SMALL), words)
    ran = []
    for i, layer in enumerate(lens.hf.base_model.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    ids = torch.arange(5, 25)[None]
    rhythm = BatchRhythm(HEADS, SETTINGS, Sinks.KEPT, torch.ones_like(ids), 3)
    measure_batch(lens.hf, lens.hf, ids, rhythm)
    assert ran == [0]


def test_a_model_whose_attention_cannot_be_seen_is_refused(words: PreTrainedTokenizerBase) -> None:
    """Falcon's layers do not call the registered function: without a look, every gamma would be 1."""
    lens = lens_of("falcon", words)
    ids = torch.tensor([IDS])
    heads = CreditHeads((Head(0, 1),), (Head(1, 0),))
    rhythm = BatchRhythm(heads, Settings(), Sinks.KEPT, torch.ones_like(ids), 10)
    with pytest.raises(UserError, match=r"the attention of layers \[0, 1\] cannot be seen"):
        measure_batch(lens.hf, lens.hf, ids, rhythm)
