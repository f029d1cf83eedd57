"""What `patching` says of its tables: nothing of rounding, and by the right unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.patching import EXPERIMENT
from interp.heads.scores import Head
from interp.patching.findings import PatchingFacts, findings
from interp.patching.profiles import agreement, at_layers, peaks_elsewhere
from interp.patching.shares import path_sets
from interp.patching.shares import through as through_heads
from interp.runs.columns import COMMON, table_of
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.verdicts import Outcome
from interp.stats import ComparedBy, Sets

PAIRS, LAYERS, HEADS = 12, 4, 3
FALLS, RISES = "layer where the phrase's answer falls below half", "layer where the predicting token rises above half"
CONTROLS = (
    ("phrase_answer", None), ("predicting", None), ("phrase_answer", "unrelated_pair"),
    ("predicting", "unrelated_pair"), (None, "random_position"),
)  # fmt: skip


def frame(rows: list[dict[str, Any]], table: str = "effects") -> pd.DataFrame:
    columns = [column.name for column in (*table_of(table).columns, *COMMON)]
    return pd.DataFrame(rows, columns=columns).assign(seed=0)


def swept(nld: Callable[[str | None, str | None, int, int], float], denominator: float = 8.0) -> list[dict[str, Any]]:
    """Patches of PAIRS pairs; `nld` gives the effect by role, control, pair and layer."""
    rows = []
    for pair in range(PAIRS):
        for layer in range(LAYERS):
            for role, control in CONTROLS:
                value = nld(role, control, pair, layer)
                about = {"example": str(pair), "intervention": "patch_resid_pre", "layer": layer, "role": role}
                rows.append({**about, "control": control, "metric": "nld", "value": value})
                ends = {"clean": denominator / 2, "corrupted": -denominator / 2}
                rows.append({**about, "control": control, "metric": "ld", "value": value * denominator, **ends})
    return rows


def preferred(clean: Sequence[float], corrupted: Sequence[float]) -> pd.DataFrame:
    """What the runs of all pairs prefer."""
    sides = zip(clean, corrupted, strict=True)
    return frame([
        {"example": str(pair), "clean": a, "corrupted": b, "kept": a > 0 > b} for pair, (a, b) in enumerate(sides)
    ], "preferences")  # fmt: skip


RIGHT = preferred([4.0] * PAIRS, [-4.0] * PAIRS)


def told(
    rows: list[dict[str, Any]], prefers: pd.DataFrame = RIGHT, rfhs: Sequence[Head] = (Head(1, 0),)
) -> Findings[PatchingFacts]:
    return findings(frame(rows), prefers, list(rfhs), Sets([], True), (LAYERS, HEADS), 0)


def number(found: Findings[PatchingFacts], name: str) -> Headline:
    return next(one for one in found.headlines if name in one.name)


def outcomes(found: Findings[PatchingFacts]) -> Mapping[str, Outcome]:
    return {one.claim: one.outcome for one in found.verdicts}


def through(share: float, draw: int | None = None) -> Iterator[dict[str, Any]]:
    """Paths of the phrase's answer through the RFHs, or a random set, with a share of an effect of .8."""
    for pair in range(PAIRS):
        about = {"example": str(pair), "intervention": "through_resid_pre", "layer": 0, "metric": "nld"}
        control = None if draw is None else "random_heads"
        yield {**about, "role": "phrase_answer", "control": control, "draw": draw, "value": 0.8 * share}


def test_nothing_is_said_of_a_curve_that_is_rounding() -> None:
    """The phrase's answer moves the answer by less than a thousandth, always the other way than erasing does."""

    def rounding(role: str | None, control: str | None, pair: int, layer: int) -> float:
        if role == "predicting":
            return [0.0, 0.2, 0.8, 1.0][layer] / (1 if control is None else 2)
        return (0.0003 if layer == 1 else -0.0013 - 0.0001 * pair) if control is None else 0.001

    found = told([*swept(rounding), *through(0.2)])
    falls, rises = number(found, FALLS), number(found, RISES)
    assert np.isnan(falls.estimate.value)
    assert falls.estimate.n == 0
    assert rises.estimate.value == pytest.approx(1.5), "from .2 to .8, half of 1 is half way"
    assert not [one for one in found.headlines if "goes through" in one.name]
    assert found.facts.first_layer_predicting_above_token is None
    transfer = number(found, "layer 0, against erasing").comparison
    assert transfer is not None
    assert transfer.decided, "a difference of two thousandths may well be significant"
    undecided = Outcome.UNDECIDED
    assert outcomes(found) == {"A5": undecided, "A5.reasoning": undecided, "A5.last": Outcome.AGREES}


def carried(role: str | None, control: str | None, pair: int, layer: int) -> float:
    """A hand-over from layer 1 to layer 2; the controls do half as much."""
    curve = [0.0, 0.2, 0.8, 1.0] if role == "predicting" else [0.8, 0.8, 0.2, 0.0]
    return curve[layer] / (1 if control is None else 2) + 0.01 * (pair % 3)


def test_of_a_clear_curve_all_is_said() -> None:
    found = told([*swept(carried), *through(0.2)])
    assert number(found, FALLS).estimate.value == pytest.approx(1.66, abs=0.02)
    assert number(found, "goes through").estimate.value == pytest.approx(0.2, abs=0.01)
    assert found.facts.first_layer_predicting_above_token == 2
    assert set(outcomes(found).values()) == {Outcome.AGREES}


def test_pairs_that_were_chosen_by_their_preferences_do_not_show_any() -> None:
    """Random weights: both runs prefer the same answer by about as much. Of 400 pairs the few whose runs prefer their
    own by chance are patched, and there patches carry over what little there is."""
    rng = np.random.default_rng(0)
    bias = rng.normal(0, 1, 400)
    clean, corrupted = (bias + rng.normal(0, 0.05, 400) for _ in range(2))
    chance = preferred(clean, corrupted)
    kept = chance[chance["kept"]]
    assert 0 < len(kept) < 30
    assert kept["clean"].min() > 0 > kept["corrupted"].max(), "those that are kept always prefer their own"
    claims = {"A5", "A5.last", "A5.reasoning"}
    assert outcomes(told(swept(carried), chance)) == dict.fromkeys(claims, Outcome.UNDECIDED)
    assert outcomes(told(swept(carried))) == dict.fromkeys(claims, Outcome.AGREES)
    theirs = told(swept(carried), preferred([4.0] * PAIRS, [3.0] * PAIRS))
    assert outcomes(theirs) == dict.fromkeys(claims, Outcome.UNDECIDED), "no finding against the claims"
    assert "both runs prefer their own answers: logit difference of the corrupted run" in str(theirs.verdicts[0].why)


def test_the_share_moved_is_a_ratio_of_means() -> None:
    """Eleven pairs whose runs differ by 8 and one by .1, where NLD is 40: the mean of NLD is far above all others'."""
    rows = swept(lambda *_: 0.5)
    small = [row for row in rows if row["example"] == "0"]
    for row in small:
        row["value"] = 40.0 if row["metric"] == "nld" else 4.0
        if row["metric"] == "ld":
            row["clean"], row["corrupted"] = 0.05, -0.05
    found = told(rows)
    assert number(found, "NLD, the phrase's answer, layer 0").estimate.value == pytest.approx((40 + 11 * 0.5) / 12)
    moved = number(found, "share of the logit difference moved, the phrase's answer, layer 0")
    assert moved.estimate.value == pytest.approx((4 + 11 * 4) / (0.1 + 11 * 8))
    assert moved.control is not None
    assert moved.control.value == moved.estimate.value, "an unrelated pair does as much here"
    assert moved.comparison is not None
    assert moved.comparison.p == 1.0


def test_a_peak_is_measured_on_other_pairs_than_it_is_chosen_on() -> None:
    """Layer 1 is highest in the even pairs, layer 2 in the odd ones: each half is measured at the other's peak."""
    curve = pd.DataFrame([[0.1, 0.9, 0.4], [0.2, 0.3, 0.8], [0.0, 0.7, 0.5], [0.1, 0.2, 0.6]], index=list("abcd"))
    peaks = peaks_elsewhere(curve)
    assert peaks.to_dict() == {"a": 2, "b": 1, "c": 2, "d": 1}
    assert at_layers(curve, peaks).to_dict() == {"a": 0.4, "b": 0.3, "c": 0.5, "d": 0.2}
    assert at_layers(curve.drop(columns=1), peaks).isna().to_list() == [False, True, False, True]
    assert peaks_elsewhere(curve.iloc[:1]).isna().all(), "one pair has no other"

    def even_and_odd(role: str | None, control: str | None, pair: int, layer: int) -> float:
        return 0.9 if control is None and layer == 1 + pair % 2 else 0.3

    assert number(told(swept(even_and_odd)), "layer 1 or 2 (its peak)").estimate.value == pytest.approx(0.3)


def test_a_peak_of_chance_is_found_as_often_as_the_level_says() -> None:
    """No effect, 28 layers: a peak that is chosen on the same pairs is 'significant' in a fifth of the cases."""
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        token, random = (pd.DataFrame(rng.normal(0, 0.2, (16, 28))) for _ in range(2))
        peaks = peaks_elsewhere(token)
        found += float(stats.ttest_rel(at_layers(token, peaks), at_layers(random, peaks)).pvalue) < 0.05
    assert found <= stats.binom.ppf(0.999, 200, 0.05)


def heads_patched(effects: Mapping[Head, float], layers: range = range(LAYERS)) -> list[dict[str, Any]]:
    """Every head's output patched at the predicting token; heads that are not named do nothing but round."""
    return [
        {"example": "0", "intervention": "patch_z", "layer": layer, "head": head, "role": "predicting",
         "metric": "nld", "value": effects.get(Head(layer, head), 1e-6)}
        for layer in layers for head in range(HEADS)
    ]  # fmt: skip


def test_heads_without_effect_are_not_among_those_with_most() -> None:
    flat, rfhs = swept(lambda *_: 0.0), [Head(1, 0), Head(1, 2)]
    for effects, top in (({Head(1, 2): 0.7}, [Head(1, 2)]), ({}, [])):
        found = told([*flat, *heads_patched(effects)], rfhs=rfhs)
        assert found.facts.top_heads == {"predicting": top}


def test_paths_have_sets_of_heads_as_their_unit() -> None:
    """Heads differ, and so do any two sets, in every pair alike: the RFHs' share is told from chance by how many sets
    have less, however many pairs there are."""
    rfhs, shape = [Head(0, 1), Head(2, 3)], (4, 12)
    sets = path_sets(rfhs, shape, 60, 0)
    assert sets == path_sets(rfhs, shape, 60, 0)
    assert len({tuple(one) for (one,) in sets.heads}) == 60
    assert all([layer for layer, _ in one] == [0, 2] and set(one) != set(rfhs) for (one,) in sets.heads)
    assert sets.matched
    whole = swept(lambda role, *_: 0.8 if role == "phrase_answer" else 1.0)
    shares = np.linspace(0.1, 0.3, 60)

    def compared(own: float) -> Headline:
        random = [row for i, share in enumerate(shares) for row in through(share, i)]
        (found,) = through_heads(frame([*whole, *through(own), *random]), 0, sets, 0)
        return found

    usual, high = compared(0.25), compared(0.5)
    for found, own, decided in ((usual, 0.25, False), (high, 0.5, True)):
        assert found.estimate.value == pytest.approx(own)
        assert found.control is not None
        assert (found.control.value, found.control.n) == (pytest.approx(0.2), 60)
        assert found.comparison is not None
        assert found.comparison.test is ComparedBy.SETS
        assert (found.comparison.difference.n, found.comparison.decided) == (60, decided)
        assert found.comparison.difference.value == pytest.approx(own - 0.2)


def test_chance_is_over_the_heads_that_are_patched() -> None:
    """Of two layers with three heads each, two RFHs are there and two heads do something, one of them an RFH: by chance
    2 * 2 / 6. The third RFH lies elsewhere."""
    heads = heads_patched({Head(1, 0): 0.9, Head(2, 1): 0.6}, range(1, 3))
    found = told([*swept(lambda *_: 0.0), *heads], rfhs=[Head(1, 0), Head(2, 2), Head(0, 1)])
    assert [line for line in found.lines if line.startswith("  of these, RFHs: 1 (by chance 0.67, ")], found.lines
    elsewhere = told([*swept(lambda *_: 0.0), *heads], rfhs=[Head(0, 1)])
    assert not [line for line in elsewhere.lines if "of these" in line], "it says nothing of heads that are not patched"


def test_the_published_number_stands_beside_the_layer_that_it_is_of() -> None:
    """In the report, beside the first headline whose name has the key."""
    key = next(key for key, text in EXPERIMENT.about.beside.items() if text.startswith(".285"))
    names = [one.name for one in told(swept(carried)).headlines if key in one.name]
    assert names[0] == "NLD, the phrase's answer, layer 0, against erasing"


def test_estimates_are_held_against_effects_alone() -> None:
    """Of eight patches three are effects, the others rounding; estimates have their order, but one other is second."""
    exact = [0.9, -0.5, 0.1, 2e-4, -1e-5, 3e-6, 0.0, 5e-4]
    estimated = [0.7, -0.3, 0.2, 0.4, 0.0, 0.0, 1e-5, 0.0]

    def rows(exact: list[float]) -> pd.DataFrame:
        both = {"patch": exact, "attribute": estimated}
        return frame([
            {"example": "a", "intervention": f"{verb}_resid_pre", "layer": 0, "position": position, "metric": "nld",
             "role": "answer", "value": value}
            for verb, values in both.items() for position, value in enumerate(values)
        ])  # fmt: skip

    (found,) = agreement(rows(exact), "resid_pre", 10).to_dict("records")
    assert found == {"example": "a", "rho": pytest.approx(1.0), "recall": pytest.approx(2 / 3), "chance": 3 / 8}
    (one,) = agreement(rows([0.9, *[1e-5] * 7]), "resid_pre", 10).to_dict("records")
    assert (one["recall"], one["chance"]) == (1.0, 1 / 8)
    assert np.isnan(one["rho"]), "one effect has no order"
    (none,) = agreement(rows([1e-5] * 8), "resid_pre", 10).to_dict("records")
    assert np.isnan([none["rho"], none["recall"], none["chance"]]).all()
