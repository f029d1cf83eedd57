"""Arms of a study against one another, seed by seed, and what so many seeds could have found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import optimize, stats

from interp.credit.gamma import Strategy
from interp.credit.study import REFERENCE, Training, alike, by_arm, gaps, over_both
from interp.runs.columns import FLOAT, INT, TEXT, Column, Table
from interp.stats import LEVEL, adjust, or_null
from interp.text.numbers import difference_text

POWER = 0.8
"""With which a difference that is called detectable is found."""


class Outcome(StrEnum):
    """What arms are compared by."""

    REWARD = "mean_reward"
    """Mean reward of the training responses over all steps: how fast a model learns, and how far."""
    ACCURACY = "accuracy"
    """On held-out questions at the end."""

    def of(self, training: Training) -> float:
        return training.mean_reward if self == Outcome.REWARD else training.final


CONTRASTS = (
    (Strategy.ORACLE, REFERENCE),
    (Strategy.COUPLED, Strategy.BOTTOM),
    (Strategy.GLOBAL_ANCHOR, Strategy.BOTTOM),
    (Strategy.COUPLED, Strategy.MATCHED_RANDOM),
    *((Strategy(name), REFERENCE) for name in ("coupled", "global_anchor", "matched_random", "first", "bottom")),
)
"""Pairs of arms that are compared where both were trained; the paper's rule by its top and its bottom is `coupled` and
`bottom`."""
CONTRASTS_TABLE = Table(
    "contrasts",
    Column("arm", TEXT, "as in `study`"),
    Column("other", TEXT, "the arm that it is compared with"),
    Column("outcome", TEXT, "`mean_reward` (over training) or `accuracy` (held-out, at the end)"),
    Column("difference", FLOAT, "arm minus other, paired by seed"),
    Column("low", FLOAT, "lower end of its 95 % t interval over seeds", null="one pair"),
    Column("high", FLOAT, "upper end of it", null="one pair"),
    Column("pairs", INT, "number of seeds that both have"),
    Column("p", FLOAT, "two-sided paired t test", null="one pair, or all differences are equal"),
    Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the contrasts of this outcome", null="as p"),
    Column("sd", FLOAT, "standard deviation of the difference over seeds", null="one pair"),
    Column("detectable", FLOAT, "difference that so many pairs find with power .8 at this sd", null="as sd, or sd 0"),
)
SEEDS_TABLE = Table(
    "study_seeds",
    Column("arm", TEXT, "as in `study`"),
    Column("training", INT, "seed of the training"),
    Column("start", FLOAT, "held-out accuracy before training"),
    Column("accuracy", FLOAT, "held-out accuracy at the end"),
    Column("mean_reward", FLOAT, "mean reward of the training responses over all steps", null="none was logged"),
)


def power(difference: float, sd: float, pairs: int, level: float = LEVEL) -> float:
    """The chance that a two-sided paired t test finds a difference whose standard deviation over pairs is `sd`."""
    if pairs < 2 or sd <= 0:
        raise ValueError(f"power needs two pairs and a spread: pairs={pairs}, sd={sd}")
    shift, freedom = (difference / sd) ** 2 * pairs, pairs - 1
    if shift < 1e-9:
        return level  # where SciPy's noncentral distributions fail
    # t squared is F; the noncentral t itself is NaN in places.
    return float(stats.ncf.sf(stats.t.ppf(1 - level / 2, freedom) ** 2, 1, freedom, shift))


def detectable(sd: float, pairs: int, wanted: float = POWER, level: float = LEVEL) -> float:
    """The least difference that so many pairs find with the wanted power."""
    highest = sd
    while power(highest, sd, pairs, level) < wanted:
        highest *= 2
    return float(optimize.brentq(lambda x: power(x, sd, pairs, level) - wanted, 0.0, highest))


@dataclass(frozen=True)
class Spread:
    """How far the differences of two arms scatter over seeds."""

    sd: float
    pairs: int

    @classmethod
    def between(cls, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
        """None where fewer than two seeds have both, or all differ alike."""
        gap = gaps(ours, theirs)
        return None if len(gap) < 2 or alike(gap) else cls(float(np.std(gap, ddof=1)), len(gap))


def pairs_of(arms: Sequence[str], reference: str = REFERENCE) -> list[tuple[str, str]]:
    """The pairs of arms that are compared: CONTRASTS, or where another reference is named, those of them that go
    without plain GRPO, and every other arm against the reference."""
    if reference == REFERENCE:
        return [(str(arm), str(other)) for arm, other in CONTRASTS]
    fixed = [(str(arm), str(other)) for arm, other in CONTRASTS if REFERENCE not in (arm, other)]
    return list(dict.fromkeys([*fixed, *((arm, reference) for arm in arms if arm != reference)]))


def contrast_rows(trainings: Sequence[Training], reference: str = REFERENCE) -> list[dict[str, Any]]:
    """The rows of contrasts.parquet, for the pairs of arms that were trained on common seeds."""
    members = by_arm(trainings)
    wanted = pairs_of(list(members), reference)
    rows: list[dict[str, Any]] = []
    for outcome in Outcome:
        here: list[dict[str, Any]] = []
        for arm, other in wanted:
            ours, theirs = ({one.seed: outcome.of(one) for one in members.get(name, [])} for name in (arm, other))
            compared = over_both(ours, theirs)
            if compared is None:
                continue
            found, spread = compared.difference, Spread.between(ours, theirs)
            here.append(
                {
                    "arm": str(arm),
                    "other": str(other),
                    "outcome": str(outcome),
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "pairs": found.n,
                    "p": compared.p,
                    "sd": spread and spread.sd,
                    "detectable": spread and detectable(spread.sd, spread.pairs),
                }
            )
        adjust(here)
        rows += here
    return rows


def seed_rows(trainings: Sequence[Training]) -> Iterator[dict[str, Any]]:
    """The rows of study_seeds.parquet."""
    for one in trainings:
        start = float(one.curve("accuracy").iloc[0])
        yield {
            "arm": one.arm,
            "training": one.seed,
            "start": start,
            "accuracy": one.final,
            "mean_reward": or_null(one.mean_reward),
        }


def contrast_line(row: Mapping[str, Any]) -> str:
    """One contrast, for the screen."""
    found = difference_text(row["difference"], row["low"], row["high"])
    line = f"{row['outcome']}, {row['arm']} minus {row['other']}: {found}"
    if row.get("p_adjusted") is not None:
        line += f", adjusted p = {row['p_adjusted']:.3g}"
    line += f" ({row['pairs']} seeds"
    if row["detectable"] is not None:
        line += f"; power {POWER} from {row['detectable']:.3f} on"
    return line + ")"
