"""Gates, contrasts and power: by hand, on cases that fail, and against simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interp.credit.contrasts import (
    CONTRASTS,
    Outcome,
    Spread,
    contrast_line,
    contrast_rows,
    detectable,
    pairs_of,
    power,
    seed_rows,
)
from interp.credit.gamma import Strategy
from interp.credit.gates import LEAST_RECALL, MOST_COSINE, PAIRS, Gate, gates, power_lines, treatment_rows
from interp.credit.study import Training

DECIDES = np.array([False, True, True, False, False, True])


def trained(arm: str, seed: int, reward: list[float], final: float = 0.5) -> Training:
    rows = [{"step": i, "measure": "reward", "value": value} for i, value in enumerate(reward, start=1)]
    rows += [{"step": 0, "measure": "accuracy", "value": 0.2}, {"step": 9, "measure": "accuracy", "value": final}]
    return Training(arm, seed, pd.DataFrame(rows), 0.0)


def measured(recall: float, cosine: float) -> pd.DataFrame:
    rows = [
        {"strategy": "coupled", "measure": "recall", "value": recall, "n": 4},
        {"strategy": "coupled", "measure": "precision", "value": 0.5, "n": 4},
        {"strategy": "coupled", "measure": "gradient_cosine", "value": cosine, "n": 4},
        {"strategy": "oracle", "measure": "gradient_cosine", "value": 0.4, "n": 4},
    ]
    return pd.DataFrame(rows)


def deciding(found: list[Gate]) -> dict[str, bool]:
    return {gate.gate: gate.passed for gate in found if gate.passed is not None}


def test_recall_precision_and_chance_by_hand() -> None:
    gamma = np.array([1.0, 1.5, 1.0, 1.5, 1.0, 1.25])
    rows = treatment_rows({Strategy.COUPLED: [gamma]}, [DECIDES], {Strategy.COUPLED: [0.5, 0.7]})
    found = {row["measure"]: (row["value"], row["n"]) for row in rows}
    # Of three deciding tokens two are credited, of three credited ones two decide; three of six tokens are credited.
    assert found == {
        "recall": (pytest.approx(2 / 3), 1),
        "precision": (pytest.approx(2 / 3), 1),
        "chance": (pytest.approx(1 / 2), 1),
        "gradient_cosine": (pytest.approx(0.6), 2),
    }


def test_responses_without_decisions_do_not_count_and_without_credit_find_nothing() -> None:
    gamma = [np.ones(6), np.array([2.0, 1, 1, 1, 1, 1]), np.array([1.0, 2, 2, 1, 1, 2])]
    decides = [DECIDES, np.zeros(6, dtype=bool), DECIDES]
    rows = list(treatment_rows({Strategy.COUPLED: gamma}, decides, {}))
    assert [(row["measure"], row["value"], row["n"]) for row in rows] == [
        ("recall", 0.5, 2),
        ("precision", 1.0, 1),
        ("chance", 0.25, 2),
    ]


def study(gain: float, seeds: int = PAIRS, scatter: float = 0.01) -> list[Training]:
    """Oracle credit that gains so much, more or less by the scatter from seed to seed."""
    found = []
    for seed in range(seeds):
        found.append(trained("uniform", seed, [0.2, 0.4]))
        found.append(trained("oracle", seed, [0.2 + gain + scatter * (-1) ** seed, 0.4 + gain]))
    return found


def test_all_gates_pass_where_everything_is_there() -> None:
    found = gates([measured(0.9, 0.7), measured(0.7, 0.8)], study(0.1))
    assert deciding(found) == {"finds": True, "treats": True, "pays": True}
    by_name = {(gate.gate, gate.strategy, gate.measure): gate for gate in found}
    assert by_name["finds", "coupled", "recall"].found.value == pytest.approx(0.8)
    assert by_name["treats", "oracle", "gradient_cosine"].passed is None
    assert by_name["pays", "oracle", "mean_reward minus uniform"].found.value == pytest.approx(0.1)
    assert "passed" in by_name["finds", "coupled", "recall"].line


@pytest.mark.parametrize(
    ("recall", "cosine", "trainings", "fails"),
    [
        (LEAST_RECALL - 0.01, 0.7, study(0.1), "finds"),
        (0.9, MOST_COSINE + 0.01, study(0.1), "treats"),
        (0.9, 0.7, study(0.0), "pays"),
        (0.9, 0.7, study(-0.1), "pays"),
        (0.9, 0.7, study(0.002, scatter=0.05), "pays"),
        (0.9, 0.7, study(0.1, seeds=PAIRS - 1), "pays"),
        (0.9, 0.7, [one for one in study(0.1) if one.arm == "oracle"], "pays"),
    ],
    ids=["recall", "cosine", "no gain", "loss", "noise", "few seeds", "no plain GRPO"],
)
def test_each_gate_fails_by_itself(recall: float, cosine: float, trainings: list[Training], fails: str) -> None:
    found = gates([measured(recall, cosine)], trainings)
    assert [gate for gate, passed in deciding(found).items() if not passed] == [fails]
    assert any("FAILED" in gate.line for gate in found)


def test_what_was_not_measured_has_not_passed() -> None:
    found = gates([], [])
    assert deciding(found) == {"finds": False, "treats": False, "pays": False}
    assert [gate.row["value"] for gate in found] == [None, None, None]


def test_the_third_gate_rarely_opens_where_oracle_credit_gains_nothing() -> None:
    rng, opened = np.random.default_rng(0), 0
    for _ in range(100):
        rewards = rng.normal(0.4, 0.05, (2, PAIRS))
        arms = zip(("uniform", "oracle"), rewards, strict=True)
        runs = [trained(arm, i, [reward]) for arm, row in arms for i, reward in enumerate(row)]
        opened += deciding(gates([], runs))["pays"]
    # By its interval one in forty: 2.5 of 100, and hardly more than 8.
    assert 1 <= opened <= 8


@pytest.mark.parametrize(("difference", "sd", "pairs"), [(0.05, 0.06, 8), (0.0, 0.06, 8), (0.03, 0.04, 16)])
def test_power_is_that_of_simulated_studies(difference: float, sd: float, pairs: int) -> None:
    from scipy import stats

    drawn = np.random.default_rng(1).normal(difference, sd, (20000, pairs))
    found = float((stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean())
    assert power(difference, sd, pairs) == pytest.approx(found, abs=0.012)


def test_power_that_was_published_in_tables() -> None:
    # Cohen's d of 1 with 10 pairs: power .803 (Cohen 1988, paired t test, two-sided .05).
    assert power(1.0, 1.0, 10) == pytest.approx(0.803, abs=2e-3)
    assert power(detectable(0.06, 8), 0.06, 8) == pytest.approx(0.8)
    assert detectable(0.06, 16) < detectable(0.06, 8)
    with pytest.raises(ValueError, match="two pairs"):
        power(0.1, 0.1, 1)


def test_contrasts_are_paired_by_seed_and_worked_out_by_hand() -> None:
    done = [trained("coupled", seed, [value]) for seed, value in ((0, 0.5), (1, 0.7), (2, 0.9))]
    done += [trained("matched_random", seed, [value]) for seed, value in ((0, 0.4), (1, 0.4))]
    (row,) = [row for row in contrast_rows(done) if row["outcome"] == Outcome.REWARD]
    assert (row["arm"], row["other"], row["pairs"]) == ("coupled", "matched_random", 2)
    assert row["difference"] == pytest.approx(0.2)  # of .1 and .3
    assert row["sd"] == pytest.approx(0.1 * 2**0.5)
    assert row["low"] == pytest.approx(0.2 - 12.706 * 0.1, abs=1e-3)
    assert row["p_adjusted"] == row["p"]
    assert contrast_line(row).startswith("mean_reward, coupled minus matched_random: +0.200 [")


def test_every_other_arm_is_set_beside_a_named_reference() -> None:
    arms = ["uniform", "coupled", "bottom", "q 0.2"]
    assert pairs_of(arms) == [(str(a), str(b)) for a, b in CONTRASTS]
    found = pairs_of(arms, "bottom")
    assert ("uniform", "bottom") in found
    assert ("q 0.2", "bottom") in found
    assert found.count(("coupled", "bottom")) == 1
    assert not [pair for pair in found if pair[1] == "uniform"]
    done = [trained(arm, seed, [value]) for arm, value in (("uniform", 0.3), ("bottom", 0.1)) for seed in (0, 1)]
    rows = contrast_rows(done, "bottom")
    assert {(row["arm"], row["other"]) for row in rows} == {("uniform", "bottom")}


def test_equal_arms_have_a_contrast_without_spread() -> None:
    done = [trained(arm, seed, [0.5]) for arm in ("coupled", "bottom") for seed in (0, 1)]
    for row in contrast_rows(done):
        assert (row["difference"], row["sd"], row["detectable"], row["p"]) == (0, None, None, None)
        assert "power" not in contrast_line(row)
    assert Spread.between({0: 1.0}, {0: 0.5}) is None


def test_the_power_of_a_study_is_stated_from_the_gates() -> None:
    first, second = power_lines([*study(0.1, scatter=0.02), trained("uniform", 99, [0.2])])[0], power_lines([])
    assert "n = 8 seeds" in first
    assert second == []


def test_every_training_keeps_its_own_numbers() -> None:
    (row,) = seed_rows([trained("coupled", 3, [0.2, 0.6], final=0.7)])
    assert row == {"arm": "coupled", "training": 3, "start": 0.2, "accuracy": 0.7, "mean_reward": pytest.approx(0.4)}
