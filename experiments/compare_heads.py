"""Do different models, data sets or conditions have the same heads? Rankings of `heads` runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from experiments.compared import Run, RunsCompared
from experiments.heads_findings import overlap_text
from experiments.summary import Headline
from interp.errors import UserError, nearest
from interp.heads import Head
from interp.ranking import overlap_rows
from interp.stats import Estimate


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
    def values(self) -> np.ndarray:
        return self.ranking.sort_values(["layer", "head"])["value"].to_numpy(dtype=float)


def compare(runs: list[Run], kind: str) -> RunsCompared:
    """Overlaps of the top heads and rank correlations of all heads' scores between the runs."""
    ranked = _ranked(runs, kind)
    layers, heads = ranked[0].shape
    rows = overlap_rows({one.label: one.top for one in ranked}, layers * heads)
    headlines = []
    for first, second in combinations(ranked, 2):
        rho = stats.spearmanr(first.values, second.values, nan_policy="omit").statistic
        known = int((~np.isnan(first.values) & ~np.isnan(second.values)).sum())
        headlines.append(Headline(f"rank correlation of heads, {first.label} and {second.label}", Estimate(rho, known)))
    lines = [
        f"{row['first']} and {row['second']}: top heads in both: {overlap_text(row)}"
        for row in rows
        if row["p"] is not None
    ]
    return RunsCompared({"overlaps": rows}, headlines, lines, f" by {kind}", {"kind": kind})


def _ranked(runs: list[Run], kind: str) -> list[_Ranked]:
    """The runs' rankings; heads of models of different shapes are refused."""
    found: list[_Ranked] = []
    for run in runs:
        ranking = run.table("ranking")
        if kind not in set(ranking["kind"]):
            raise UserError(f"{run.directory} has no ranking by {kind!r}; {nearest(kind, ranking['kind'].unique())}")
        found.append(_Ranked(run.label, ranking[ranking["kind"] == kind]))
        if found[-1].shape != found[0].shape:
            sizes = [
                f"{one.directory} has {it.shape[0]} x {it.shape[1]} heads"
                for one, it in ((runs[0], found[0]), (run, found[-1]))
            ]
            raise UserError(f"heads of different models do not correspond: {', '.join(sizes)}")
    return found
