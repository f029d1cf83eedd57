"""The tables of `perturb`: what forced tokens did, position by position, and which scores foretell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.perturb.overlap import Group, Scores
from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.stats import Comparison, adjust, bootstrap_mean, rank_correlation, rng_for, sign_flips

PERTURBED_TABLE = Table(
    "perturbed",
    Column("score", TEXT, "by what positions were chosen"),
    Column("group", TEXT, "which of them: see Group in interp/perturb/overlap.py"),
    Column("metric", TEXT, "as in `effects`"),
    Column("value", FLOAT, "mean over problems of the mean over the group's positions"),
    *ends("", "its 95 % bootstrap interval over problems", null=NO_INTERVAL),
    Column("own", FLOAT, "the same where the trace's own token is forced", null="not measured"),
    Column("net", FLOAT, "mean over problems of value minus own", null="not measured"),
    *ends("net_", "its 95 % bootstrap interval over problems", null=f"not measured, or {NO_INTERVAL}"),
    Column("net_p", FLOAT, "two-sided sign-flip p-value of net being 0", null="not measured, or n_net < 2"),
    Column("n_net", INT, "number of problems with a net effect: `own` is a mean over these", null="not measured"),
    Column("difference", FLOAT, "mean over problems of the net effect of top minus this group", null="the top itself"),
    *ends("difference_", "its 95 % interval", null=f"the top itself, or {NO_INTERVAL}"),
    Column("p", FLOAT, "two-sided sign-flip p-value of the difference", null="the top itself, or n_paired < 2"),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table", null="the top itself, or n_paired < 2"),
    Column("n_paired", INT, "number of problems with the net effects of both groups", null="the top itself"),
    Column("lower", FLOAT, "share of problems in which the top's value is the lower one", null="the top itself"),
    Column("tied", FLOAT, "share of problems in which both values are equal", null="the top itself"),
    Column("net_lower", FLOAT, "share of problems in which the top's net effect is the lower", null="the top itself"),
    Column("net_tied", FLOAT, "share of problems in which both net effects are equal", null="the top itself"),
    Column("n", INT, "number of problems with a value"),
)
PREDICTORS_TABLE = Table(
    "predictors",
    Column("score", TEXT, "a score of positions"),
    Column("metric", TEXT, "as in `effects`"),
    Column("given", TEXT, "`nothing`, or what is held constant"),
    Column("value", FLOAT, "mean over problems of the (partial) rank correlation over positions, -1..1"),
    *ends("", "its 95 % bootstrap interval over problems", null=NO_INTERVAL),
    Column("p", FLOAT, "two-sided sign-flip p-value of its being 0", null="n < 2"),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table", null="n < 2"),
    Column("p_against_fai", FLOAT, "the same of `fai` minus this, in absolute correlation", null="`fai`, or n < 2"),
    Column("n", INT, "number of problems"),
)


OWN_TOKEN = "own_token"
"""Control: the trace's own token is forced and everything behind it is written anew."""
METRICS = ("jaccard", "edit_distance", "answer_changed", "correct_changed", "steps_changed", "unfinished")
COLUMNS = {
    "fai": "fai_to_end",
    "fai_near": "fai",
    "receiver_fai": "receiver_fai",
    "waad": "waad",
    "entropy": "entropy",
    "answer_surprisal": "answer_surprisal",
}
"""Of tokens.parquet, by score."""
MIN_POSITIONS = 8
"""Traces with fewer forked positions give no correlation."""


@dataclass(frozen=True)
class Problem:
    """One trace: the scores of its response's tokens, the mean effect of forcing others in place of each of them, and
    that of forcing its own (NaN = not forced)."""

    example: str
    scores: Scores
    effects: dict[str, np.ndarray]
    own: dict[str, np.ndarray] = field(default_factory=dict)

    def net(self, metric: str) -> np.ndarray:
        """The effect of other tokens minus that of the trace's own, which rolling out alone has; as it is where that
        was not measured."""
        return self.effects[metric] - self.own[metric] if metric in self.own else self.effects[metric]


def groups_of(scores: Scores, score: str, k: int, seed: int, example: str) -> dict[Group, list[int]]:
    """All groups of a trace, drawn alike whenever they are asked for, whatever other traces there are."""
    return {g: scores.group(score, g, k, rng_for(seed, "groups", example, score, g)) for g in Group}


def group_rows(problems: Sequence[Problem], names: Sequence[str], k: int, seed: int) -> list[dict[str, Any]]:
    """The rows of perturbed.parquet: each group's effect, and the top group's difference from it, paired by problem."""
    rows = []
    for score in names:
        chosen = [groups_of(p.scores, score, k, seed, p.example) for p in problems]
        for metric in METRICS:
            means = {
                g: np.array([mean_of_known(p.effects[metric][c[g]]) for p, c in zip(problems, chosen, strict=True)])
                for g in Group
            }
            nets = {
                g: np.array([mean_of_known(p.net(metric)[c[g]]) for p, c in zip(problems, chosen, strict=True)])
                for g in Group
            }
            for group, values in means.items():
                rng = rng_for(seed, "perturbed", score, metric, group)
                net = nets[group]
                estimate = bootstrap_mean(values, rng)
                if not estimate.n:
                    continue
                row: dict[str, Any] = {
                    "score": score, "group": group, "metric": metric, "value": estimate.value, "low": estimate.low,
                    "high": estimate.high, "n": estimate.n,
                }  # fmt: skip
                if all(metric in p.own for p in problems):
                    row |= _net(values - net, net, rng)
                if group != Group.TOP:
                    row |= _difference(nets[Group.TOP] - net, rng)
                    row |= _lower(means[Group.TOP] - values) | _lower(nets[Group.TOP] - net, "net_")
                rows.append(row)
    adjust(rows)
    return rows


def _net(own: np.ndarray, net: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """A group's effects beside those of the traces' own tokens at the same places."""
    compared = Comparison.paired(net, 0.0, rng)
    if compared is None:
        return {}
    found = compared.difference
    about = {"net": found.value, "net_low": found.low, "net_high": found.high, "net_p": compared.p}
    return {"own": mean_of_known(own), "n_net": found.n, **about}


def mean_of_known(values: np.ndarray) -> float:
    """NaN where none is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _difference(values: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    values = values[~np.isnan(values)]
    estimate = bootstrap_mean(values, rng)
    if not estimate.n:
        return {"n_paired": 0}
    p = sign_flips(values, rng)[0] if len(values) >= 2 else None
    ends = {"difference_low": estimate.low, "difference_high": estimate.high}
    return {"difference": estimate.value, **ends, "p": p, "n_paired": estimate.n}


def _lower(values: np.ndarray, before: str = "") -> dict[str, float]:
    """In which share of the problems a difference is below 0, and in which it is 0: a tie speaks for neither side."""
    values = values[~np.isnan(values)]
    if not len(values):
        return {}
    tied = np.isclose(values, 0, atol=1e-12)  # means of the same values in another order
    return {f"{before}lower": float(((values < 0) & ~tied).mean()), f"{before}tied": float(tied.mean())}


def predictor_rows(problems: Sequence[Problem], names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The rows of predictors.parquet: which score goes along with the measured effect over all forced positions."""
    rows = []
    for metric in METRICS:
        for given in ("nothing", "position and entropy"):
            found = {
                score: np.array([_correlation(p, score, metric, given != "nothing") for p in problems])
                for score in names
            }
            for score, values in found.items():
                known = values[~np.isnan(values)]
                rng = rng_for(seed, "predictors", metric, given, score)
                estimate = bootstrap_mean(known, rng)
                if not estimate.n:
                    continue
                row: dict[str, Any] = {
                    "score": score, "metric": metric, "given": given, "value": estimate.value, "low": estimate.low,
                    "high": estimate.high, "n": estimate.n,
                    "p": sign_flips(known, rng)[0] if len(known) >= 2 else None,
                }  # fmt: skip
                if score != "fai" and "fai" in found:
                    # A score may foretell with either sign: its absolute mean correlation counts.
                    signs = [np.sign(np.nanmean(v)) or 1.0 for v in (found["fai"], values)]
                    both = found["fai"] * signs[0] - values * signs[1]
                    both = both[~np.isnan(both)]
                    row["p_against_fai"] = sign_flips(both, rng)[0] if len(both) >= 2 else None
                rows.append(row)
    adjust(rows)
    return rows


def _correlation(problem: Problem, score: str, metric: str, partial: bool) -> float:
    """Spearman's correlation over one trace's positions, given the position (and the entropy) if `partial`."""
    x, y, entropy = problem.scores.values[score], problem.net(metric), problem.scores.entropy
    known = ~(np.isnan(x) | np.isnan(y) | np.isnan(entropy))
    if known.sum() < MIN_POSITIONS:
        return float("nan")
    place = np.flatnonzero(known).astype(float)
    held = [place, stats.rankdata(entropy[known])][: 1 if score == "entropy" else 2] if partial else []
    return rank_correlation(x[known], y[known], held)


def problems_of(tokens: pd.DataFrame, effects: pd.DataFrame, names: Sequence[str]) -> list[Problem]:
    """The problems of a run from its tables: tokens.parquet has the scores, effects.parquet what was forced."""
    by_example = dict(tuple(effects.groupby("example", sort=False)))
    problems = []
    for example, part in tokens.groupby("example", sort=False):
        if example not in by_example:
            continue
        entropy = part["entropy"].to_numpy(dtype=float)
        values = {name: part[COLUMNS[name]].to_numpy(dtype=float) for name in names if name in COLUMNS}
        if "waad_drop" in names:
            waad = part["waad"].to_numpy(dtype=float)
            values["waad_drop"] = np.abs(np.diff(waad, append=np.nan))
        first = int(part["position"].iloc[0])
        forced = by_example[example]
        own = forced["control"] == OWN_TOKEN
        measured, at_own = (_by_position(forced[rows], first, len(part)) for rows in (~own, own))
        problems.append(Problem(str(example), Scores(values, entropy), measured, at_own if own.any() else {}))
    return problems


def _by_position(effects: pd.DataFrame, first: int, n: int) -> dict[str, np.ndarray]:
    """The mean effect at each token of a response that begins at position `first`."""
    measured = {metric: np.full(n, np.nan) for metric in METRICS}
    means = effects.groupby(["metric", "position"])["value"].mean().reset_index()
    for metric, rows in means.groupby("metric"):
        places = rows["position"].to_numpy(dtype=int) - first
        measured[str(metric)][places] = rows["value"].to_numpy(dtype=float)
    return measured
