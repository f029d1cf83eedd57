"""Statistics shared by all experiments: seeded streams, intervals, comparisons with controls, random heads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betaln, xlog1py, xlogy

CONFIDENCE = 0.95
RESAMPLES = 2000
PERMUTATIONS = 9999
LEVEL = 1 - CONFIDENCE
"""Level of every test."""
ENOUGH_SETS = 40
"""With fewer random sets no rank is significant at that level."""
FEWEST = 6
"""Fewer values have no bootstrap interval."""
TRIES = 20
"""So many times more are drawn than are wanted, before all different ones are taken to be found."""


def seed_for(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose, so that streams do not depend on the order of calls."""
    digest = hashlib.sha256("/".join(map(str, (seed, *labels))).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def rng_for(seed: int, *labels: object) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(seed_for(seed, *labels))


@dataclass(frozen=True)
class Estimate:
    """A mean over n examples with its interval, which is None where nothing is known of it: see `bootstrap_mean`."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Estimate:
        """From a row with `value`, `n`, `low` and `high` of a table or of summary.json."""
        value = or_null(row["value"])
        return cls(float("nan") if value is None else value, int(row["n"]), or_null(row["low"]), or_null(row["high"]))

    def above(self, value: float) -> Estimate:
        """The same minus a number that is known exactly."""
        ends = (None if end is None else end - value for end in (self.low, self.high))
        return Estimate(self.value - value, self.n, *ends)


class ComparedBy(StrEnum):
    """How a measurement is compared with its control."""

    PAIRED = "paired"
    """On the same examples: sign flips of the differences."""
    SETS = "sets"
    """With the distribution over random sets of heads: by rank."""
    NULL = "null"
    """With what chance gives: shifted, permuted, drawn, or an exact distribution."""


@dataclass(frozen=True)
class Comparison:
    """A measurement minus its control, the 95 % interval of that, and a two-sided p-value.

    `difference.n` counts what the test is over: examples if paired, sets of heads, traces behind a null distribution.
    """

    test: ComparedBy
    difference: Estimate
    p: float | None

    @property
    def decided(self) -> bool:
        """Whether chance is ruled out at the level of every test."""
        return self.p is not None and self.p < LEVEL

    @classmethod
    def paired(
        cls, own: Float[np.ndarray, " n"], control: Float[np.ndarray, " n"] | float, rng: np.random.Generator
    ) -> Comparison | None:
        """Of two values for each example, or of one with a constant; examples that lack one (NaN) are left out.
        None if all do. No p-value with one example."""
        difference = np.asarray(own, dtype=float) - control
        difference = difference[~np.isnan(difference)]
        if not len(difference):
            return None
        p = sign_flips(difference, rng)[0] if len(difference) >= 2 else None
        return cls(ComparedBy.PAIRED, bootstrap_mean(difference, rng), p)

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str, p: str = "p", n: str = "n") -> Comparison | None:
        """A paired one from a row of a table with the columns `name`, `name`_low and `name`_high; None where it is
        null."""
        if or_null(row[name]) is None:
            return None
        columns = {"value": row[name], "n": row[n], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
        return cls(ComparedBy.PAIRED, Estimate.of(columns), or_null(row[p]))

    @classmethod
    def with_draws(cls, own: float, drawn: Float[np.ndarray, " draw"]) -> Comparison | None:
        """Of lists of heads with the same under relabelled heads (`relabelled`). The interval is the value minus the
        middle 95 % of the draws; p is twice the tail on the side on which the value lies of their mean, (1 + draws at
        least as low, or high) / (1 + draws), so that it never speaks for the other direction. None where there are
        none."""
        drawn = np.asarray(drawn, dtype=float)
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn) or np.isnan(own):
            return None
        close = 1e-9 * max(abs(own), float(np.abs(drawn).max()))  # what differs by rounding alone is a tie
        side = np.sign(own - drawn.mean()) or 1.0
        tail = 1 + int((side * drawn >= side * own - close).sum())
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        difference = Estimate(own - float(drawn.mean()), len(drawn), own - float(high), own - float(low))
        return cls(ComparedBy.SETS, difference, min(1.0, 2 * tail / (1 + len(drawn))))


def among_draws(own: float, drawn: Float[np.ndarray, " draw"]) -> tuple[Estimate | None, Comparison | None]:
    """The draws' mean with their middle 95 % (n = draws), and where a value stands among them; None without draws."""
    drawn = np.asarray(drawn, dtype=float)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(float(drawn.mean()), len(drawn), float(low), float(high)), Comparison.with_draws(own, drawn)


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
    """Mean and 95 % bootstrap interval over examples: percentiles as far out as Student's t (`wide_enough`). NaN values
    are left out; n counts the others. No interval of fewer than FEWEST values, whose resamples do not reach 95 %, and
    none of equal ones, whose resamples are all alike: they say nothing of the next value."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Estimate(float("nan"), 0)
    if len(values) < FEWEST or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return Estimate(float(values.mean()), len(values))
    interval = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=wide_enough(len(values)),
        n_resamples=RESAMPLES,
        method="percentile",
        rng=rng,
        vectorized=True,
    ).confidence_interval
    return Estimate(float(values.mean()), len(values), float(interval.low), float(interval.high))


def around(value: float, drawn: Float[np.ndarray, " draw"], n: int) -> Estimate:
    """A value that is no mean, such as a layer or a correlation, with the interval of what resamples of n examples
    give: as far out, and missing where, `bootstrap_mean` says."""
    drawn = np.asarray(drawn, dtype=float)
    undefined = np.isnan(drawn)
    if np.isnan(value) or n < FEWEST or undefined.all():
        return Estimate(value, n)
    tail, drawn = (1 - wide_enough(n)) / 2, drawn[~undefined]
    # Where more than a tail has no value, what is left does not say how far out the ends are.
    if undefined.mean() > tail or np.ptp(drawn) <= 1e-12 * np.abs(drawn).max():
        return Estimate(value, n)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, n, float(low), float(high))


def wide_enough(n: int) -> float:
    """The level of a percentile bootstrap whose interval of a mean of n values is as wide as Student's t makes one of
    95 % (Hesterberg 2015, "expanded percentile"): percentiles alone are too narrow, as resamples spread less by
    sqrt((n - 1) / n) and know no t."""
    return float(1 - 2 * stats.norm.sf(np.sqrt(n / (n - 1)) * stats.t.ppf(1 - LEVEL / 2, n - 1)))


def binomial_estimate(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson interval."""
    if n == 0:
        return Estimate(float("nan"), 0)
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, n, float(interval.low), float(interval.high))


def confidence_sequence(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """An interval of a proportion that holds at all n at once with probability 1 - level, so that one may look after
    every draw and stop: what a mixture by Jeffreys' prior does not beat by 1 / level (Robbins 1970)."""
    if n == 0:
        return 0.0, 1.0
    mixture = betaln(successes + 0.5, n - successes + 0.5) - betaln(0.5, 0.5)

    def evidence(p: float) -> float:
        return float(mixture - xlogy(successes, p) - xlog1py(n - successes, -p) + np.log(level))

    share = successes / n
    low = 0.0 if successes == 0 else brentq(evidence, 1e-12, share)
    high = 1.0 if successes == n else brentq(evidence, share, 1 - 1e-12)
    return float(low), float(high)


def binomial_comparison(successes: int, n: int, expected: float) -> Comparison:
    """A share of n against a given one, by the exact binomial test."""
    found = binomial_estimate(successes, n)
    return Comparison(ComparedBy.NULL, found.above(expected), float(stats.binomtest(successes, n, expected).pvalue))


def hypergeometric_comparison(shared: int, drawn: int, marked: int, total: int) -> Comparison:
    """The share of `drawn` things that are marked, against drawing as many of `total` with `marked` among them at
    random: exact, two-sided (twice the smaller tail)."""
    chance = stats.hypergeom(total, marked, drawn)
    p = min(1.0, 2 * float(min(chance.cdf(shared), chance.sf(shared - 1))))
    low, high = (float(chance.ppf(q)) for q in (LEVEL / 2, 1 - LEVEL / 2))
    share = Estimate((shared - marked * drawn / total) / drawn, drawn, (shared - high) / drawn, (shared - low) / drawn)
    return Comparison(ComparedBy.NULL, share, p)


Place = tuple[int, int]
"""Layer and head."""


SAME_LAYERS, ANY_LAYER = "random_heads", "random_heads_of_any_layer"
"""Controls: as many heads of every layer as lists have, or of any where layers hold too few others."""
CALLED = {
    SAME_LAYERS: "sets of heads of the same layers",
    ANY_LAYER: "sets of heads of any layer (too few in their own)",
}


@dataclass(frozen=True)
class Sets:
    """What lists of heads are compared with."""

    heads: list[list[list[Place]]]
    """(draw, list, place): in each draw heads have other names, the same ones in all lists."""
    matched: bool
    """Names change within the groups that were asked for, such as layers; else among all heads."""

    @property
    def control(self) -> str:
        """Which control they are where the groups are layers: the name of their rows in tables."""
        return SAME_LAYERS if self.matched else ANY_LAYER

    @property
    def named(self) -> str:
        """What that control is called."""
        return CALLED[self.control]


def relabelled(
    lists: Sequence[Sequence[Place]], groups: Sequence[Sequence[Place]], most: int, rng: np.random.Generator
) -> Sets:
    """The lists with heads renamed at random within groups, such as those of a layer: different draws, none of them the
    lists themselves, all that there are or `most`. Where lists that were chosen without a look at what is measured
    matter no more than other heads, all names are equally likely, so that a rank among the draws is exact (a
    permutation test), whatever heads do and however many the lists share.

    Where groups allow too few draws for a test at the level of every test, as in small models, names change among all.
    """
    matched = _renamed(lists, groups, most, rng)
    if len(matched) < min(most, ENOUGH_SETS):
        anywhere = _renamed(lists, [[place for group in groups for place in group]], most, rng)
        if len(anywhere) > len(matched):
            return Sets(anywhere, False)
    return Sets(matched, True)


def _renamed(
    lists: Sequence[Sequence[Place]], groups: Sequence[Sequence[Place]], most: int, rng: np.random.Generator
) -> list[list[list[Place]]]:
    listed = {place for one in lists for place in one}
    touched = [list(group) for group in groups if listed & set(group)]
    own = tuple(tuple(sorted(one)) for one in lists)
    found: dict[tuple[tuple[Place, ...], ...], None] = {}
    for _ in range(TRIES * most):
        names = {old: group[i] for group in touched for old, i in zip(group, rng.permutation(len(group)), strict=True)}
        drawn = tuple(tuple(sorted(names.get(place, place) for place in one)) for one in lists)
        if drawn != own:
            found[drawn] = None
        if len(found) == most:
            break
    return [[list(one) for one in drawn] for drawn in found]


def layers_of(places: Iterable[Place]) -> list[list[Place]]:
    """Groups of the heads of one layer."""
    found: dict[int, list[Place]] = {}
    for layer, head in places:
        found.setdefault(layer, []).append((layer, head))
    return list(found.values())


def alike_in(value: Mapping[Any, float], size: int) -> list[list[Place]]:
    """Groups of `size` heads that are next to one another in a value, such as their attention to the reasoning."""
    ranked = sorted(value, key=lambda place: (-value[place], place))
    return [[(int(layer), int(head)) for layer, head in ranked[i : i + size]] for i in range(0, len(ranked), size)]


def rank_correlation(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], given: Sequence[Float[np.ndarray, " n"]] = ()
) -> float:
    """Spearman's correlation, -1..1, of what a linear fit on what is given leaves of the ranks; NaN for nothing."""
    ranks = [stats.rankdata(values) for values in (x, y)]
    if len(given):
        held = np.column_stack([np.ones(len(x)), *given])
        ranks = [values - held @ np.linalg.lstsq(held, values, rcond=None)[0] for values in ranks]
    if min(np.std(values) for values in ranks) < 1e-9:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


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
