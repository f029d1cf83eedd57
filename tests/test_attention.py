"""Streaming reductions: against a hand computation, closed forms, and full patterns from TransformerLens' hooks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, PreTrainedTokenizerBase, Qwen2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.attention import IMPLEMENTATION, SegmentMasses, even_mass, pattern_rows, stream
from interp.errors import TraceError, UserError
from interp.lens import Lens
from interp.trace import Segment, Span, Trace
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
    with pytest.raises(UserError, match="cannot run with fused attention: Gemma2ForCausalLM lacks it"):
        random_lens(config, words)
    q = torch.ones(1, 2, 3, 4)
    with pytest.raises(UserError, match="attention with softcap cannot be streamed"):
        ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION](torch.nn.Identity(), q, q, q, None, softcap=30.0)


def test_grouped_queries_share_the_right_keys() -> None:
    """Query head h reads key head h // 2: the second pair of heads sees keys that favour position 0."""
    query = torch.ones(4, 3, 1)
    key = torch.zeros(2, 3, 1)
    key[1, 0] = 50.0
    pattern = pattern_rows(query, key, 0, 3, 1.0)
    torch.testing.assert_close(pattern[:2, 2], torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(pattern[2:, 2], torch.tensor([[1.0, 0, 0]] * 2))


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
