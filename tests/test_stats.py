"""Statistics on simulated data with known truth."""

from __future__ import annotations

import numpy as np
import pytest

from interp.stats import (
    Comparison,
    Estimate,
    adjust,
    around,
    binomial_estimate,
    bootstrap_mean,
    or_null,
    rng_for,
    seed_for,
    wide_enough,
)


def test_streams_depend_on_seed_and_labels_alone() -> None:
    assert seed_for(0, "a", 1) == seed_for(0, "a", 1)
    assert len({seed_for(s, *labels) for s in range(5) for labels in [("a",), ("b",), ("a", 1), ("a", "1", 2)]}) == 20
    assert rng_for(3, "x").random() == rng_for(3, "x").random()


@pytest.mark.parametrize("n", [6, 10, 30])
def test_bootstrap_interval_covers_the_truth(n: int) -> None:
    """Of 95 % intervals over normal values, about 95 % hold the true mean, also where there are few values."""
    rng = np.random.default_rng(0)
    estimates = [bootstrap_mean(rng.normal(2.0, 1.0, n), rng) for _ in range(300)]
    covered = np.mean([e.low <= 2.0 <= e.high for e in estimates])
    assert 0.91 <= covered <= 0.98


def test_values_that_say_nothing_of_the_next_have_no_interval() -> None:
    """Resamples of two values are as good as sure to miss the mean in half of the cases, those of equal ones always."""
    rng = np.random.default_rng(0)
    assert bootstrap_mean(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), rng) == Estimate(3.0, 5)
    assert bootstrap_mean(np.full(20, 0.7), rng) == Estimate(pytest.approx(0.7), 20)


def test_the_interval_of_what_is_no_mean() -> None:
    drawn = np.linspace(0.0, 1.0, 1001)
    wide = around(0.4, np.append(drawn, np.nan), 1000)
    assert (wide.low, wide.high) == pytest.approx((0.025, 0.975), abs=0.001), "plain percentiles, of many"
    few = around(0.4, drawn, 6)
    assert few.low is not None
    assert few.low < 0.01, "further out, of few"
    assert around(0.4, drawn, 5).low is None, "none of fewer"
    assert around(0.4, np.full(9, 0.4), 9).low is None, "none where all resamples say the same"


def test_as_wide_as_students_t_by_hand() -> None:
    """Five values: t = 2.776, times the root of 5 / 4 is 3.104 standard normal deviations, .00096 of it at each end."""
    assert wide_enough(5) == pytest.approx(1 - 2 * 0.000955, abs=5e-6)


def test_bootstrap_leaves_out_what_is_undefined() -> None:
    rng = np.random.default_rng(0)
    assert bootstrap_mean(np.array([1.0, np.nan, 3.0]), rng).value == 2.0
    assert bootstrap_mean(np.array([1.0, np.nan, 3.0]), rng).n == 2
    one = bootstrap_mean(np.array([5.0]), rng)
    assert (one.value, one.n, one.low) == (5.0, 1, None)
    assert bootstrap_mean(np.array([]), rng).n == 0


def test_wilson_interval_by_hand() -> None:
    """8 of 10: (0.490, 0.943) in any table."""
    estimate = binomial_estimate(8, 10)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_p_values_are_adjusted_over_the_rows_that_have_one() -> None:
    rows: list[dict[str, object]] = [{"p": 0.01}, {"p": None}, {"p": 0.04}, {"p": float("nan")}, {}]
    adjust(rows)
    assert rows[0]["p_adjusted"] == pytest.approx(0.02)  # two tests: .01 x 2 / 1 and .04 x 2 / 2
    assert rows[2]["p_adjusted"] == pytest.approx(0.04)
    assert not any("p_adjusted" in row for row in (rows[1], rows[3], rows[4]))


def test_an_estimate_from_a_row_keeps_what_is_unknown() -> None:
    assert Estimate.of({"value": 1, "n": 2.0, "low": float("nan"), "high": None}) == Estimate(1.0, 2, None, None)
    assert np.isnan(Estimate.of({"value": None, "n": 0, "low": None, "high": None}).value)
    assert or_null(float("nan")) is None


def test_skewed_draws_do_not_speak_for_the_other_direction() -> None:
    """Below nearly all draws, above their mean, which a few far away decide: neither lower nor higher."""
    drawn = np.concatenate([0.05 * np.random.default_rng(0).normal(size=197), np.full(3, -13.4)])
    found = Comparison.with_draws(-0.19, drawn)
    assert found is not None
    assert found.difference.value > 0
    assert found.p == 1.0
    lower = Comparison.with_draws(-14.0, drawn)
    assert lower is not None
    assert (lower.difference.value < 0, lower.p) == (True, pytest.approx(2 / 201))
