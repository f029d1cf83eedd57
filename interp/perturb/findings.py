"""The headline numbers of `perturb`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.perturb.overlap import Group
from interp.runs.headlines import Findings, Headline
from interp.runs.store import records
from interp.stats import Estimate

Tables = Callable[[str], pd.DataFrame]
METRICS = {
    "jaccard": "Jaccard overlap of content words",
    "answer_changed": "share of rollouts with another answer",
    "correct_changed": "share of rollouts that are right instead of wrong or the other way round",
}


@dataclass(frozen=True)
class PerturbFacts:
    """How many problems there were, and how many positions of each a group has."""

    n_problems: int
    scores: list[str]
    k: int


def findings(table: Tables, k: int, scores: Sequence[str]) -> Findings[PerturbFacts]:
    """What a run tells of groups of k positions by these scores."""
    perturbed, predictors = table("perturbed"), table("predictors")
    headlines: list[Headline] = []
    lines: list[str] = []
    score = perturbed["score"].iloc[0] if len(perturbed) else None
    for metric, label in METRICS.items():
        rows = perturbed[(perturbed["score"] == score) & (perturbed["metric"] == metric)]
        by_group = {row["group"]: row for row in records(rows)}
        if Group.TOP not in by_group:
            continue
        top = by_group[Group.TOP]
        bottom = by_group.get(Group.BOTTOM)
        control = None if bottom is None else Estimate.of(bottom)
        kind = None if bottom is None else f"bottom {k}"
        headlines.append(Headline(f"{label}: top {k} by {_spoken(score)}", Estimate.of(top), kind, control))
        for group in (Group.BOTTOM, Group.RANDOM, Group.POSITION_MATCHED, Group.ENTROPY_MATCHED):
            if group in by_group and not pd.isna(by_group[group]["difference"]):
                lines.append(_line(by_group[group], f"{label}, top {_spoken(score)} minus {group.replace('_', ' ')}"))
    for row in records(predictors[predictors["metric"] == "jaccard"]):
        interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
        p = "" if pd.isna(row["p"]) else f", p = {row['p']:.2g}"
        against = "" if pd.isna(row["p_against_fai"]) else f", against FAI p = {row['p_against_fai']:.2g}"
        about = f"rank correlation of {_spoken(row['score'])} and Jaccard given {row['given']}"
        lines.append(f"{about}: {row['value']:+.2f}{interval}{p}{against}")
    n = int(perturbed["n"].max()) if len(perturbed) else 0
    return Findings(headlines, PerturbFacts(n, list(scores), k), lines)


def _spoken(score: str | None) -> str:
    return str(score).replace("_", " ").replace("fai", "FAI").replace("waad", "WAAD")


def _line(row: dict[str, Any], about: str) -> str:
    low, high = row["difference_low"], row["difference_high"]
    interval = "" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]"
    p = "" if pd.isna(row["p"]) else f", sign flips p = {row['p']:.2g}"
    lower = f", lower in {100 * row['lower']:.0f} % of problems"
    return f"{about}: {row['difference']:+.3f}{interval}{p}{lower}, n = {int(row['n'])}"
