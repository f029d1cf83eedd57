"""Streaming reductions: against a hand computation, closed forms, and full patterns from TransformerLens' hooks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, PreTrainedTokenizerBase, Qwen2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.errors import TraceError, UserError
from interp.heads.reductions import (
    FIRST_TOKENS,
    AttendedPositions,
    AttentionRows,
    ReceivedAttention,
    SegmentMasses,
    even_mass,
)
from interp.model import streaming
from interp.model.attention import IMPLEMENTATION, LayerAttention, attention_rows
from interp.model.lens import Lens
from interp.model.streaming import eager_weights, stream
from interp.text.trace import Segment, Span, Trace
from tests.conftest import SMALL, random_lens


def make_trace(*lengths: int) -> Trace:
    """A trace with segments of these lengths and token ids that are all different."""
    spans, start = [], 0
    for segment, length in zip(Segment, lengths, strict=True):
        spans.append(Span(segment, start, start + length))
        start += length
    ids = tuple((7 * i + 3) % 97 + 3 for i in range(start))
    return Trace("made", "", ids, ((0, 0),) * start, tuple(spans), "made")


def full_patterns(lens: Lens, ids: tuple[int, ...]) -> torch.Tensor:
    """(layer, head, query, key) from TransformerLens' hooks."""
    patterns: list[torch.Tensor] = []
    hooks = [
        (f"blocks.{layer}.attn.hook_pattern", lambda pattern, **_: patterns.append(pattern[0].clone()))
        for layer in range(lens.n_layers)
    ]
    with torch.no_grad():
        lens.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
    return torch.stack(patterns)


def masses_by_definition(patterns: torch.Tensor, trace: Trace, source: Segment) -> torch.Tensor:
    """(layer, head, segment): mean over the source's queries of the summed attention to each segment."""
    span = trace[source]
    rows = patterns[:, :, span.start : span.end]
    return torch.stack([rows[..., s.start : s.end].sum(-1).mean(-1) for s in trace.spans], dim=-1)


def test_six_tokens_by_hand() -> None:
    """One token a segment but two in the answer's place: bos, prompt, reasoning, end_think, answer, answer."""
    trace = make_trace(1, 1, 0, 1, 1, 2)
    pattern = torch.zeros(1, 6, 6)
    pattern[0, 4] = torch.tensor([0.1, 0.2, 0.4, 0.1, 0.2, 0.0])
    pattern[0, 5] = torch.tensor([0.3, 0.0, 0.2, 0.1, 0.3, 0.1])
    masses = SegmentMasses(trace, 1, 1, (Segment.ANSWER,))
    masses.add(0, 4, pattern[:, 4:])
    found = {segment: masses.of(Segment.ANSWER, segment).item() for segment in Segment}
    assert found == pytest.approx(
        {"bos": 0.2, "prompt": 0.1, "think": 0.0, "reasoning": 0.3, "end_think": 0.1, "answer": 0.3}, abs=1e-6
    )
    # distances: row 4: .1*4 + .2*3 + .4*2 + .1*1 = 1.9; row 5: .3*5 + .2*3 + .1*2 + .3*1 = 2.6
    assert masses.distance.item() == pytest.approx((1.9 + 2.6) / 2, abs=1e-5)
    # an even head gives the reasoning 1/5 and 1/6
    assert even_mass(trace, Segment.ANSWER, Segment.REASONING) == pytest.approx((1 / 5 + 1 / 6) / 2)


def test_sinks_and_per_token_masses_by_hand() -> None:
    trace = make_trace(1, 1, 0, 3, 1, 1)
    pattern = torch.zeros(1, 7, 7)
    pattern[0, 6] = torch.tensor([0.3, 0.1, 0.05, 0.15, 0.1, 0.2, 0.1])
    masses = SegmentMasses(trace, 1, 1)
    masses.add(0, 6, pattern[:, 6:])
    assert FIRST_TOKENS == 4
    assert masses.first_tokens.item() == pytest.approx(0.6, abs=1e-6)
    per_token = dict(zip(Segment, masses.per_token[0, 0, 0].tolist(), strict=True))
    assert per_token[Segment.REASONING] == pytest.approx(0.1, abs=1e-6)
    assert per_token[Segment.BOS] == pytest.approx(0.3, abs=1e-6)
    assert np.isnan(per_token[Segment.THINK])


def test_received_attention_by_hand() -> None:
    """Three keys, four queries: key 1 is seen by queries 2, 3, 4 from a distance of 1 to 2."""
    pattern = torch.tensor(
        [
            [1.0, 0, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0],
            [0.2, 0.6, 0.2, 0, 0],
            [0.1, 0.3, 0.4, 0.2, 0],
            [0.0, 0.9, 0.0, 0.0, 0.1],
        ]
    )[None]
    near = ReceivedAttention(range(1, 5), range(1, 5), 1, 1, gap=1, horizon=2)
    near.add(0, 0, pattern)
    assert near.n_queries.tolist() == [2, 2, 1, 0]
    assert near.received[0, 0].tolist() == pytest.approx([(0.6 + 0.3) / 2, (0.4 + 0.0) / 2, 0.0, np.nan], nan_ok=True)
    far = ReceivedAttention(range(1, 5), range(1, 5), 1, 1, gap=2)
    far.add(0, 0, pattern)
    assert far.received[0, 0].tolist() == pytest.approx([(0.3 + 0.9) / 2, 0.0, np.nan, np.nan], nan_ok=True)


def test_kurtosis_tells_who_singles_out_tokens() -> None:
    n = 40
    rows = torch.arange(n)[:, None]
    even = torch.ones(n, n).tril() / (rows + 1)
    one = torch.zeros(n, n)
    one[:, 5] = 1.0
    received = ReceivedAttention(range(n), range(n), 1, 2, gap=1)
    received.add(0, 0, torch.stack([even, one]))
    values = received.received[0, 1, :-1].numpy()
    assert received.kurtosis()[0, 1] == pytest.approx(scipy.stats.kurtosis(values))
    assert received.kurtosis()[0, 1] > 20 > received.kurtosis()[0, 0]
    little = ReceivedAttention(range(n), range(n), 1, 2, gap=1)
    little.add(0, 0, 3e-10 * torch.stack([even, one]))
    np.testing.assert_allclose(little.kurtosis(), received.kurtosis(), rtol=1e-4, err_msg="whatever the scale")
    constant = ReceivedAttention(range(n), range(n), 1, 1, gap=1)
    assert np.isnan(constant.kurtosis()).all(), "all keys receive the same: there is no shape"


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(6, 40),
    gap=st.integers(0, 6),
    horizon=st.none() | st.integers(6, 20),
    cuts=st.sets(st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_received_and_attended_are_their_definitions(
    n: int, gap: int, horizon: int | None, cuts: set[int], seed: int
) -> None:
    """In blocks of any size, against plain loops over a full pattern."""
    scores = torch.randn(2, n, n, generator=torch.Generator().manual_seed(seed)) * 3
    pattern = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
    rows, keys = range(n // 3, n), range(n // 4, n // 2 + 1)
    received = ReceivedAttention(rows, keys, 1, 2, gap, horizon)
    look = AttendedPositions(rows, keys, 1, 2)
    kept = AttentionRows(rows, [(0, 1)], 1, 2)
    borders = [rows.start, *sorted(c for c in cuts if rows.start < c < n), n]
    for first, stop in pairwise(borders):
        for reduction in (received, look, kept):
            reduction.add(0, first, pattern[:, first:stop, :stop])
    for h in range(2):
        for i, k in enumerate(keys):
            queries = [q for q in rows if gap <= q - k and (horizon is None or q - k <= horizon)]
            mean = np.mean([pattern[h, q, k].item() for q in queries]) if queries else np.nan
            assert received.n_queries[i] == len(queries)
            assert received.received[0, h, i].item() == pytest.approx(mean, abs=1e-6, nan_ok=True)
        for i, q in enumerate(rows):
            weights = pattern[h, q, keys.start : keys.stop].double()
            assert look.mass[0, h, i].item() == pytest.approx(weights.sum().item(), abs=1e-5)
            if weights.sum() > 1e-4:
                centre = (weights * torch.arange(keys.start, keys.stop)).sum() / weights.sum()
                assert look.centre[0, h, i].item() == pytest.approx(centre.item(), abs=1e-2)
                assert weights[look.peak[0, h, i] - keys.start] == weights.max()
                seen = weights[: q + 1 - keys.start] / weights.sum()
                even = math.log(len(seen)) if len(seen) > 1 else math.nan
                focus = 1 + torch.xlogy(seen, seen).sum().item() / even
                assert look.focus[0, h, i].item() == pytest.approx(focus, abs=1e-3, nan_ok=True)
    torch.testing.assert_close(kept.of_head[0], pattern[1, rows.start :])
    torch.testing.assert_close(kept.mean, pattern[:, rows.start :].mean(0))


def test_all_measures_stream_as_hooks_say(small_lens: Lens) -> None:
    trace = make_trace(1, 11, 1, 30, 1, 16)
    shape = (small_lens.n_layers, small_lens.n_heads)
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    rows, keys = range(answer.start, answer.end), range(reasoning.start, reasoning.end)
    masses = SegmentMasses(trace, *shape, list(Segment))
    received = ReceivedAttention(range(reasoning.start, answer.end), keys, *shape, gap=5)
    look, kept = AttendedPositions(rows, keys, *shape), AttentionRows(rows, [(2, 3)], *shape)
    stream(small_lens, trace.measured_ids, masses, received, look, kept, block_bytes=6 * 4 * 60 * 7)
    patterns = full_patterns(small_lens, trace.measured_ids)
    for i, source in enumerate(Segment):
        expected = masses_by_definition(patterns, trace, source).double()
        torch.testing.assert_close(masses.mass[:, :, i], expected, atol=1e-5, rtol=0)
    for i, k in enumerate(keys):
        column = patterns[:, :, max(k + 5, reasoning.start) :, k].mean(-1).double()
        torch.testing.assert_close(received.received[:, :, i], column, atol=1e-5, rtol=0)
    block = patterns[:, :, answer.start :, reasoning.start : reasoning.end]
    torch.testing.assert_close(look.mass, block.sum(-1), atol=1e-5, rtol=0)
    centre = (block * torch.arange(reasoning.start, reasoning.end)).sum(-1) / block.sum(-1)
    torch.testing.assert_close(look.centre, centre, atol=1e-2, rtol=0)
    torch.testing.assert_close(kept.of_head[0], patterns[2, 3, answer.start :], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.mean, patterns.mean((0, 1))[answer.start :], atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.tuples(*[st.integers(0, 9)] * 5, st.integers(1, 9)),
    cuts=st.sets(st.integers(0, 60)),
    seed=st.integers(0, 2**32 - 1),
)
def test_masses_sum_to_one_and_blocks_do_not_matter(lengths: tuple[int, ...], cuts: set[int], seed: int) -> None:
    trace = make_trace(*lengths)
    n = trace.n_measured
    scores = torch.randn(2, n, n, generator=torch.Generator().manual_seed(seed)) * 3
    pattern = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
    whole, blocks = (SegmentMasses(trace, 1, 2, (Segment.ANSWER,)) for _ in range(2))
    rows = whole.rows
    whole.add(0, rows.start, pattern[:, rows.start : rows.stop])
    borders = [rows.start, *sorted(c for c in cuts if rows.start < c < rows.stop), rows.stop]
    for first, stop in pairwise(borders):
        blocks.add(0, first, pattern[:, first:stop, :stop])
    assert whole.mass.sum(-1) == pytest.approx(torch.ones(1, 2, 1).numpy(), abs=1e-5)
    torch.testing.assert_close(blocks.mass, whole.mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(blocks.distance, whole.distance, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        whole.mass[:, :, 0], masses_by_definition(pattern[None], trace, Segment.ANSWER).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("block_bytes", [1, 6 * 4 * 60 * 7, 2**27], ids=["one row", "seven rows", "everything"])
def test_streaming_equals_full_patterns(small_lens: Lens, block_bytes: int) -> None:
    trace = make_trace(1, 11, 1, 30, 1, 16)
    masses = SegmentMasses(trace, small_lens.n_layers, small_lens.n_heads, (Segment.REASONING, Segment.ANSWER))
    stream(small_lens, trace.measured_ids, masses, block_bytes=block_bytes)
    patterns = full_patterns(small_lens, trace.measured_ids)
    for i, source in enumerate((Segment.REASONING, Segment.ANSWER)):
        expected = masses_by_definition(patterns, trace, source).double()
        torch.testing.assert_close(masses.mass[:, :, i], expected, atol=1e-5, rtol=0)
        assert masses.mass[:, :, i].std() > 0.02, "the test needs heads that differ"
        span = trace[source]
        back = (torch.arange(60)[:, None] - torch.arange(60)).float()
        distance = (patterns * back).sum(-1)[:, :, span.start : span.end].mean(-1).double()
        torch.testing.assert_close(masses.distance[:, :, i], distance, atol=1e-3, rtol=0)


def test_streaming_equals_full_patterns_on_a_real_language_model(smollm2: Lens) -> None:
    trace = make_trace(1, 20, 3, 60, 3, 33)
    masses = SegmentMasses(trace, smollm2.n_layers, smollm2.n_heads)
    stream(smollm2, trace.measured_ids, masses, block_bytes=9 * 4 * 120 * 16)
    expected = masses_by_definition(full_patterns(smollm2, trace.measured_ids), trace, Segment.ANSWER)
    torch.testing.assert_close(masses.mass[:, :, 0], expected.double(), atol=1e-5, rtol=0)


def test_several_reductions_share_a_pass(small_lens: Lens) -> None:
    trace = make_trace(1, 8, 1, 20, 1, 10)
    shape = (small_lens.n_layers, small_lens.n_heads)
    together = [SegmentMasses(trace, *shape, (source,)) for source in (Segment.PROMPT, Segment.ANSWER)]
    stream(small_lens, trace.measured_ids, *together, block_bytes=2000)
    for masses in together:
        alone = SegmentMasses(trace, *shape, masses.sources)
        stream(small_lens, trace.measured_ids, alone)
        torch.testing.assert_close(masses.mass, alone.mass, atol=1e-6, rtol=0)


def test_the_model_is_as_before_after_a_pass(small_lens: Lens) -> None:
    ids = torch.tensor([[1, 5, 9, 33]])
    before = small_lens.hf(ids).logits
    trace = make_trace(1, 3, 0, 3, 0, 3)
    stream(small_lens, trace.measured_ids, SegmentMasses(trace, small_lens.n_layers, small_lens.n_heads))
    assert torch.equal(small_lens.hf(ids).logits, before)


def test_sliding_windows(words: PreTrainedTokenizerBase) -> None:
    """Layers with a window of 8 tokens: Hugging Face's own eager patterns are the reference."""
    config = Qwen2Config(**SMALL, num_key_value_heads=3, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    lens = random_lens(config, words)
    trace = make_trace(1, 11, 1, 20, 1, 16)
    masses = SegmentMasses(trace, lens.n_layers, lens.n_heads)
    stream(lens, trace.measured_ids, masses, block_bytes=6 * 4 * 50 * 5)
    lens.hf.set_attn_implementation("eager")
    out = lens.hf(torch.tensor([trace.measured_ids]), output_attentions=True)
    expected = masses_by_definition(torch.stack([a[0] for a in out.attentions]), trace, Segment.ANSWER)
    torch.testing.assert_close(masses.mass[:, :, 0], expected.double(), atol=1e-5, rtol=0)
    assert masses.of(Segment.ANSWER, Segment.BOS)[0].min() > 0
    assert masses.of(Segment.ANSWER, Segment.BOS)[2].max() == 0, "out of the window's reach"


def test_attention_that_is_no_softmax_is_refused(words: PreTrainedTokenizerBase) -> None:
    config = Gemma2Config(**{**SMALL, "num_hidden_layers": 2}, num_key_value_heads=2, head_dim=16)
    lens = random_lens(config, words)
    assert lens.attention == "eager", "it has no fused attention"
    with pytest.raises(UserError, match="attention with softcap cannot be measured"):
        stream(lens, [1, 2, 3])
    q = torch.ones(1, 2, 3, 4)
    with pytest.raises(UserError, match="attention with softcap cannot be measured"):
        ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION](torch.nn.Identity(), q, q, q, None, softcap=30.0)


def test_half_precision_models_are_measured_in_float32(words: PreTrainedTokenizerBase) -> None:
    """bfloat16 weights: the rows still sum to one exactly, and the masses are those of the float32 model nearly."""
    trace = make_trace(1, 11, 1, 30, 1, 16)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        lens = random_lens(Qwen2Config(**SMALL, num_key_value_heads=3), words)
        lens.hf.to(dtype)
        masses = SegmentMasses(trace, lens.n_layers, lens.n_heads)
        stream(lens, trace.measured_ids, masses)
        torch.testing.assert_close(masses.mass.sum(-1), torch.ones(3, 6, 1).double(), atol=1e-5, rtol=0)
        found.append(masses.mass)
    torch.testing.assert_close(found[0], found[1], atol=0.05, rtol=0)


def _with_large_key_biases(words: PreTrainedTokenizerBase) -> Lens:
    """Scores in the hundreds, as in Qwen 2.5, whose rows the softmax does not change."""
    lens = random_lens(Qwen2Config(**SMALL, num_key_value_heads=3), words)
    for layer in lens.hf.model.layers:
        layer.self_attn.q_proj.bias.data += 4.0
        layer.self_attn.k_proj.bias.data += 40.0
    lens.hf.to(torch.bfloat16)
    return lens


def test_large_key_biases_in_half_precision_are_no_reason_to_refuse(words: PreTrainedTokenizerBase) -> None:
    """Eager attention rounds such scores; what is measured is nearer to the truth than what eager gives out."""
    lens = _with_large_key_biases(words)
    ids = list(range(10, 34))
    kept = streaming._Weights(len(ids))
    stream(lens, ids, kept)
    eager = eager_weights(lens, ids)
    lens.hf.float()
    true = eager_weights(lens, ids)[0]  # the first layer: further ones start from outputs that differ
    assert (eager[0].float() - true).abs().max() > 0.05, "there is something to round"
    assert (kept.kept[0] - true).abs().mean() < 0.5 * (eager[0].float() - true).abs().mean()


def test_a_wrong_scale_is_refused_in_half_precision_too(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = _with_large_key_biases(words)
    monkeypatch.setattr(LayerAttention, "scale", property(lambda call: 0.5 * call.query.shape[-1] ** -0.5))
    monkeypatch.setattr(streaming, "_require_same_output", lambda *_: None)
    with pytest.raises(UserError, match="not what its own eager attention gives"):
        stream(lens, list(range(10, 34)))


def test_grouped_queries_share_the_right_keys() -> None:
    """Query head h reads key head h // 2: the second pair of heads sees keys that favour position 0."""
    query = torch.ones(1, 4, 3, 1)
    key = torch.zeros(1, 2, 3, 1)
    key[0, 1, 0] = 50.0
    pattern = attention_rows(query, key, 0, 1.0)[0]
    torch.testing.assert_close(pattern[:2, 2], torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(pattern[2:, 2], torch.tensor([[1.0, 0, 0]] * 2))


def test_rows_that_see_nothing_are_empty_where_padding_is_expected() -> None:
    query, key = torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
    seen = torch.tensor([[False, True], [False, True]])[None, None]
    assert attention_rows(query, key, 0, 1.0, seen).isnan().any()
    rows = attention_rows(query, key, 0, 1.0, seen, padded=True)[0, 0]
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_later_rows_see_all_keys_up_to_themselves() -> None:
    """Uniform attention of positions 2 and 3, as in decoding with a cache of two keys."""
    rows = attention_rows(torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 4, 1), 2, 1.0)[0, 0]
    torch.testing.assert_close(rows, torch.tensor([[1 / 3] * 3 + [0.0], [0.25] * 4]))


def test_an_even_head_has_closed_forms(planted: Lens) -> None:
    from interp.organisms.planted import CIRCUIT

    trace = make_trace(1, 9, 1, 12, 1, 7)
    trace = Trace(**{**trace.__dict__, "token_ids": tuple([1] + [20] * (trace.n_measured - 1))})
    masses = SegmentMasses(trace, planted.n_layers, planted.n_heads)
    stream(planted, trace.measured_ids, masses)
    layer, head = CIRCUIT.even
    for destination in Segment:
        found = masses.of(Segment.ANSWER, destination)[layer, head].item()
        assert found == pytest.approx(even_mass(trace, Segment.ANSWER, destination), abs=1e-6)
    # over keys 0..t the mean distance is t / 2
    answer = trace[Segment.ANSWER]
    assert masses.distance[layer, head].item() == pytest.approx((answer.start + answer.end - 1) / 4, abs=1e-4)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(TraceError, match="reasoning segment is empty"):
        SegmentMasses(make_trace(1, 2, 1, 0, 1, 3), 1, 1, (Segment.REASONING,))
