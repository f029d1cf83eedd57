"""The papers' claims over several runs: what became of each, run by run, and by which number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from interp.runs.claims import CLAIMS
from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.runs.compared import Run
from interp.runs.directory import SUMMARY
from interp.runs.store import read_json, records
from interp.runs.verdicts import UNITS, Outcome, Verdict
from interp.stats import ComparedBy
from interp.text.numbers import difference_text

CLAIMS_TABLE = Table(
    "claims",
    Column("claim", TEXT, "its key, such as `A3`: see docs/verdicts.md"),
    Column("run", TEXT, "as in `numbers`"),
    Column("outcome", TEXT, "`agrees`, `opposite`, `undecided` or `not tested here`"),
    Column("name", TEXT, "the number that decided it", null="none"),
    Column("value", FLOAT, "its value", null="none, or undefined"),
    Column("control", TEXT, "kind of its control", null="none"),
    Column("difference", FLOAT, "how far it differs from the control", null="it was not compared"),
    *ends("", "the difference's 95 % interval", null=f"it was not compared, or {NO_INTERVAL}"),
    Column("p", FLOAT, "two-sided p-value of the difference", null="it was not compared, or n < 2"),
    Column("test", TEXT, "`paired`, with `sets` of heads, or `null`: with what chance gives", null="not compared"),
    Column("n", INT, "over how many examples (`paired`, `null`) or sets", null="it was not compared"),
    Column("why", TEXT, "why it was not tested, or what it stands on", null="nothing to say"),
)


PUBLISHED = "published measurements"
"""The column of those."""


def claim_rows(runs: Sequence[Run], published: Sequence[Verdict] = ()) -> list[dict[str, Any]]:
    """Every verdict of every run and of published measurements, claim by claim in the order of the papers: the rows of
    claims.parquet."""
    found = [
        (run.label, Verdict.from_json(row))
        for run in runs
        for row in read_json(run.directory / SUMMARY).get("verdicts", [])
    ] + [(PUBLISHED, one) for one in published]
    rows = []
    for label, one in sorted(found, key=lambda pair: list(CLAIMS).index(pair[1].claim)):
        number = one.decided_by
        compared = None if number is None else number.comparison
        gap = None if compared is None else compared.difference
        rows.append(
            {
                "claim": one.claim,
                "run": label,
                "outcome": one.outcome.value,
                "name": None if number is None else number.name,
                "value": None if number is None else number.estimate.value,
                "control": None if number is None else number.control_kind,
                "difference": None if gap is None else gap.value,
                "low": None if gap is None else gap.low,
                "high": None if gap is None else gap.high,
                "p": None if compared is None else compared.p,
                "test": None if compared is None else compared.test.value,
                "n": None if gap is None else gap.n,
                "why": one.why,
            }
        )
    return rows


def claim_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line a claim that some run tested."""
    for claim, about in CLAIMS.items():
        here = [row for row in rows if row["claim"] == claim]
        if any(row["outcome"] != Outcome.NOT_TESTED for row in here):
            yield f"{claim} {about.text}: " + "; ".join(f"{row['run']}: {_outcome(row)}" for row in here)


NAMED = 3
"""Runs whose outcomes have room beside one another on a line of a screen."""


def brief_claim_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same for a screen: up to three runs' outcomes in their order, or how often each outcome came."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    if runs:
        yield f"claims: {' / '.join(runs)}" if len(runs) <= NAMED else f"claims in {len(runs)} runs:"
    for claim, about in CLAIMS.items():
        found = {row["run"]: str(row["outcome"]) for row in rows if row["claim"] == claim}
        outcomes = [found.get(run, Outcome.NOT_TESTED.value) for run in runs]
        if set(outcomes) <= {Outcome.NOT_TESTED}:
            continue
        told = " / ".join("-" if one == Outcome.NOT_TESTED else one for one in outcomes)
        if len(runs) > NAMED:
            counts = Counter(one for one in outcomes if one != Outcome.NOT_TESTED)
            told = ", ".join(f"{one} {n}" for one, n in counts.items())
        yield f"{claim:<12} {about.brief:<34} {told}"


def _outcome(row: Mapping[str, Any]) -> str:
    """The outcome, and the difference that decided it."""
    if row["difference"] is None:
        return str(row["outcome"])
    p = "" if row["p"] is None else f", p {row['p']:.2g}"
    n = UNITS[ComparedBy(row["test"])].format(n=int(row["n"]))
    return f"{row['outcome']}, {difference_text(row['difference'], row['low'], row['high'])}{p}, {n}"


def claim_table(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims by runs: what became of each, and what was published."""
    rows = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in records(claims)]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    cells = {(row["claim"], row["run"]): _outcome(row) for row in rows}
    return pd.DataFrame(
        [
            {"claim": f"{claim} {about.text}", "published": about.published}
            | {run: cells.get((claim, run), Outcome.NOT_TESTED.value) for run in runs}
            for claim, about in CLAIMS.items()
            if any((claim, run) in cells for run in runs)
        ]
    )
