"""Comparisons with controls and the verdicts that follow from them: by hand, and over data without effect."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.patching import unrelated_pair
from interp.heads.scores import Head
from interp.rhythm.couplings import Coupling, Peaks
from interp.rhythm.head_controls import SENTENCES, against_heads, control_rows, control_sets
from interp.rhythm.head_sets import HeadSets
from interp.rhythm.waad_fai import HeadCurves, Sinks
from interp.runs.claims import CLAIMS
from interp.runs.headlines import Headline, headline_of
from interp.runs.verdicts import Outcome, Sign, Verdict, complete, decide, verdict
from interp.stats import (
    ComparedBy,
    Comparison,
    Estimate,
    alike_in,
    binomial_comparison,
    hypergeometric_comparison,
    layers_of,
    relabelled,
    rng_for,
)

UNKNOWN = Estimate(float("nan"), 0)


def number(difference: float, p: float | None) -> Headline:
    return Headline("it", UNKNOWN, "its control", UNKNOWN, Comparison(ComparedBy.PAIRED, Estimate(difference, 9), p))


def test_a_paired_difference_shows_where_two_intervals_overlap() -> None:
    """Examples differ by far more than the effect, which all of them have."""
    control = np.linspace(0.0, 10.0, 20)
    own = control + 0.1 + 0.01 * np.resize([-1.0, 1.0], 20)
    found = Comparison.paired(own, control, rng_for(0))
    assert found is not None
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low is not None
    assert found.difference.low > 0.09
    assert found.p is not None
    assert found.p < 0.001


def test_examples_without_both_values_are_left_out() -> None:
    found = Comparison.paired(np.array([1.0, np.nan, 3.0]), np.array([0.0, 0.0, np.nan]), rng_for(0))
    assert found == Comparison(ComparedBy.PAIRED, Estimate(1.0, 1), None)
    assert Comparison.paired(np.array([np.nan]), 0.0, rng_for(0)) is None


def test_seven_examples_cannot_decide_at_one_in_a_hundred_and_twenty_eight_but_five_cannot_at_all() -> None:
    """All signs alike: p = 2 / 2 ** n."""
    for n, p in ((5, 2 / 2**5), (7, 2 / 2**7)):
        found = Comparison.paired(np.arange(1.0, n + 1), 0.0, rng_for(0))
        assert found is not None
        assert found.p == pytest.approx(p)
        assert found.decided == (n == 7)


def test_a_rank_among_sets_by_hand() -> None:
    """19 sets around 0, the list far off: 2 * 1 of 20; a list at the last one: 2 * 2 of 20; in the middle: 1."""
    sets = np.linspace(-1.0, 1.0, 19)
    found = Comparison.with_draws(50.0, sets)
    assert found is not None
    assert found.p == pytest.approx(2 / 20)
    assert found.difference.n == 19
    assert found.difference.value == pytest.approx(50.0)
    for own, p in ((1.0, 4 / 20), (-1.0, 4 / 20), (0.0, 1.0)):
        at = Comparison.with_draws(own, sets)
        assert at is not None
        assert at.p == pytest.approx(p)


def test_without_sets_or_value_there_is_no_comparison() -> None:
    assert Comparison.with_draws(1.0, np.array([])) is None
    assert Comparison.with_draws(float("nan"), np.array([1.0])) is None
    (equal,) = [Comparison.with_draws(2.0, np.full(30, 2.0))]
    assert equal is not None
    assert equal.p == 1.0


def test_shares_of_heads_by_hand() -> None:
    """2 of 2 heads in the middle third of 24: chance 1/3 * 7/23. None of 2 is no exact zero."""
    both = hypergeometric_comparison(2, 2, 8, 24)
    assert both.p == pytest.approx(2 * (8 / 24) * (7 / 23))
    assert not binomial_comparison(0, 2, 0.5).decided
    six = binomial_comparison(0, 6, 0.5)
    assert six.p == pytest.approx(2 / 2**6)
    assert six.difference.value == -0.5


@pytest.mark.parametrize(
    ("difference", "p", "outcome"),
    [
        (0.2, 0.01, Outcome.AGREES),
        (-0.2, 0.01, Outcome.OPPOSITE),
        (0.2, 0.06, Outcome.UNDECIDED),
        (0.2, None, Outcome.UNDECIDED),
        (0.04, 0.001, Outcome.UNDECIDED),
        (-0.04, 0.001, Outcome.UNDECIDED),
    ],
)
def test_one_rule_for_all(difference: float, p: float | None, outcome: Outcome) -> None:
    assert decide(number(difference, p), Sign.HIGHER, least=0.05) is outcome
    turned = {Outcome.AGREES: Outcome.OPPOSITE, Outcome.OPPOSITE: Outcome.AGREES}
    assert decide(number(difference, p), Sign.LOWER, least=0.05) is turned.get(outcome, outcome)


def test_a_claim_needs_all_its_numbers() -> None:
    good, bad, open_ = number(1.0, 0.01), number(-1.0, 0.01), number(1.0, 0.5)
    claim = next(iter(CLAIMS))
    assert verdict(claim, [(good, Sign.HIGHER), (good, Sign.HIGHER)]).outcome is Outcome.AGREES
    mixed = verdict(claim, [(good, Sign.HIGHER), (open_, Sign.HIGHER)])
    assert (mixed.outcome, mixed.decided_by) == (Outcome.UNDECIDED, open_)
    against = verdict(claim, [(open_, Sign.HIGHER), (bad, Sign.HIGHER)])
    assert (against.outcome, against.decided_by) == (Outcome.OPPOSITE, bad)
    weak = number(-1.0, 0.03)
    assert verdict(claim, [(weak, Sign.HIGHER)]).outcome is Outcome.OPPOSITE
    assert verdict(claim, [(open_, Sign.HIGHER), (weak, Sign.HIGHER)]).outcome is Outcome.UNDECIDED, "at .025"
    assert verdict(claim, []).outcome is Outcome.NOT_TESTED


def test_a_claim_says_nothing_without_the_one_it_stands_on() -> None:
    missing = verdict("A3", [(number(1.0, 0.5), Sign.HIGHER)])
    found = verdict("A4", [(number(1.0, 0.001), Sign.HIGHER)], needs=missing)
    assert found.outcome is Outcome.UNDECIDED
    assert found.why is not None
    assert "A3 is undecided" in found.why


def test_every_claim_gets_one_verdict_and_json_keeps_it() -> None:
    own = verdict("A1", [(number(1.0, 0.001), Sign.HIGHER)])
    listed = complete([own], {"heads": "broken"})
    assert [one.claim for one in listed] == list(CLAIMS)
    assert listed[0] == own
    why = {one.claim: one.why for one in listed[1:]}
    assert why["A3"] == "broken"
    assert why["B2"] == "experiment=rhythm was not run"
    again = Verdict.from_json(own.as_json())
    assert (again.claim, again.outcome) == (own.claim, own.outcome)
    assert again.decided_by is not None
    assert again.decided_by.comparison == number(1.0, 0.001).comparison


def test_headlines_survive_summary_json() -> None:
    one = Headline(
        "it", Estimate(1.0, 3, 0.5, 1.5), "control", Estimate(0.0, 3), Comparison(ComparedBy.SETS, UNKNOWN, 0.5)
    )
    assert headline_of(one.as_json()).estimate == one.estimate
    assert headline_of({**one.as_json(), "comparison": None}).comparison is None


def _paired(rng: np.random.Generator) -> Comparison | None:
    shared = 3 * rng.normal(size=10)
    return Comparison.paired(shared + rng.normal(size=10), shared + rng.normal(size=10), rng)


Lists = Sequence[Sequence[tuple[int, int]]]


def _among_renamed(
    effects: np.ndarray,
    lists: Lists,
    groups: Lists,
    rng: np.random.Generator,
) -> Comparison | None:
    """Where the mean effect of lists of heads stands among renamed ones."""

    def mean(of: Lists) -> float:
        return float(np.mean([effects[place] for one in of for place in one]))

    sets = relabelled(lists, groups, 60, rng)
    return Comparison.with_draws(mean(lists), np.array([mean(draw) for draw in sets.heads]))


PLACES = list(np.ndindex(4, 12))


def _sets(rng: np.random.Generator) -> Comparison | None:
    """The list is a set like the others, whatever heads do."""
    heads = [(layer, int(rng.integers(12))) for layer in range(4)]
    return _among_renamed(rng.normal(size=(4, 12)), [heads], layers_of(PLACES), rng)


def _two_halves(rng: np.random.Generator) -> Comparison | None:
    """Few heads matter at all, and the lists of both halves of the traces share most of theirs."""
    effects = -1.0 * (rng.random((4, 12)) < 0.05) * rng.exponential(size=(4, 12)) + 0.01 * rng.normal(size=(4, 12))
    first = [PLACES[i] for i in rng.permutation(48)[:9]]
    return _among_renamed(effects, [first[:8], first[1:]], layers_of(PLACES), rng)


def _sets_alike(rng: np.random.Generator) -> Comparison | None:
    """The same, beside heads of like attention to the reasoning, of which the list has most; effects go with it."""
    mass = rng.random((4, 12))
    own = sorted(PLACES, key=lambda place: -mass[place])[:5]
    groups = alike_in({place: mass[place] for place in PLACES}, 15)
    return _among_renamed(rng.normal(size=(4, 12)), [own], groups, rng)


def _shared_heads(rng: np.random.Generator) -> Comparison | None:
    return hypergeometric_comparison(len(set(rng.permutation(60)[:10]) & set(range(20))), 10, 20, 60)


@pytest.mark.parametrize("kind", [_paired, _sets, _two_halves, _sets_alike, _shared_heads])
def test_without_effect_about_one_claim_in_forty_agrees(
    kind: Callable[[np.random.Generator], Comparison | None],
) -> None:
    outcomes = []
    for seed in range(400):
        compared = kind(np.random.default_rng(seed))
        outcomes.append(decide(Headline("it", UNKNOWN, "control", UNKNOWN, compared), Sign.HIGHER))
    assert outcomes.count(Outcome.AGREES) <= 0.04 * len(outcomes)
    assert outcomes.count(Outcome.OPPOSITE) <= 0.04 * len(outcomes)


def test_more_numbers_do_not_make_a_claim_opposite_by_chance() -> None:
    """Without effect p is anything from 0 to 1, and goes either way."""
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(4000):
        three = [number(rng.choice([-1.0, 1.0]), p) for p in rng.uniform(size=3)]
        outcomes.append(verdict("A4", [(one, Sign.HIGHER) for one in three]).outcome)
    assert outcomes.count(Outcome.AGREES) == 0
    assert outcomes.count(Outcome.OPPOSITE) <= 0.03 * len(outcomes)


def test_an_effect_of_known_size_is_found() -> None:
    """Three standard errors: more than four times in five."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        compared = Comparison.paired(rng.normal(3 / 5, 1.0, 25), 0.0, rng)
        found += decide(Headline("it", UNKNOWN, "control", UNKNOWN, compared), Sign.HIGHER) is Outcome.AGREES
    assert found > 75


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_renamed_lists_are_different_and_share_what_the_lists_share(
    seed: int, size: int, n_heads: int, n_layers: int
) -> None:
    rng = np.random.default_rng(seed)
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    order = [places[i] for i in rng.permutation(len(places))]
    lists = [order[:size], order[size // 2 : size // 2 + size]]
    sets = relabelled(lists, layers_of(places), 30, rng)
    drawn = {tuple(tuple(sorted(one)) for one in draw) for draw in sets.heads}
    assert len(drawn) == len(sets.heads) <= 30
    assert tuple(tuple(sorted(one)) for one in lists) not in drawn
    for draw in sets.heads:
        assert len(set(draw[0]) & set(draw[1])) == len(set(lists[0]) & set(lists[1]))
        for one, own in zip(draw, lists, strict=True):
            assert len(set(one)) == len(own)
            assert not sets.matched or sorted(layer for layer, _ in one) == sorted(layer for layer, _ in own)


def test_groups_of_like_heads_are_next_to_one_another() -> None:
    value = {(0, 0): 0.1, (0, 1): 0.9, (1, 0): 0.5, (1, 1): 0.8, (2, 0): 0.0}
    assert alike_in(value, 2) == [[(0, 1), (1, 1)], [(1, 0), (0, 0)], [(2, 0)]]


def test_small_models_are_compared_over_all_layers() -> None:
    """Two layers of three heads hold eight other sets of one each: too few, so any two of the six stand in."""
    two = [(0, 0), (1, 1)]
    small = relabelled([two], layers_of(np.ndindex(2, 3)), 200, rng_for(0))
    assert (small.matched, len(small.heads)) == (False, 14)
    wider = relabelled([two], layers_of(np.ndindex(2, 7)), 200, rng_for(0))
    assert (wider.matched, len(wider.heads)) == (True, 48)


def curves_where(special: set[Head], seed: int, n: int = 80) -> tuple[HeadCurves, np.ndarray, np.ndarray]:
    """Heads with noise for curves; those that are special have WAAD peaks where entropy and sentences rise."""
    rng = np.random.default_rng(seed)
    starts = np.zeros(n, dtype=bool)
    starts[5::8] = True
    entropy = starts + 0.1 * rng.random(n)
    waad = 8 * rng.random((2, 16, n))
    for layer, head in special:
        waad[layer, head] = 5 * starts + 0.1 * rng.random(n)
    fai = rng.random((2, 16, n))
    return HeadCurves(waad, fai, fai, np.zeros((2, 16)), np.zeros((2, 16))), entropy, starts


@pytest.mark.parametrize("special", [True, False])
def test_couplings_of_the_chosen_heads_alone_stand_out(special: bool) -> None:
    """The same coupling in all heads says nothing of those that were chosen."""
    local = [Head(0, 1), Head(1, 2)]
    every = {Head(a, b) for a in range(2) for b in range(16)}
    sets = HeadSets("all", Sinks.KEPT, local, [Head(0, 5), Head(1, 5)], [Head(0, 7)])
    controls = control_sets(sets, range(2), 16, 60, 0)
    rows = []
    for i in range(5):
        curves, entropy, starts = curves_where(set(local) if special else every, i)
        sentence = np.cumsum(starts)
        rows += control_rows(str(i), curves, controls, entropy, sentence, starts, Peaks())
    table = pd.DataFrame(rows)
    for coupling in (Coupling.ENTROPY, SENTENCES):
        found = against_heads(table, coupling, 0)
        assert found is not None
        assert found.chosen.value > 0.1
        assert found.comparison.decided == special
    receivers = against_heads(table, Coupling.RECEIVER, 0)
    assert receivers is not None
    assert not receivers.comparison.decided


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(1, 2), (3, 4), (5, 6)], [1, 2, 0]),
        ([(1, 2), (2, 3), (4, 5)], [2, 2, 0]),
        ([(1, 2), (2, 1), (1, 3)], [None, None, None]),
        ([(1, 2)], [None]),
    ],
)
def test_an_unrelated_pair_names_neither_answer(answers: list[tuple[int, int]], expected: list[int | None]) -> None:
    pairs: Any = [
        SimpleNamespace(clean=SimpleNamespace(answer_id=a), corrupted=SimpleNamespace(answer_id=b)) for a, b in answers
    ]
    assert [unrelated_pair(pairs, i) for i in range(len(pairs))] == expected
