"""Peaks, couplings, null models, lags and partial effects: by hand, and on simulated traces with known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interp.rhythm.couplings import (
    Coupled,
    Coupling,
    Curves,
    PeakRule,
    Peaks,
    couple,
    coupled,
    detect,
    lag_curve,
    onset_window,
    partial_effect,
    ratio_lift,
    two_sided,
)
from interp.rhythm.findings import why_missing
from interp.rhythm.head_controls import SENTENCES

NAN = np.nan


def curves(waad: list[float], fai: list[float], receiver: list[float], entropy: list[float]) -> Curves:
    arrays = (np.array(values, dtype=float) for values in (waad, fai, receiver, entropy))
    return Curves(*arrays, np.zeros(len(waad), dtype=int))


def wandering(rng: np.random.Generator, n: int) -> np.ndarray:
    """A curve whose neighbours are alike."""
    noise = rng.normal(size=n)
    for i in range(1, n):
        noise[i] += 0.8 * noise[i - 1]
    return noise - noise.min()


def test_peaks_are_local_maxima_that_stand_out() -> None:
    curve = np.array([0, 3, 0, 0.1, 0, 2, 2, 0, 5], dtype=float)
    found = np.flatnonzero(Peaks(prominence=0.5).of(curve))
    assert list(found) == [1, 5]  # the bump of .1 is too small, a plateau counts once, the end has no neighbour
    assert list(np.flatnonzero(Peaks(prominence=0.0).of(curve))) == [1, 3, 5]


def test_quantile_peaks_are_the_highest_values() -> None:
    curve = np.array([NAN, 5, 1, 4, 2, 3, NAN])
    rule = Peaks(PeakRule.QUANTILE, share=0.4)
    assert list(np.flatnonzero(rule.of(curve))) == [1, 3]


@given(hnp.arrays(float, st.integers(3, 60), elements=st.floats(-5, 5)), st.floats(0.05, 0.9))
def test_quantile_peaks_are_the_share_asked_for(curve: np.ndarray, share: float) -> None:
    marks = Peaks(PeakRule.QUANTILE, share=share).of(curve)
    if marks.any():
        assert marks.sum() == max(1, round(share * len(curve)))
        assert curve[marks].min() >= curve[~marks].max(initial=-np.inf) or marks.all()


@given(hnp.arrays(float, st.integers(1, 60), elements=st.floats(-5, 5)), st.floats(0.1, 20))
def test_peaks_do_not_depend_on_the_unit(curve: np.ndarray, unit: float) -> None:
    curve = np.round(curve, 2)
    np.testing.assert_array_equal(Peaks().of(curve), Peaks().of(curve * 2 ** np.round(np.log2(unit))))


def test_constant_and_undefined_curves_have_no_peaks() -> None:
    assert not Peaks().of(np.full(30, 0.1) + 1e-12 * np.arange(30)).any()
    assert not Peaks().of(np.full(30, NAN)).any()
    assert not Peaks().of(np.array([])).any()


def test_a_curve_of_attention_that_moves_nothing_has_no_peaks() -> None:
    curve = np.tile([1.0, 3.0], 15)
    assert Peaks().of(1e-6 * curve).any()
    assert not Peaks().of(1e-9 * curve).any()


def test_couplings_by_hand() -> None:
    waad = [0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    fai = [0, 0, 9, 0, 0, 0, 0, 9, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, NAN]
    receiver = [0, 0, 9, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NAN]
    entropy = [1.0] * 25
    for i, value in ((2, 2.0), (6, 3.0), (12, 4.0)):
        entropy[i] = value
    one = curves(waad, fai, receiver, entropy)
    found = {c: coupled(c, one, Peaks()) for c in Coupling}
    assert all(found.values())
    entropies = found[Coupling.ENTROPY]
    assert entropies is not None
    # the first and the last token can be no peak
    assert (entropies.observed, entropies.baseline) == (3.0, pytest.approx(29 / 23))
    receivers = found[Coupling.RECEIVER]
    assert receivers is not None
    # of the two receiver peaks one is an FAI peak; 4 of the 22 tokens that may be FAI peaks are
    assert (receivers.observed, receivers.baseline) == (0.5, pytest.approx(4 / 22))
    following = found[Coupling.FOLLOWING]
    assert following is not None
    # FAI peaks at 2 (on a WAAD peak) and 7 (right after one) of four; 6 of 21 tokens that may be on or after one are
    assert (following.observed, following.baseline) == (0.5, pytest.approx(6 / 21))


def test_onset_window() -> None:
    assert onset_window(np.array([0, 1, 0, 0, 1, 1], dtype=bool)).tolist() == [False, True, True, False, True, True]


def test_too_short_or_eventless_traces_say_nothing() -> None:
    flat = [0.0] * 30
    assert coupled(Coupling.ENTROPY, curves(flat, flat, flat, flat), Peaks()) is None
    short = [0.0, 1.0, 0.0] * 3
    assert coupled(Coupling.ENTROPY, curves(short, short, short, short), Peaks()) is None
    assert couple([], 0) is None


@given(st.integers(0, 10_000), st.integers(20, 60))
def test_all_circular_shifts_at_once_equal_rolling(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    events, values = rng.random(n) < 0.3, rng.normal(size=n)
    events[0] = True
    one = Coupled(events, values, np.zeros(n, dtype=int))
    rolled = [np.roll(values, -shift)[events].mean() for shift in range(n)]
    np.testing.assert_allclose(one.shifted(), rolled, atol=1e-9)
    assert one.shifted()[0] == pytest.approx(one.observed)
    assert one.shifted().mean() == pytest.approx(one.baseline)


def test_permutations_stay_within_sentences() -> None:
    sentence = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    values = np.array([5, 5, 5, 7, 7, 1, 2, 3, 4], dtype=float)
    events = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    draws = Coupled(events, values, sentence).permuted_in_sentences(50, np.random.default_rng(0))
    np.testing.assert_allclose(draws, 6.0)
    events = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
    draws = Coupled(events, values, sentence).permuted_in_sentences(400, np.random.default_rng(0))
    assert set(draws) == {1.0, 2.0, 3.0, 4.0}
    assert draws.mean() == pytest.approx(2.5, abs=0.2)


def test_two_sided_p() -> None:
    null = np.arange(99) / 99
    assert two_sided(2.0, null) == pytest.approx(2 / 100)
    assert two_sided(-1.0, null) == pytest.approx(2 / 100)
    assert two_sided(0.5, null) > 0.9
    assert two_sided(1.0, np.ones(10)) == 1.0


def shuffled_traces(seed: int, traces: int, n: int) -> list[Curves]:
    """Wandering WAAD and receiver FAI; an FAI without any order."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(traces):
        fai = rng.permutation(wandering(rng, n))
        sentence = np.cumsum(rng.random(n) < 0.1)
        made.append(Curves(wandering(rng, n), fai, wandering(rng, n), rng.permutation(wandering(rng, n)), sentence))
    return made


def test_both_nulls_are_honest_where_fai_is_shuffled() -> None:
    """5 % of the p-values lie below .05 (three couplings, two nulls, many seeds)."""
    seeds = 200
    p: dict[tuple[Coupling, str], list[float]] = {}
    for seed in range(seeds):
        traces = shuffled_traces(seed, 4, 80)
        for coupling in Coupling:
            pairs = [pair for t in traces if (pair := coupled(coupling, t, Peaks())) is not None]
            result = couple(pairs, seed, sentence_draws=100)
            assert result is not None
            p.setdefault((coupling, "shift"), []).append(float(result.p_shift or 0))
            p.setdefault((coupling, "sentence"), []).append(float(result.p_sentence or 0))
    rejected = {name: np.mean(np.array(values) < 0.05) for name, values in p.items()}
    # 99.9 % of 200 draws at 5 % lie between 1 % and 10.5 %
    assert all(0.005 <= share <= 0.105 for share in rejected.values()), rejected
    assert 0.03 <= np.mean(list(rejected.values())) <= 0.07, rejected


def test_a_planted_coupling_is_found_with_its_size() -> None:
    rng = np.random.default_rng(0)
    traces = []
    for _ in range(12):
        waad = wandering(rng, 200)
        entropy = rng.gamma(2.0, 1.0, 200)
        entropy[Peaks().of(waad)] += 2.0
        traces.append(Curves(waad, waad, waad, entropy, np.cumsum(rng.random(200) < 0.1)))
    result = couple([c for t in traces if (c := coupled(Coupling.ENTROPY, t, Peaks())) is not None], 0)
    assert result is not None
    assert result.p_shift is not None
    assert result.p_sentence is not None
    assert max(result.p_shift, result.p_sentence) < 0.02
    assert result.observed.low is not None
    assert result.null_high is not None
    assert result.observed.low > result.null_high
    assert result.observed.value == pytest.approx(4.0, abs=0.3)
    assert result.lift.value == pytest.approx(result.observed.value / result.baseline - 1)


def test_lift_intervals_cover() -> None:
    """The interval of a ratio of means holds the true lift in about 95 % of draws."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        baseline = rng.gamma(20, 0.05, 40)
        observed = baseline * 1.5 + rng.normal(0, 0.2, 40)
        lift = ratio_lift(observed, baseline, rng)
        covered += lift.low <= 0.5 <= lift.high  # type: ignore[operator]
    assert 0.88 <= covered / 200 <= 0.99


def test_lags() -> None:
    n, rng = 300, np.random.default_rng(1)
    pairs = []
    for _ in range(6):
        events = rng.random(n) < 0.05
        curve = np.ones(n)
        curve[np.minimum(np.flatnonzero(events) + 2, n - 1)] = 5.0
        pairs.append((events, curve))
    points = {p.lag: p for p in lag_curve(pairs, range(-4, 5), 0)}
    assert max(points.values(), key=lambda p: p.ratio.value).lag == 2
    assert points[2].ratio.value > 3
    assert points[2].ratio.low > points[2].null_high  # type: ignore[operator]
    assert points[-1].null_low <= 1 <= points[-1].null_high
    assert lag_curve([(np.zeros(30, dtype=bool), np.ones(30))], range(-1, 2), 0) == []


def test_partial_effects_take_the_covariate_out() -> None:
    rng = np.random.default_rng(2)
    raw, given_place = [], []
    for _ in range(30):
        place = np.linspace(-1, 1, 200)
        event = rng.random(200) < 0.2 + 0.15 * place  # events come late ...
        outcome = place + rng.normal(0, 0.5, 200)  # ... and so do high values: no effect of its own
        raw.append(partial_effect(outcome, event, np.zeros((200, 0))))
        given_place.append(partial_effect(outcome, event, place[:, None]))
    assert np.mean(raw) > 0.2
    assert abs(np.mean(given_place)) < 3 * np.std(given_place) / np.sqrt(30)
    assert np.isnan(partial_effect(np.ones(50), rng.random(50) < 0.3, np.zeros((50, 0))))
    assert np.isnan(partial_effect(rng.random(50), np.zeros(50, dtype=bool), np.zeros((50, 0))))


def test_partial_effect_by_hand() -> None:
    outcome = np.array([1.0, 2.0] * 15)
    event = outcome == 2
    # ranks standardise to -1 and 1: events are two standard deviations higher
    assert partial_effect(outcome, event, np.zeros((30, 0))) == pytest.approx(2.0)
    known = outcome.copy()
    known[:4] = NAN
    assert partial_effect(known, event, np.zeros((30, 0))) == pytest.approx(2.0)


def test_boundary_detection_by_hand() -> None:
    found = np.array([0, 1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    truth = np.array([0, 0, 1, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    inner = np.array([False, *[True] * 8, False])
    exact, near = detect(found, truth, inner, 0), detect(found, truth, inner, 1)
    assert exact is not None
    assert near is not None
    assert (exact.precision, exact.recall) == (0.0, 0.0)
    assert (near.precision, near.recall) == (0.5, 0.5)
    assert (exact.chance_precision, near.chance_precision) == (2 / 8, 5 / 8)
    # of the eight places on the circle, three in a row hold a mark at six, and two in a row (at the end) at four
    assert (exact.chance_recall, near.chance_recall) == (2 / 8, (6 / 8 + 4 / 8) / 2)
    assert detect(found, np.zeros(10, dtype=bool), inner, 1) is None


def test_peaks_of_noise_are_coupled_with_nothing() -> None:
    """In short traces too, whose first and last tokens can be no peaks: over 3,000 of them nothing is left."""
    rng = np.random.default_rng(0)
    above: dict[str, list[float]] = {}
    for _ in range(3000):
        made = rng.normal(size=(4, 30))
        made[1:3, -1] = made[3, 0] = NAN
        starts = np.array([True, *(rng.random(29) < 0.1)])
        noise = Curves(*made, np.cumsum(starts))
        for coupling in Coupling:
            if (pair := coupled(coupling, noise, Peaks())) is not None:
                above.setdefault(coupling, []).append(pair.observed - pair.baseline)
        if (one := detect(Peaks().of(noise.waad), starts, Peaks().possible(noise.waad), 1)) is not None:
            above.setdefault("precision", []).append(one.precision - one.chance_precision)
            above.setdefault("recall", []).append(one.recall - one.chance_recall)
    off = {name: np.mean(values) / (np.std(values) / len(values) ** 0.5) for name, values in above.items()}
    assert len(off) == 5
    assert all(abs(z) < 3.5 for z in off.values()), off


def test_a_claim_of_rhythm_says_which_condition_was_not_met() -> None:
    """Response a has 13 tokens and a WAAD peak, b has 25; FAI ends five tokens before the response does."""

    def why(
        coupling: str, b_peak: bool = False, sentences: bool = False, random: bool = False, tokens: int = 25
    ) -> str:
        rows = [
            {"example": example, "waad": 1.0, "entropy": 1.0, "fai_to_end": 1.0 if i < n - 5 else np.nan,
             "receiver_fai": 1.0 if i < n - 5 else np.nan, "waad_peak": i == 3 and (example == "a" or b_peak),
             "fai_peak": i == 4 and example == "b", "receiver_peak": False, "sentence_start": i == 8 and sentences}
            for example, n in (("a", 13), ("b", tokens)) for i in range(n)
        ]  # fmt: skip
        controls, boundaries = pd.DataFrame({"control": ["random_heads"] * random}), pd.DataFrame({"tolerance": [1]})
        return why_missing(coupling, pd.DataFrame(rows), controls, boundaries)

    assert why(Coupling.RECEIVER) == "no receiver-FAI peak in any response"
    assert why(Coupling.ENTROPY, tokens=15).startswith("responses too short: at most 15 tokens")
    assert why(Coupling.ENTROPY).startswith("no WAAD peak in a response of 20 tokens or more")
    assert why(Coupling.ENTROPY, b_peak=True) == "no random set of heads (experiment.random_sets)"
    assert why(Coupling.FOLLOWING, tokens=24).startswith("responses too short: at most 19 tokens")
    assert why(Coupling.FOLLOWING, random=True).startswith("no FAI peak of random heads")
    assert why(SENTENCES) == "no sentence begins within a response that has a WAAD peak"
    assert why(SENTENCES, sentences=True) == "no random set of heads (experiment.random_sets)"
