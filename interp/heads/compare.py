"""Do different models, data sets or conditions have the same heads? Rankings of `heads` runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import UserError, nearest
from interp.heads.findings import overlap_text
from interp.heads.published import beside_published, load_published, published_verdicts
from interp.heads.ranking import TIED, overlap_rows
from interp.heads.scores import Head
from interp.runs.compared import Asked, Run, RunsCompared
from interp.runs.headlines import Headline
from interp.runs.verdicts import Verdict
from interp.stats import Estimate, adjust, rank_correlation
from interp.text.numbers import three_digits

PUBLISHED_SEED = 0
"""Of the random sets beside published masses, which no run's seed should move."""


@dataclass(frozen=True)
class _Ranked:
    """A run's ranking by the chosen kind."""

    label: str
    ranking: pd.DataFrame

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads a layer."""
        return int(self.ranking["layer"].max()) + 1, int(self.ranking["head"].max()) + 1

    @property
    def top(self) -> list[Head]:
        rows = self.ranking[self.ranking["top"]].sort_values("rank")
        return [Head(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)]

    @property
    def pool(self) -> set[Head]:
        """The heads with a value, from which the top was taken: of some layers only, if the run ranked no others."""
        rows = self.ranking.dropna(subset="value")
        return {Head(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)}

    @property
    def values(self) -> np.ndarray:
        return self.ranking.sort_values(["layer", "head"])["value"].to_numpy(dtype=float)


def compare(runs: Sequence[Run], asked: Asked) -> RunsCompared:
    """Overlaps of the top heads and rank correlations of all heads' scores between runs on models of one shape; each
    run beside published masses, if a file is named.

    Heads of models of different shapes do not correspond: such pairs are left out, and said so.
    """
    ranked = _ranked(runs, asked.kind)
    rows, headlines, apart, disjoint = [], [], 0, 0
    verdicts: list[Verdict] = []
    for shape in dict.fromkeys(one.shape for one in ranked):
        alike = [one for one in ranked if one.shape == shape]
        pairs = list(combinations(alike, 2))
        for first, second in pairs:
            overlap = _overlap(first, second)
            rows += overlap
            disjoint += not overlap
        found = [_correlation(first, second) for first, second in pairs]
        headlines += [headline for headline in found if headline is not None]
        apart += len(alike) * (len(ranked) - len(alike))
    if asked.published:
        masses = load_published(asked.published)
        own, verdicts = published_verdicts(masses, PUBLISHED_SEED)
        headlines += [replace(one, name=f"published: {one.name}") for one in own]
        for run in runs:
            numbers, overlaps = beside_published(run.label, run.table("heads"), masses)
            headlines += numbers
            rows += overlaps
    adjust(rows)
    lines = [
        f"{row['first']} and {row['second']}: top heads in both: {overlap_text(row)}"
        for row in rows
        if row["p"] is not None
    ]
    if apart:
        lines.append(f"{apart // 2} pairs of runs have models of different shapes, whose heads do not correspond")
    lines += [_nothing_to_rank(one, asked.kind) for one in ranked if not one.top]
    if disjoint:
        lines.append(f"{disjoint} pairs of runs rank no head in common, such as those of other layers")
    return RunsCompared({"overlaps": rows}, headlines, lines, asked.kind, published=verdicts)


def _nothing_to_rank(one: _Ranked, kind: str) -> str:
    """Why a run has no top heads."""
    values = one.values[~np.isnan(one.values)]
    if len(values) and np.ptp(values) <= TIED * np.abs(values).max():
        return f"{one.label}: nothing to rank, all heads have {kind} {three_digits(float(values[0]))}"
    return f"{one.label}: no top heads by {kind}, as the best ones tie or lie below the kind's floor"


def _overlap(first: _Ranked, second: _Ranked) -> list[dict[str, Any]]:
    """How many of the top heads are shared, of those that both rank: chance shares no others. Nothing without any."""
    both = first.pool & second.pool
    tops = {one.label: [head for head in one.top if head in both] for one in (first, second)}
    return overlap_rows(tops, len(both), first.shape[1]) if both else []


def _correlation(first: _Ranked, second: _Ranked) -> Headline | None:
    """None where fewer than three heads are ranked in both, or those of one run all score alike."""
    known = ~np.isnan(first.values) & ~np.isnan(second.values)
    if known.sum() < 3:
        return None
    rho = rank_correlation(first.values[known], second.values[known])
    if np.isnan(rho):
        return None
    name = f"rank correlation of heads, {first.label} and {second.label}"
    return Headline(name, Estimate(float(rho), int(known.sum())))


def _ranked(runs: Sequence[Run], kind: str) -> list[_Ranked]:
    found = []
    for run in runs:
        ranking = run.table("ranking")
        if kind not in set(ranking["kind"]):
            raise UserError(f"{run.directory} has no ranking by {kind!r}; {nearest(kind, ranking['kind'].unique())}")
        found.append(_Ranked(run.label, ranking[ranking["kind"] == kind]))
    return found
