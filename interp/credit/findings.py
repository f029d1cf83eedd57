"""The headline numbers of `credit`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp.credit.checks import MEASURES
from interp.runs.headlines import Headline
from interp.stats import Estimate, bootstrap_mean, rng_for

Tables = Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class CreditFacts:
    """How the advantages were weighted, and how many questions there were."""

    strategy: str
    n_train: int
    n_test: int


def findings(table: Tables, timing: Mapping[str, float]) -> tuple[list[Headline], list[str]]:
    """Headlines, and lines for the screen."""
    training, answers = table("training"), table("answers")
    accuracy = training[training["measure"] == "accuracy"].sort_values("step")
    first, last = (Estimate.of(accuracy.iloc[i]) for i in (0, -1))
    steps = int(accuracy["step"].iloc[-1])
    headlines = [Headline(f"held-out accuracy after {steps} steps", last, "before training", first)]
    change = _change(answers)
    if change is not None:
        headlines.append(Headline("change on the same questions", change))
    reward = training[training["measure"] == "reward"].sort_values("step")["value"].to_numpy(dtype=float)
    tenth = max(1, len(reward) // 10)
    lines = [
        f"mean reward: {reward[:tenth].mean():.3f} in the first {tenth} steps, {reward[-tenth:].mean():.3f} in the last"
    ]
    credited = training[training["measure"] == "credited_share"]["value"]
    if len(credited):
        lines.append(f"share of tokens whose advantage gamma changed: {credited.mean():.3f}")
    lines += _treatment(training)
    lines.append(
        f"a step took {timing['seconds_a_step']:.2f} s; measuring credit took {100 * timing['share']:.1f} % of it"
    )
    return headlines, lines


def _treatment(training: pd.DataFrame) -> list[str]:
    """What credit did beside plain GRPO, each measure over the steps at which it was made."""
    by_measure = {
        str(name): rows["value"].to_numpy(dtype=float)
        for name, rows in training[training["measure"].isin(list(MEASURES.values()))].groupby("measure")
    }
    mean = {name: float(values.mean()) for name, values in by_measure.items()}
    lines = []
    if "gradient_cosine" in by_measure:
        cosines = by_measure["gradient_cosine"]
        lines.append(
            f"cosine of the gradient to plain GRPO's: {cosines.mean():.4f} "
            f"(least {cosines.min():.4f}, n = {len(cosines)} steps)"
        )
    if {"credited_position", "credited_entropy", "credited_advantage", "effective_tokens"} <= mean.keys():
        lines.append(
            f"credited tokens have {mean['credited_entropy']:.3f} of the entropy and {mean['credited_advantage']:.3f} "
            f"of the weighted advantage; they lie at {mean['credited_position']:.3f} of their response (.5 = evenly); "
            f"effective share of tokens {mean['effective_tokens']:.3f}"
        )
    if "local_heads_kept" in mean:
        lines.append(
            f"heads ranked again: overlap with the first ranking {mean['local_heads_kept']:.2f} (local), "
            f"{mean['global_heads_kept']:.2f} (global), n = {len(by_measure['local_heads_kept'])} rankings"
        )
    return lines


def _change(answers: pd.DataFrame) -> Estimate | None:
    """Right after minus right before, paired by question, each the mean of its samples."""
    before, after = (
        answers[answers["writer"] == writer] for writer in (answers["writer"].iloc[0], answers["writer"].iloc[-1])
    )
    if before["writer"].iloc[0] == after["writer"].iloc[0]:
        return None
    both = [side["correct"].astype(float).groupby(side["example"], sort=False).mean() for side in (before, after)]
    difference = (both[1] - both[0]).to_numpy(dtype=float)
    return bootstrap_mean(np.asarray(difference), rng_for(int(answers["seed"].iloc[0]), "change"))
