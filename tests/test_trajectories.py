"""Trajectories and stops: made-up paths with known answers, and nulls that are honest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import PreTrainedTokenizerFast

from interp.heads.reductions import AttendedPositions, ReceivedBySentences
from interp.heads.scores import Head
from interp.heads.trajectories import forward_p, reflection_positions, reflection_stops, stops, trajectory
from interp.heads.walks import trajectories
from interp.model.lens import Lens
from interp.text.sentences import reasoning_sentences, shuffled_sentences
from interp.text.trace import Segment, Span, parse_text

REASONING = Span(Segment.REASONING, 10, 110)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_whole_diagonal() -> None:
    path = trajectory(np.linspace(10, 109, 50), REASONING, rng())
    assert path is not None
    assert path.rho == pytest.approx(1)
    assert path.slope == pytest.approx(1, abs=1e-3)
    assert path.p_shift == pytest.approx(1 / 50)
    assert path.p_permutation == pytest.approx(1 / 201)


def test_backwards_and_half_way() -> None:
    path = trajectory(np.linspace(109, 10, 50), REASONING, rng())
    assert path is not None
    assert (path.rho, path.slope) == (pytest.approx(-1), pytest.approx(-1, abs=1e-3))
    assert path.p_permutation == 1
    unpermuted = trajectory(np.linspace(109, 10, 50), REASONING, rng(), permutations=0)
    assert unpermuted is not None
    assert unpermuted.p_permutation is None
    half = trajectory(np.linspace(10, 59.5, 50), REASONING, rng())
    assert half is not None
    assert (half.rho, half.slope) == (pytest.approx(1), pytest.approx(0.5, abs=1e-3))


def test_by_hand_with_a_gap() -> None:
    """Eight known centres with ranks 2 1 3 4 6 5 7 8: rho = 1 - 6 * 4 / (8 * 63)."""
    centre = np.array([12.0, 11.0, np.nan, 13.0, 14.0, 16.0, 15.0, 17.0, 18.0])
    path = trajectory(centre, REASONING, rng())
    assert path is not None
    assert path.rho == pytest.approx(1 - 24 / 504)


def test_weighted_by_the_attention_to_the_reasoning() -> None:
    """Every second token looks back by hundredths of its attention; the others walk forward with all of it."""
    forward, backward = np.arange(20.0, 100, 4), np.arange(99.0, 19, -4)
    centre, mass = np.stack([forward, backward], 1).ravel(), np.tile([1.0, 0.01], 20)
    path = trajectory(centre, REASONING, rng(), mass=mass)
    assert path is not None
    assert abs(path.rho) < 0.05
    assert path.weighted > 0.95
    even = trajectory(centre, REASONING, rng(), mass=np.full(40, 0.3))
    assert even is not None
    assert even.weighted == pytest.approx(even.rho)
    still = trajectory(centre, REASONING, rng(), mass=np.eye(40)[3])
    assert still is not None
    assert still.weighted == 0


@pytest.mark.parametrize(
    "centre",
    [np.full(30, 42.0), np.full(30, np.nan), np.arange(7.0), 42 + 1e-5 * np.arange(30)],
    ids=["always the same place", "never looks", "too short", "rounding alone"],
)
def test_no_trajectory(centre: np.ndarray) -> None:
    assert trajectory(centre, REASONING, rng()) is None


def wandering(generator: np.random.Generator, n: int) -> np.ndarray:
    """Paths that have nothing to do with the answer: neighbours are alike, as in attention."""
    steps = generator.normal(size=n + 29)
    return 60 + 10 * np.convolve(steps, np.exp(-np.arange(30) / 6), mode="valid")


def test_the_test_over_traces_is_honest() -> None:
    """Five of a hundred heads that wander are significant at .05; one that drifts forward a little is found."""
    generator = np.random.default_rng(1)
    p = []
    for _ in range(300):
        paths = [trajectory(wandering(generator, 60), REASONING, generator, permutations=1) for _ in range(10)]
        p.append(forward_p(np.array([path.rho for path in paths if path]), generator))
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 300)
    assert abs(np.mean(p) - 0.5) < 0.06
    drift = [trajectory(wandering(generator, 60) + np.linspace(0, 15, 60), REASONING, generator) for _ in range(20)]
    assert forward_p(np.array([path.rho for path in drift if path]), generator) < 0.05
    assert forward_p(np.array([0.9]), generator) == 1


def test_the_nulls_of_one_trace_are_optimistic_and_shifts_much_less() -> None:
    """What the documentation says of them."""
    generator = np.random.default_rng(1)
    paths = [trajectory(wandering(generator, 60), REASONING, generator, permutations=100) for _ in range(300)]
    shift = np.mean([path.p_shift < 0.05 for path in paths if path])
    permutation = np.mean([path.p_permutation < 0.05 for path in paths if path])
    assert 0.05 < shift < 0.2 < permutation


def test_reflection_words_of_a_subword_tokenizer(r1_style: PreTrainedTokenizerFast) -> None:
    text = "What? <think>wait, so. Waiting is no wait. Let me double-check: Double\ncheck.</think> wait, 4."
    trace = parse_text(text, r1_style)
    found = reflection_positions(trace, ["wait", "double check"])
    starts = [text.index("wait"), text.index("wait. Let"), text.index("double-"), text.index("Double\n")]
    expected = [next(i for i, (a, b) in enumerate(trace.offsets) if a <= start < b) for start in starts]
    assert found.tolist() == expected
    assert reflection_positions(trace, []).tolist() == []
    assert reflection_positions(trace, ["w.it"]).tolist() == []


def test_reflection_words_of_a_word_tokenizer(word_reasoner: Lens) -> None:
    text = "Tom 5 pens. <think> First, Tom 4. Wait, Tom 5. Let me double check: Tom 5. Yes. </think> Tom 5 pens."
    trace = parse_text(text, word_reasoner.tokenizer)
    tokens = [trace.token_text(i).strip() for i in reflection_positions(trace, ["wait", "double check"])]
    assert tokens == ["Wait", "double"]


def test_stops_by_hand() -> None:
    """Two forward runs with a jump back between them, then standing still, which is no run."""
    peak = np.array([10, 11, 13, 14, 20, 11, 12, 13, 14, 15, 90, 90, 90, 90, 90])
    assert stops(peak).tolist() == [20, 15]
    assert stops(np.array([5, 6, 7])).tolist() == [], "too short"
    assert stops(np.array([5, 7, 6, 8, 9, 10])).tolist() == [10], "one step back is allowed"
    assert stops(np.arange(10) * 30).tolist() == [], "jumps are no walk"


def test_stops_at_reflections_by_hand() -> None:
    """One reflection word at 60 in 100 tokens: 7 places of 100 are near it."""
    found = reflection_stops(np.array([61, 90]), np.array([60]), REASONING)
    assert found is not None
    assert (found.n, found.at_reflection) == (2, 1)
    assert found.expected == pytest.approx(2 * 7 / 100)
    # shifts by -2..4 or so hit the first stop, as many the second, none both: 14 of 100
    assert found.p == pytest.approx(14 / 100)
    assert reflection_stops(np.array([], dtype=int), np.array([60]), REASONING) is None
    assert reflection_stops(np.array([61]), np.array([], dtype=int), REASONING) is None


def test_the_null_of_stops_is_honest() -> None:
    generator = np.random.default_rng(2)
    p = []
    for _ in range(400):
        stopped = generator.integers(10, 110, 5)
        reflections = np.unique(generator.integers(10, 110, 3))
        found = reflection_stops(stopped, reflections, REASONING)
        assert found is not None
        p.append(found.p)
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_sentences_in_another_order(word_reasoner: Lens) -> None:
    """The tokens of the reasoning change places, sentence by sentence; nothing else moves."""
    text = "Tom 3 pens. <think> First, Tom 3. Next, 3 + 4 = 7. So 7. </think> Tom 7 pens. The answer is 7."
    trace = parse_text(text, word_reasoner.tokenizer, word_reasoner.markers)
    other = shuffled_sentences(trace, np.random.default_rng(0))
    assert other is not None
    reasoning, ids = trace[Segment.REASONING], trace.measured_ids
    assert sorted(other.origin) == list(range(reasoning.start, reasoning.end))
    assert list(other.origin) != sorted(other.origin)
    assert [ids[place] for place in other.origin] == list(other.ids[reasoning.start : reasoning.end])
    assert other.ids[: reasoning.start] == tuple(ids[: reasoning.start])
    assert other.ids[reasoning.end :] == tuple(ids[reasoning.end :])
    for start, stop in reasoning_sentences(trace):
        places = [other.origin.index(place) for place in range(start, stop)]
        assert places == list(range(places[0], places[0] + stop - start))
    one = parse_text("Tom 3. <think> Tom 3. </think> The answer is 3.", word_reasoner.tokenizer, word_reasoner.markers)
    assert shuffled_sentences(one, np.random.default_rng(0)) is None


def test_content_and_place_by_hand() -> None:
    """Two sentences of two tokens change places. A head that looks at the token with the query's own old place follows
    the content; one that looks at the query's own place now drifts along."""
    origin = [12, 13, 10, 11]
    look = AttendedPositions(range(20, 24), range(10, 14), 1, 2, origin=origin)
    pattern = torch.zeros(2, 4, 24)
    for query in range(4):
        pattern[0, query, 10 + origin.index(10 + query)] = 0.5
        pattern[1, query, 10 + query] = 0.5
    look.add(0, 20, pattern)
    assert look.centre_of_origin[0, 0].tolist() == [10, 11, 12, 13]
    assert look.centre[0, 0].tolist() == [12, 13, 10, 11]
    assert look.centre[0, 1].tolist() == [10, 11, 12, 13]
    assert look.centre_of_origin[0, 1].tolist() == origin


def test_focus_by_hand() -> None:
    """All on one key 1, evenly 0, on two of four keys half; NaN without attention there."""
    look = AttendedPositions(range(20, 24), range(10, 14), 1, 1)
    pattern = torch.zeros(1, 4, 24)
    pattern[0, 0, 10] = 0.3
    pattern[0, 1, 10:14] = 0.2
    pattern[0, 2, 10:12] = 0.1
    look.add(0, 20, pattern)
    np.testing.assert_allclose(look.focus[0, 0].numpy(), [1.0, 0.0, 0.5, np.nan], atol=1e-6)


@pytest.mark.parametrize("gap", [0, 1], ids=["side by side", "with a token between"])
def test_receivers_by_sentence_equal_the_blocks(gap: int) -> None:
    """Against the sentence x sentence matrix, written out."""
    rng = np.random.default_rng(0)
    ends = [5, 7, 9, 13, 15, 17, 19, 22, 24, 26]
    sentences = [(start + gap, end) for start, end in pairwise([2, *ends])]
    pattern = torch.tensor(np.tril(rng.random((2, 30, 30))), dtype=torch.float32)
    pattern = pattern / pattern.sum(-1, keepdim=True)
    found = ReceivedBySentences(sentences, 1, 2)
    for first in range(0, 30, 7):
        found.add(0, first, pattern[:, first : first + 7, : min(30, first + 7)])
    for head in range(2):
        blocks = np.array([[pattern[head, a:b, c:d].mean() for c, d in sentences] for a, b in sentences])
        columns = [blocks[j + 4 :, j].mean() for j in range(len(sentences) - 4)]
        assert found.kurtosis()[0, head] == pytest.approx(stats.kurtosis(columns), rel=1e-4)
    assert np.isnan(ReceivedBySentences(sentences[:7], 1, 2).kurtosis()).all()
    assert np.isnan(ReceivedBySentences([], 1, 2).kurtosis()).all()


def stops_of(rng: np.random.Generator, near: bool) -> pd.DataFrame:
    """Two heads of 8 traces with two stops each and one reflection word: few, so that most traces have none there."""
    rows = []
    for trace in range(8):
        word = int(rng.integers(10, 110))
        for head in range(2):
            stopped = np.array([word + 1, word]) if near else rng.integers(10, 110, 2)
            found = reflection_stops(np.clip(stopped, 10, 109), np.array([word]), REASONING)
            assert found is not None
            about = {"example": str(trace), "layer": 0, "head": head, "trajectory": None}
            columns = {"trajectory_weighted": None, "trajectory_content": None, "trajectory_place": None}
            counts = {"stops": found.n, "stops_at_reflection": found.at_reflection, "stops_expected": found.expected}
            rows.append({**about, **columns, **counts, "stops_shifted": found.shifted})
    return pd.DataFrame(rows).astype({"trajectory": float, "trajectory_weighted": float})


def test_stops_without_a_taste_for_reflection_words_are_rarely_decided() -> None:
    both = [Head(0, 0), Head(0, 1)]
    decided = []
    for seed in range(60):
        _, _, ((number, _),) = trajectories(stops_of(np.random.default_rng(seed), near=False), both, 0, seed)
        assert number.comparison is not None
        decided.append(number.comparison.decided)
    assert np.mean(decided) <= 0.1
    _, _, ((number, _),) = trajectories(stops_of(np.random.default_rng(0), near=True), both, 0, 0)
    assert number.comparison is not None
    assert number.comparison.decided
    assert number.comparison.difference.n == 8
    assert number.comparison.difference.value > 0.5
