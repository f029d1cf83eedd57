"""Many trainings side by side: learning curves over seeds, final accuracies, differences from one of the arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from interp.runs.columns import FLOAT, INT, TEXT, Column, Table
from interp.stats import CONFIDENCE, ComparedBy, Comparison, Estimate, adjust, or_null

STUDY_TABLE = Table(
    "study",
    Column("arm", TEXT, "what was tried: the options in which the trainings differ"),
    Column("seeds", INT, "number of trainings"),
    Column("accuracy", FLOAT, "held-out accuracy at the end, mean over seeds"),
    Column("low", FLOAT, "lower end of its 95 % t interval over seeds", null="one seed, or all equal"),
    Column("high", FLOAT, "upper end of it", null="one seed, or all equal"),
    Column(
        "mean_reward",
        FLOAT,
        "mean reward of the training responses over all steps, mean over seeds",
        null="a training logged none",
    ),
    Column("start", FLOAT, "held-out accuracy before training"),
    Column("best", FLOAT, "highest held-out accuracy of each training, mean over seeds"),
    Column("reference", TEXT, "the arm that it is compared with: plain GRPO, unless `experiment.reference` names one"),
    Column(
        "difference", FLOAT, "accuracy minus that of the reference, paired by seed", null="the reference, or no pair"
    ),
    Column("difference_low", FLOAT, "lower end of its 95 % t interval over seeds", null="as p"),
    Column("difference_high", FLOAT, "upper end of it", null="as p"),
    Column("pairs", INT, "number of seeds behind the difference", null="the reference, or no pair"),
    Column("p", FLOAT, "two-sided paired t test", null="fewer than two pairs, or all differences are equal"),
    Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the arms", null="as p"),
    Column(
        "gradient_cosine",
        FLOAT,
        "cosine of the credited gradient to plain GRPO's, mean over measured steps and seeds: 1 is no treatment",
        null="plain GRPO, or not measured",
    ),
    Column("credit_time_share", FLOAT, "share of a step's time that measuring credit took (Paper B, Table 8)"),
    Column("published", FLOAT, "Paper B's accuracy of this arm, on its own model and task", null="none"),
)
STUDY_CURVES_TABLE = Table(
    "study_curves",
    Column("arm", TEXT, "as in `study`"),
    Column("step", INT, "optimizer steps done"),
    Column("measure", TEXT, "as in `training`; `reward_peak` is the reward's running peak average"),
    Column("value", FLOAT, "mean over seeds"),
    Column("n", INT, "number of seeds"),
    Column("low", FLOAT, "lower end of the 95 % t interval over seeds", null="one seed, or all equal"),
    Column("high", FLOAT, "upper end of it", null="one seed, or all equal"),
)


ROUNDING = 1e-9
"""Accuracies that lie no further apart are the same."""
REFERENCE = "uniform"
"""Plain GRPO: what the other arms are compared with, unless another one is named."""


def called(arm: str) -> str:
    """An arm, as a reader is told it."""
    return "plain GRPO" if arm == REFERENCE else arm


def running_peak_average(values: Float[np.ndarray, " step"], a: float = 0.5) -> Float[np.ndarray, " step"]:
    """E[t] = a * max(x[t], E[t-1]) + (1 - a) * E[t-1], from E[0] = x[0]: the curves of Paper B, Figs. 4-7.

    It never falls, so it shows progress and hides collapses: read it beside the plain curve.
    """
    smooth = np.array(values, dtype=float)
    for t in range(1, len(smooth)):
        smooth[t] = a * max(smooth[t], smooth[t - 1]) + (1 - a) * smooth[t - 1]
    return smooth


@dataclass(frozen=True)
class Training:
    """A finished training: its arm (what was tried), its seed and its training.parquet."""

    arm: str
    seed: int
    table: pd.DataFrame
    credit_time_share: float
    """Share of a step's time that measuring credit took."""

    def curve(self, measure: str) -> pd.Series:
        """A measure by step."""
        rows = self.table[self.table["measure"] == measure].sort_values("step")
        return pd.Series(rows["value"].to_numpy(dtype=float), index=rows["step"].to_numpy())

    @property
    def final(self) -> float:
        return float(self.curve("accuracy").iloc[-1])

    @property
    def mean_reward(self) -> float:
        """Of the training responses, over all steps."""
        return float(self.curve("reward").mean())


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval; without interval below two values, and where all are equal: a spread that was
    not seen bounds nothing."""
    known = np.asarray(values, dtype=float)
    if len(known) < 2 or alike(known):
        return Estimate(float(known.mean()), len(known))
    low, high = stats.t.interval(CONFIDENCE, len(known) - 1, float(known.mean()), float(stats.sem(known)))
    return Estimate(float(known.mean()), len(known), float(low), float(high))


def alike(values: Sequence[float] | Float[np.ndarray, " seed"]) -> bool:
    """Whether all are equal but for rounding, as shares of the same questions may be."""
    return bool(np.ptp(values) <= ROUNDING)


def gaps(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """What two arms differ by in each seed that has both."""
    found = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return [gap for gap in found if not np.isnan(gap)]


def over_both(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison | None:
    """Two arms, seed by seed: the mean difference with Student's t interval, and the paired t test's p-value."""
    gap = gaps(ours, theirs)
    if not gap:
        return None
    p = float(stats.ttest_1samp(gap, 0.0).pvalue) if len(gap) > 1 and not alike(gap) else None
    return Comparison(ComparedBy.PAIRED, over_seeds(gap), p)


def by_arm(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    """Arms in the order of their first training."""
    arms: dict[str, list[Training]] = {}
    for training in trainings:
        arms.setdefault(training.arm, []).append(training)
    return arms


def study_rows(
    trainings: Sequence[Training], published: Mapping[str, float], reference: str = REFERENCE
) -> list[dict[str, Any]]:
    """One row an arm: final accuracy over seeds, and its difference from the reference arm, paired by seed.

    Seeds that the reference lacks do not enter the difference. p is that of a paired t test, adjusted after
    Benjamini-Hochberg over the arms.
    """
    arms = by_arm(trainings)
    theirs = {training.seed: training.final for training in arms.get(reference, [])}
    rows = []
    for arm, members in arms.items():
        final = over_seeds([training.final for training in members])
        start = over_seeds([float(training.curve("accuracy").iloc[0]) for training in members])
        best = over_seeds([float(training.curve("accuracy").max()) for training in members])
        row: dict[str, Any] = {
            "arm": arm,
            "seeds": final.n,
            "accuracy": final.value,
            "low": final.low,
            "high": final.high,
            "mean_reward": or_null(float(np.mean([training.mean_reward for training in members]))),
            "start": start.value,
            "best": best.value,
            "gradient_cosine": or_null(_cosine(members)),
            "reference": reference,
            "credit_time_share": float(np.mean([training.credit_time_share for training in members])),
            "published": published.get(arm),
        }
        compared = over_both({one.seed: one.final for one in members}, theirs)
        if arm != reference and compared is not None:
            gap = compared.difference
            row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high, "pairs": gap.n}
            if compared.p is not None:
                row["p"] = compared.p
        rows.append(row)
    adjust(rows)
    return rows


def _cosine(members: Sequence[Training]) -> float:
    """Mean over the trainings in which it was measured; NaN for none."""
    known = [curve.mean() for curve in (training.curve("gradient_cosine") for training in members) if len(curve)]
    return float(np.mean(known)) if known else float("nan")


def curve_rows(trainings: Sequence[Training]) -> Iterator[dict[str, Any]]:
    """Mean and interval over seeds at each step of an arm: held-out accuracy, reward, and its running peak average."""
    for arm, members in by_arm(trainings).items():
        for measure in ("accuracy", "reward", "reward_peak", "entropy", "length"):
            curves = [_curve(training, measure) for training in members]
            for step, values in pd.concat(curves, axis=1).iterrows():
                estimate = over_seeds(values.dropna().tolist())
                yield {
                    "arm": arm,
                    "step": int(str(step)),
                    "measure": measure,
                    "value": estimate.value,
                    "n": estimate.n,
                    "low": estimate.low,
                    "high": estimate.high,
                }


def _curve(training: Training, measure: str) -> pd.Series:
    if measure != "reward_peak":
        return training.curve(measure)
    reward = training.curve("reward")
    return pd.Series(running_peak_average(reward.to_numpy()), index=reward.index)
