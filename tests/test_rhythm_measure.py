"""WAAD, FAI, distances and entropies: by hand, on a planted rhythm, against hooks, and their bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.heads.reductions import FIRST_TOKENS, ReceivedAttention
from interp.heads.scores import Head
from interp.model.lens import Lens, from_memory
from interp.model.streaming import Reduction, stream
from interp.organisms.rhythmic import (
    ANCHOR,
    EVEN,
    REST,
    SAWTOOTH,
    STOP,
    STRIPES,
    WORD,
    Chunk,
    build_rhythmic,
    text_of,
)
from interp.rhythm import head_sets
from interp.rhythm.couplings import Coupling, Curves, Peaks, coupled
from interp.rhythm.head_sets import Ranking, choose_heads
from interp.rhythm.waad_fai import (
    Distances,
    MeanRows,
    Settings,
    Sinks,
    WithoutColumns,
    map_of_sets,
    measure_rhythm,
    response_of,
)
from interp.text.trace import Segment, Trace, parse_response

BOTH = [Sinks.KEPT, Sinks.REMOVED]
PROMPT = ["<bos>", WORD, WORD, WORD, WORD, STOP]
CHUNKS = [Chunk(3), Chunk(1, anchor=True), Chunk(6), Chunk(2, anchor=True), Chunk(7), Chunk(4)]


@pytest.fixture(scope="module")
def rhythmic() -> Lens:
    return from_memory("rhythmic", *build_rhythmic())


@pytest.fixture(scope="module")
def trace(rhythmic: Lens) -> Trace:
    ids = rhythmic.tokenizer.get_vocab()
    return parse_response(
        [ids[t] for t in PROMPT], [ids[t] for t in text_of(CHUNKS)], rhythmic.tokenizer, rhythmic.markers
    )


def patterns(lens: Lens, ids: tuple[int, ...]) -> torch.Tensor:
    """(layer, head, query, key), by TransformerLens' hooks."""
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(lens.n_layers)]
    _, cache = lens.bridge.run_with_cache(torch.tensor([ids]), names_filter=names)
    return torch.stack([cache[name][0] for name in names]).double()


def waad_by_definition(pattern: torch.Tensor, rows: range, window: int) -> torch.Tensor:
    distance = torch.arange(pattern.shape[-1])[:, None] - torch.arange(pattern.shape[-1])[None]
    return (pattern * distance.clamp(0, window)).sum(-1)[..., rows.start : rows.stop]


def fai_by_definition(pattern: torch.Tensor, response: range, low: int, high: int | None) -> torch.Tensor:
    out = torch.full((*pattern.shape[:2], len(response)), torch.nan, dtype=torch.float64)
    for i, s in enumerate(response):
        queries = [t for t in response if s + low <= t and (high is None or t <= s + high)]
        if queries:
            out[:, :, i] = pattern[:, :, queries, s].mean(-1)
    return out


def without_sinks(pattern: torch.Tensor) -> torch.Tensor:
    rest = pattern.clone()
    rest[..., :FIRST_TOKENS] = 0
    return rest / rest.sum(-1, keepdim=True)


def test_a_response_without_tags_is_all_answer(trace: Trace) -> None:
    assert response_of(trace) == range(len(PROMPT), len(PROMPT) + sum(map(len, CHUNKS)))
    assert not len(trace[Segment.REASONING])
    assert len(trace[Segment.ANSWER]) == sum(map(len, CHUNKS))


def test_the_sawtooth_is_exact(rhythmic: Lens, trace: Trace) -> None:
    curves, _ = measure_rhythm(rhythmic, trace, Settings(window=6), BOTH)
    expected: list[float] = []
    for before, chunk in zip([None, *CHUNKS], CHUNKS, strict=False):
        onset = min(6, len(before) if before else len(PROMPT))
        expected += [onset, *[1] * (len(chunk) - 1)]
    np.testing.assert_allclose(curves[Sinks.KEPT].waad[0, SAWTOOTH], expected, atol=1e-4)
    onsets = np.cumsum([0, *map(len, CHUNKS[:-1])])
    # the first token is no local maximum: it has no neighbour before it
    assert list(np.flatnonzero(Peaks().of(curves[Sinks.KEPT].waad[0, SAWTOOTH]))) == list(onsets[1:])


def test_the_stripes_are_exact(rhythmic: Lens, trace: Trace) -> None:
    curves, _ = measure_rhythm(rhythmic, trace, Settings(h_lo=3, h_hi=8), BOTH)
    tokens = text_of(CHUNKS)
    anchors = [i for i, token in enumerate(tokens) if token == ANCHOR]
    seen = np.cumsum([token == ANCHOR for token in tokens])
    expected = np.zeros(len(tokens))
    for s in anchors:
        expected[s] = np.mean([1 / seen[t] for t in range(s + 3, min(len(tokens), s + 9))])
    expected[len(tokens) - 3 :] = np.nan
    np.testing.assert_allclose(curves[Sinks.KEPT].fai[0, STRIPES], expected, atol=1e-5)
    to_end = curves[Sinks.KEPT].fai_to_end[0, STRIPES]
    assert [np.mean(1 / seen[s + 1 :]) for s in anchors] == pytest.approx(list(to_end[anchors]), abs=1e-5)
    assert np.isnan(to_end[-1])
    assert list(np.flatnonzero(Peaks().of(to_end))) == anchors


def test_an_even_head_has_closed_forms(rhythmic: Lens, trace: Trace) -> None:
    curves, _ = measure_rhythm(rhythmic, trace, Settings(window=10), BOTH)
    t = np.array(response_of(trace))
    waad = [sum(min(d, 10) for d in range(p + 1)) / (p + 1) for p in t]
    np.testing.assert_allclose(curves[Sinks.KEPT].waad[0, EVEN], waad, rtol=1e-4)
    assert curves[Sinks.KEPT].distance[0, EVEN] == pytest.approx(np.mean(t / 2), rel=1e-4)
    to_end = [np.mean(1 / (t[i + 1 :] + 1)) for i in range(len(t) - 1)]
    np.testing.assert_allclose(curves[Sinks.KEPT].fai_to_end[0, EVEN][:-1], to_end, rtol=1e-4)


def test_sinks_make_a_resting_head_global(rhythmic: Lens, trace: Trace) -> None:
    curves, _ = measure_rhythm(rhythmic, trace, Settings(), BOTH)
    kept, removed = curves[Sinks.KEPT], curves[Sinks.REMOVED]
    assert kept.distance[0, REST] == pytest.approx(np.mean(response_of(trace)), rel=1e-3)
    assert np.isnan(removed.distance[0, REST])  # it looks at nothing else
    local, far, _ = choose_heads(kept.distance, kept.kurtosis, [0], 0.25, 1)
    assert [head.head for head in (*local, *far)] == [SAWTOOTH, REST]
    local, far, receiver = choose_heads(removed.distance, removed.kurtosis, [0], 0.25, 1)
    assert local[0].head == SAWTOOTH
    assert far[0].head in (STRIPES, EVEN)
    assert receiver[0].head == STRIPES
    assert not np.isnan(removed.waad).any()
    *_, nobody = choose_heads(removed.distance, np.full_like(removed.kurtosis, np.nan), [0], 0.25, 2)
    assert nobody == [], "heads without a kurtosis are no receivers"
    assert np.isnan(removed.over(nobody, "fai")).all()


def test_a_row_that_rests_nearly_all_on_sinks_is_scaled_by_all_its_digits() -> None:
    """In float32 a row of 1 holds no weight below 6e-8: what is left is the sum of what is left."""
    pattern = torch.zeros(1, 4, 8)
    pattern[0, 0, 0], pattern[0, 0, 4], pattern[0, 0, 1] = 1.0, 2e-9, 6e-9  # row 4: itself
    pattern[0, 1, :5] = 0.2  # row 5: one of five outside
    pattern[0, 2, 0] = 1.0  # row 6: nothing
    pattern[0, 3, 0], pattern[0, 3, 4], pattern[0, 3, 6] = 1 - 3e-7, 1e-7, 2e-7  # row 7
    inner = Distances(range(4, 8), 1, 1, 10)
    without = WithoutColumns(4, 1, 1, inner)
    without.add(0, 4, pattern[:, :, :8])
    waad = inner.waad[0, 0].numpy()
    assert waad[:2] == pytest.approx([0, 1], abs=1e-6)
    assert np.isnan(waad[2]), "a row that looks nowhere"
    assert waad[3] == pytest.approx((3 * 1 + 1 * 2) / 3, rel=1e-5)
    left = [2e-9, 0.2, 0, 3e-7]
    assert without.left.item() == pytest.approx(sum(left) / 4, rel=1e-5)


def test_entropy_is_that_of_the_prediction_of_the_token(rhythmic: Lens, trace: Trace) -> None:
    _, entropy = measure_rhythm(rhythmic, trace, Settings(), BOTH)
    onsets = np.cumsum([0, *map(len, CHUNKS[:-1])])
    certain = math.log(len(rhythmic.tokenizer)) * np.isin(np.arange(len(entropy)), onsets)
    np.testing.assert_allclose(entropy, certain, atol=1e-4)
    local = Peaks().of(measure_rhythm(rhythmic, trace, Settings(), BOTH)[0][Sinks.KEPT].waad[0, SAWTOOTH])
    flat = np.zeros(len(entropy))
    found = coupled(Coupling.ENTROPY, Curves(local.astype(float), flat, flat, entropy, flat.astype(int)), Peaks())
    assert found is not None
    assert found.observed == pytest.approx(math.log(len(rhythmic.tokenizer)), abs=1e-4)


def test_everything_equals_the_definition_on_hooked_patterns(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    rng = np.random.default_rng(0)
    ids = [words.bos_token_id, *rng.integers(5, 100, 60).tolist()]
    trace = parse_response(ids[:7], ids[7:], words)
    chosen = Settings(window=5, h_lo=3, h_hi=12)
    curves, entropy = measure_rhythm(small_lens, trace, chosen, BOTH, block_bytes=4096)
    pattern, response = patterns(small_lens, trace.measured_ids), response_of(trace)
    for sinks, p in ((Sinks.KEPT, pattern), (Sinks.REMOVED, without_sinks(pattern))):
        t = torch.arange(p.shape[-1])
        looked = pattern.clone()
        looked[..., : 0 if sinks is Sinks.KEPT else FIRST_TOKENS] = 0
        looked = looked[..., response.start : response.stop, :]
        back = t[response.start : response.stop, None] - t[None]
        distance = (looked * back).sum((-1, -2)) / looked.sum((-1, -2))
        np.testing.assert_allclose(curves[sinks].waad, waad_by_definition(p, response, 5), atol=1e-4)
        np.testing.assert_allclose(curves[sinks].fai, fai_by_definition(p, response, 3, 12), atol=1e-5)
        np.testing.assert_allclose(curves[sinks].fai_to_end, fai_by_definition(p, response, 1, None), atol=1e-5)
        np.testing.assert_allclose(curves[sinks].distance, distance, atol=1e-3)
    logits = small_lens.hf(torch.tensor([trace.measured_ids])).logits[0].double()
    log_p = logits.log_softmax(-1)
    expected = -(log_p.exp() * log_p).sum(-1)[response.start - 1 : response.stop - 1]
    np.testing.assert_allclose(entropy, expected, atol=1e-4)


def test_a_mean_pattern_has_the_mean_of_its_heads_measures(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    ids = [words.bos_token_id, *range(10, 60)]
    trace = parse_response(ids[:5], ids[5:], words)
    heads = [Head(0, 1), Head(2, 3), Head(1, 0)]
    curves, _ = measure_rhythm(small_lens, trace, Settings(window=4, h_lo=2, h_hi=9), [Sinks.KEPT])
    pattern = patterns(small_lens, trace.measured_ids)
    mean = torch.stack([pattern[layer, head] for layer, head in heads]).mean(0)[None, None]
    response = response_of(trace)
    one = curves[Sinks.KEPT]
    np.testing.assert_allclose(one.over(heads, "waad"), waad_by_definition(mean, response, 4)[0, 0], atol=1e-4)
    np.testing.assert_allclose(one.over(heads, "fai"), fai_by_definition(mean, response, 2, 9)[0, 0], atol=1e-5)
    rows = map_of_sets(small_lens, trace, {"few": heads}, 10)
    assert len(rows) == 10
    np.testing.assert_allclose(rows[3]["weights"], mean[0, 0, 8, :9], atol=1e-5)
    assert {row["head_set"] for row in rows} == {"few"}


def feed(reduction: Reduction, pattern: torch.Tensor, rows: range) -> None:
    """A hand-made pattern as one block."""
    reduction.add(0, rows.start, pattern[:, rows.start : rows.stop, : rows.stop])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(6, 30))
def test_bounds_and_what_lies_outside_the_horizon(seed: int, window: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, n, n, generator=generator) * 3
    pattern = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
    rows = range(2, n)
    distances = Distances(rows, 1, 2, window)
    feed(distances, pattern, rows)
    assert (distances.waad >= -1e-5).all()
    assert (distances.waad <= window + 1e-5).all()
    fai = ReceivedAttention(rows, rows, 1, 2, gap=2, horizon=4)
    feed(fai, pattern, rows)
    known = fai.received[~fai.received.isnan()]
    assert ((known >= 0) & (known <= 1)).all()
    # attention beyond the horizon, or nearer than the gap, changes nothing
    t = torch.arange(n)
    outside = ((t[:, None] - t[None]) > 4) | ((t[:, None] - t[None]) < 2)
    again = ReceivedAttention(rows, rows, 1, 2, gap=2, horizon=4)
    feed(again, torch.where(outside, 0.123, pattern), rows)
    torch.testing.assert_close(again.received, fai.received, equal_nan=True)
    # the same text further on: what is attended and attends moves along
    moved = torch.zeros(2, n + 3, n + 3)
    moved[:, 3:, 3:] = pattern
    shifted = Distances(range(5, n + 3), 1, 2, window)
    feed(shifted, moved, range(5, n + 3))
    torch.testing.assert_close(shifted.waad, distances.waad, atol=1e-4, rtol=1e-4)


def test_blocks_of_any_size(rhythmic: Lens, trace: Trace) -> None:
    whole, _ = measure_rhythm(rhythmic, trace, Settings(), BOTH)
    small, _ = measure_rhythm(rhythmic, trace, Settings(), BOTH, block_bytes=1)
    for sinks in BOTH:
        for name in ("waad", "fai", "fai_to_end", "distance", "kurtosis"):
            np.testing.assert_allclose(getattr(whole[sinks], name), getattr(small[sinks], name), atol=1e-5)


def test_mean_rows_keep_only_their_rows(rhythmic: Lens, trace: Trace) -> None:
    kept = MeanRows(range(8, 12), {"a": [Head(0, SAWTOOTH)], "b": [Head(0, EVEN), Head(0, REST)]})
    stream(rhythmic, trace.measured_ids, kept)
    assert kept.mean["a"].shape == (4, 12)
    torch.testing.assert_close(kept.mean["b"].sum(1), torch.ones(4))


def test_layers_that_look_at_the_first_tokens_alone_are_left_out_where_others_do_not(
    small_lens: Lens, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def resting(*about: Any) -> Any:
        curves, entropy = measure_rhythm(*about)
        curves[Sinks.REMOVED].distance[1:] = np.nan
        return curves, entropy

    monkeypatch.setattr(head_sets, "measure_rhythm", resting)
    traces = [parse_response(range(5, 12), range(12, 40), words)]
    both = Ranking(["0", "1-2"], BOTH, 0.3, 2, 2, Settings(4, 2, 6), None)
    found = head_sets.sets_of(pd.DataFrame(head_sets.rank_by_distance(small_lens, traces, both)))
    assert [(one.layers, one.sinks) for one in found] == [("0", "kept"), ("0", "removed"), ("1-2", "kept")]
    assert "layers=1-2, sinks=removed are left out" in caplog.text
    alone = replace(both, layers=["1-2"], sinks=[Sinks.REMOVED])
    with pytest.raises(UserError, match="first tokens alone"):
        head_sets.rank_by_distance(small_lens, traces, alone)
