"""Statistics shared by all experiments: seeded streams, bootstrap intervals, matched random heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
PERMUTATIONS = 9999


def seed_for(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose, so that streams do not depend on the order of calls."""
    digest = hashlib.sha256("/".join(map(str, (seed, *labels))).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def rng_for(seed: int, *labels: object) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(seed_for(seed, *labels))


@dataclass(frozen=True)
class Estimate:
    """A mean over n examples with its bootstrap interval; the interval is None where n < 2."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Estimate:
        """From a row with `value`, `n`, `low` and `high` of a table or of summary.json."""
        value = or_null(row["value"])
        return cls(float("nan") if value is None else value, int(row["n"]), or_null(row["low"]), or_null(row["high"]))


def or_null(value: float | None) -> float | None:
    """A number as tables hold it: null, not NaN, where there is none."""
    return None if value is None or np.isnan(value) else float(value)


def adjust(rows: Sequence[dict[str, Any]], p: str = "p") -> None:
    """Writes `p_adjusted` into the rows that have a p-value, over which the false discovery rate is controlled
    (Benjamini and Hochberg)."""
    tested = [row for row in rows if or_null(row.get(p)) is not None]
    adjusted = stats.false_discovery_control([row[p] for row in tested]) if tested else []
    for row, value in zip(tested, adjusted, strict=True):
        row["p_adjusted"] = float(value)


def bootstrap_mean(values: Float[np.ndarray, " n"], rng: np.random.Generator) -> Estimate:
    """Mean and 95 % percentile interval over examples. NaN values are left out; n counts the others."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Estimate(float("nan"), 0)
    if len(values) == 1:
        return Estimate(float(values[0]), 1)
    interval = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=rng,
        vectorized=True,
    ).confidence_interval
    return Estimate(float(values.mean()), len(values), float(interval.low), float(interval.high))


def binomial_estimate(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson interval."""
    if n == 0:
        return Estimate(float("nan"), 0)
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, n, float(interval.low), float(interval.high))


def random_heads_like(
    heads: Int[np.ndarray, "k 2"], n_heads: int, draws: int, rng: np.random.Generator, *, others_only: bool = True
) -> Int[np.ndarray, "draws k 2"]:
    """Sets of random heads, each with as many heads in every layer as `heads` has: the control matched by layer.

    `others_only`: heads of the set itself are never drawn; in a layer where too few others are left, all of them are
    drawn and the set stays that much smaller: the missing places are -1. Otherwise any head of the layer may be drawn,
    and every set is full.
    """
    drawn = np.full((draws, len(heads), 2), -1)
    for layer in np.unique(heads[:, 0]):
        places = np.flatnonzero(heads[:, 0] == layer)
        pool = np.setdiff1d(np.arange(n_heads), heads[places, 1]) if others_only else np.arange(n_heads)
        for draw in range(draws):
            chosen = rng.permutation(pool)[: len(places)]
            drawn[draw, places[: len(chosen)], 0] = layer
            drawn[draw, places[: len(chosen)], 1] = chosen
    return drawn


def sign_flips(difference: Float[np.ndarray, " n"], rng: np.random.Generator) -> tuple[float, float, float]:
    """Two-sided p-value of the mean of paired differences when each may have either sign, and the middle 95 % of
    that mean by chance."""
    if not np.any(difference):
        return 1.0, 0.0, 0.0

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return values.mean(axis=axis)

    test = stats.permutation_test(
        (difference,), mean, permutation_type="samples", vectorized=True, n_resamples=PERMUTATIONS, rng=rng
    )
    low, high = np.quantile(test.null_distribution, [0.025, 0.975])
    return float(test.pvalue), float(low), float(high)
