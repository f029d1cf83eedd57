"""The headline numbers of `perturb`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.heads.reductions import LEAST
from interp.perturb.overlap import Group
from interp.perturb.tables import COLUMNS
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.store import records
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import Comparison, Estimate, or_null
from interp.text.numbers import difference_text

Tables = Callable[[str], pd.DataFrame]
METRICS = {
    "jaccard": "Jaccard overlap of content words",
    "answer_changed": "share of rollouts with another answer",
    "correct_changed": "share of rollouts that are right instead of wrong or the other way round",
    "unfinished": "share of rollouts that the limit cuts off",
}
FAI = ("fai", "fai_near")
"""Scores that the claim is of."""


@dataclass(frozen=True)
class PerturbFacts:
    """How many problems there were, and how many positions of each a group has."""

    n_problems: int
    scores: list[str]
    k: int


def findings(table: Tables, k: int, scores: Sequence[str]) -> Findings[PerturbFacts]:
    """What a run tells of groups of k positions by these scores."""
    perturbed, predictors, thirds = table("perturbed"), table("predictors"), table("thirds")
    headlines: list[Headline] = []
    lines: list[str] = []
    score = perturbed["score"].iloc[0] if len(perturbed) else None
    for metric, label in METRICS.items():
        rows = perturbed[(perturbed["score"] == score) & (perturbed["metric"] == metric)]
        by_group = {row["group"]: row for row in records(rows)}
        if Group.TOP not in by_group:
            continue
        top = by_group[Group.TOP]
        headlines.append(_beside_own(top, f"{label}: top {k} by {readable(score)}"))
        for group in (g for g in Group if g != Group.TOP and g in by_group):
            name = f"{label}, net: top {k} by {readable(score)}, beside {_named(group, k)}"
            headlines.append(_beside(top, by_group[group], name, _named(group, k)))
            if or_null(by_group[group]["difference"]) is not None:
                lines.append(_line(by_group[group], f"{label}, top {readable(score)} minus {readable(group)}, net"))
    for row in records(predictors[predictors["metric"] == "jaccard"]):
        found = difference_text(row["value"], row["low"], row["high"])
        p = _adjusted(row, ", ")
        against = "" if pd.isna(row["p_against_fai"]) else f", against FAI p = {row['p_against_fai']:.2g}"
        about = f"rank correlation of {readable(row['score'])} and Jaccard given {row['given']}"
        lines.append(f"{about}: {found}{p}{against}")
    for row in records(thirds[(thirds["metric"] == "jaccard") & (thirds["score"] == score)]):
        found = difference_text(row["net"], row["low"], row["high"])
        line = f"{METRICS['jaccard']}, net, {row['third']} third of the response: {found}"
        if not pd.isna(row["difference"]):
            line += f"; there top {readable(score)} minus others {difference_text(row['difference'])}"
            line += f"{_adjusted(row, ', ')}, n = {row['n_paired']}"
        lines.append(line)
    flat = {score: _flat(table("tokens"), score) for score in scores if score in (*FAI, "receiver_fai")}
    lines += [one.said for one in flat.values() if one.n_flat]
    n = int(perturbed["n"].max()) if len(perturbed) else 0
    return Findings(headlines, PerturbFacts(n, list(scores), k), lines, verdicts=[_verdict(perturbed, k, scores, flat)])


@dataclass(frozen=True)
class _Flat:
    """In how many of the problems a score made of attention moves no output, whatever its ranks say."""

    score: str
    n_flat: int
    n: int
    most: float
    """By how much it varies there, at most."""

    @property
    def said(self) -> str:
        where = f"in {self.n_flat} of {self.n} problems"
        return (
            f"{readable(self.score)} varies by {self.most:.1g} at most {where}, less than the rounding of an attention "
            f"weight ({LEAST:.0g}): it moves nothing there"
        )


def _flat(tokens: pd.DataFrame, score: str) -> _Flat:
    values = tokens.groupby("example", sort=False)[COLUMNS[score]]
    ranges = (values.max() - values.min()).dropna()
    flat = ranges[ranges <= LEAST]
    return _Flat(score, len(flat), len(ranges), float(flat.max()) if len(flat) else 0.0)


def _verdict(perturbed: pd.DataFrame, k: int, scores: Sequence[str], flat: dict[str, _Flat]) -> Verdict:
    """Places of high FAI, by the first score that is one, beside all but the random ones. Where FAI moves nothing in
    most of the problems they have no such places."""
    score = next((score for score in scores if score in FAI), None)
    if score is None:
        return verdict("B5", [], why="positions were not chosen by FAI (experiment.scores)")
    if 2 * flat[score].n_flat > flat[score].n:
        return verdict("B5", [], why=flat[score].said)
    rows = perturbed[(perturbed["score"] == score) & (perturbed["metric"] == "jaccard")]
    by_group = {row["group"]: row for row in records(rows)}
    if Group.TOP not in by_group:
        return verdict("B5", [], why=f"no response has room for two groups of {k} positions (experiment.k)")
    beside = f"{METRICS['jaccard']}, net: top {k} by {readable(score)}, beside"
    decides = [
        (_beside(by_group[Group.TOP], by_group[group], f"{beside} {_named(group, k)}", _named(group, k)), Sign.LOWER)
        for group in Group
        if group not in (Group.TOP, Group.RANDOM) and group in by_group
    ]
    return verdict("B5", decides, why=flat[score].said if flat[score].n_flat else None)


def _beside_own(row: dict[str, Any], name: str) -> Headline:
    """A group's effect beside that of forcing the traces' own tokens there."""
    if or_null(row["net"]) is None:
        return Headline(name, Estimate.of(row))
    own = Estimate(row["own"], int(row["n_net"]))
    compared = Comparison.of(row, "net", "net_p", n="n_net")
    return Headline(name, Estimate.of(row), "their own tokens forced", own, compared)


def _beside(top: dict[str, Any], other: dict[str, Any], name: str, kind: str) -> Headline:
    """The top group's net effect against another group's, problem by problem."""
    own, theirs = (_net_or_raw(row) for row in (top, other))
    return Headline(name, own, kind, theirs, Comparison.of(other, "difference", n="n_paired"))


def _net_or_raw(row: dict[str, Any]) -> Estimate:
    value, n = ("value", "n") if or_null(row["net"]) is None else ("net", "n_net")
    return Estimate(row[value], int(row[n]))


def _named(group: Group, k: int) -> str:
    return f"bottom {k}" if group == Group.BOTTOM else f"{k} {readable(group)}"


def _line(row: dict[str, Any], about: str) -> str:
    found = difference_text(row["difference"], row["difference_low"], row["difference_high"])
    p = _adjusted(row, ", sign flips ")
    net, raw = (f"lower in {100 * row[f'{b}lower']:.0f} %, tied in {100 * row[f'{b}tied']:.0f} %" for b in ("net_", ""))
    shares = f"of {int(row['n_paired'])} problems {net}; raw, of all that have both, {raw}"
    return f"{about}: {found}{p}; {shares}"


def _adjusted(row: dict[str, Any], before: str) -> str:
    return "" if pd.isna(row["p_adjusted"]) else f"{before}q = {row['p_adjusted']:.2g}"
