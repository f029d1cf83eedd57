"""WAAD and FAI of padded batches equal those of one trace at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, random_lens
from transformers import LlamaConfig, PreTrainedTokenizerBase

from interp.credit import BatchRanking, CreditRule, Strategy, credit, rank_heads
from interp.credit.gamma import Signals, gamma_of
from interp.credit.signals import BatchRhythm, CreditHeads, measure_batch
from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.attention import LayerAttention, attending
from interp.model.lens import Lens
from interp.rhythm.head_sets import Ranking, rank_by_distance
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


def response_lengths() -> torch.Tensor:
    longest = max(n for _, n in LENGTHS)
    return (torch.arange(longest)[None] < torch.tensor([n for _, n in LENGTHS])[:, None]).long()


@pytest.mark.parametrize("sinks", list(Sinks))
def test_heads_ranked_on_a_batch_are_those_ranked_on_traces(small_lens: Lens, sinks: Sinks) -> None:
    prompts, responses, ids, mask = batch(small_lens)
    traces = [
        replace(parse_response(prompt, response, small_lens.tokenizer, small_lens.markers), example=str(i))
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    ranking = Ranking(["all"], [sinks], 0.3, None, 3, SETTINGS, None)
    rows = rank_by_distance(small_lens, traces, ranking)
    wanted = [{(r["layer"], r["head"]) for r in rows if r["kind"] == kind} for kind in ("local", "global")]
    n = max(n for _, n in LENGTHS)
    found = rank_heads(small_lens.hf, small_lens.hf, ids, mask, n, BatchRanking("all", 0.3, sinks))
    assert [{*found.local}, {*found.far}] == wanted
    # A response that is masked out does not count, and neither does one behind those that are asked for.
    empty = torch.cat([mask[:1], mask]), torch.cat([ids[:1], ids])
    empty[0][0, -n:] = 0
    assert rank_heads(small_lens.hf, small_lens.hf, empty[1], empty[0], n, BatchRanking("all", 0.3, sinks)) == found
    twice = torch.cat([ids, ids[:1]]), torch.cat([mask, mask[:1]])
    some = BatchRanking("all", 0.3, sinks, responses=3)
    assert rank_heads(small_lens.hf, small_lens.hf, *twice, n, some) == found


@pytest.mark.parametrize("strategy", [Strategy.COUPLED, Strategy.LOCAL_CHUNK, Strategy.SOFT])
@pytest.mark.parametrize("sinks", list(Sinks))
def test_credit_from_a_model_from_its_weights_and_from_traces_is_the_same(
    small_lens: Lens, sinks: Sinks, strategy: Strategy
) -> None:
    prompts, responses, ids, mask = batch(small_lens)
    lengths, rule = response_lengths(), CreditRule(strategy)
    about = {"heads": HEADS, "settings": SETTINGS, "sinks": sinks}
    found = credit(small_lens.hf, ids, mask, lengths, rule, **about)
    assert found.dtype == torch.float32
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        trace = parse_response(prompt, response, small_lens.tokenizer, small_lens.markers)
        of_heads = measure_rhythm(small_lens, trace, SETTINGS, [sinks])[0][sinks]
        waad, fai = (
            torch.tensor(of_heads.over(heads, name))[None]
            for heads, name in ((HEADS.local, "waad"), (HEADS.far, "fai"))
        )
        n = len(response)
        wanted = gamma_of(rule, Signals(waad=waad, fai=fai), torch.ones(1, n).long())
        torch.testing.assert_close(found[i : i + 1, :n], wanted, atol=1e-4, rtol=1e-4)
        assert bool((found[i, n:] == 1).all())
    with eager(small_lens), torch.no_grad():
        weights = small_lens.hf(ids, attention_mask=mask, output_attentions=True).attentions
    from_weights = credit(weights, ids, mask, lengths, rule, **about)
    torch.testing.assert_close(from_weights, found, atol=1e-4, rtol=1e-4)


@contextmanager
def eager(lens: Lens) -> Iterator[None]:
    lens.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        lens.hf.set_attn_implementation("sdpa")


def test_credit_says_what_it_misses(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(LlamaConfig(**SMALL), words)
    _, _, ids, mask = batch(lens)
    lengths = response_lengths()
    with pytest.raises(UserError, match="entropy="):
        credit(lens.hf, ids, mask, lengths, CreditRule(Strategy.ENTROPY))
    with pytest.raises(UserError, match="do not fit"):
        credit(lens.hf, ids, mask[:2], lengths)
    with pytest.raises(UserError, match="heads are ranked on a model"):
        credit([], ids, mask, lengths)
    with pytest.raises(UserError, match="cannot be seen"):
        credit([], ids, mask, lengths, heads=HEADS)
    with pytest.raises(UserError, match="a model of transformers"):
        credit(torch.nn.Linear(1, 1), ids, mask, lengths, heads=HEADS)
    first = credit(lens.hf, ids, mask, lengths, CreditRule(Strategy.RANDOM), noise=torch.rand(lengths.shape))
    assert ((first > 1) & lengths.bool()).sum(1).tolist() == [8, 5, 1]
    by_entropy = credit(lens.hf, ids, mask, lengths, CreditRule(Strategy.ENTROPY), entropy=torch.rand(lengths.shape))
    assert ((by_entropy > 1) & lengths.bool()).sum(1).tolist() == [8, 5, 1]


def test_only_the_rows_that_are_asked_for_are_measured(small_lens: Lens) -> None:
    _, _, ids, mask = batch(small_lens)
    start = max(n for n, _ in LENGTHS)
    whole = BatchRhythm(HEADS, SETTINGS, Sinks.KEPT, mask, start)
    measure_batch(small_lens.hf, small_lens.hf, ids, whole)
    rows = torch.tensor([2, 0])
    some = BatchRhythm(HEADS, SETTINGS, Sinks.KEPT, mask[rows], start, stop_early=False, rows=rows)
    with torch.no_grad(), attending(small_lens.hf, some.attend):
        small_lens.hf(ids, attention_mask=mask)
    torch.testing.assert_close(some.waad, whole.waad[rows])
    torch.testing.assert_close(some.fai, whole.fai[rows], equal_nan=True)


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
