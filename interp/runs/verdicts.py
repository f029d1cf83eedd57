"""What a run says of each claim of the papers: agrees, opposite, undecided or not tested here.

One rule for all. A claim says which way a number differs from its control. It is decided by the two-sided test that
stands beside the number: agrees where the difference is significant and goes that way, opposite where it is significant
and goes the other way, undecided else. A claim with several numbers agrees only if all of them do, and is opposite
where one of them is at the level divided by their number: so over data without effect no claim agrees, and none is
opposite, in more than 2.5 % of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from interp.runs.claims import CLAIMS, Claim
from interp.runs.headlines import Headline, headline_of
from interp.stats import LEVEL, ComparedBy
from interp.text.numbers import difference_text

UNITS = {ComparedBy.PAIRED: "n = {n} pairs", ComparedBy.SETS: "{n} sets", ComparedBy.NULL: "n = {n}"}
"""What a test is over."""


class Outcome(StrEnum):
    """What became of a claim."""

    AGREES = "agrees"
    OPPOSITE = "opposite"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested here"


class Sign(StrEnum):
    """Which way a number is said to differ from its control."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Verdict:
    """An outcome with the number that decided it."""

    claim: str
    """Key in `interp.runs.claims.CLAIMS`."""
    outcome: Outcome
    decided_by: Headline | None = None
    """Of several numbers the one that speaks least for the claim."""
    why: str | None = None
    """What else there is to say: the claim that must hold first, or why it was not tested."""
    expected: Sign | None = None
    """Which way the papers say that this number differs from its control; None without a number."""

    def as_json(self) -> dict[str, Any]:
        number = None if self.decided_by is None else self.decided_by.as_json()
        return {
            "claim": self.claim,
            "outcome": self.outcome.value,
            "decided_by": number,
            "expected": None if self.expected is None else self.expected.value,
            "why": self.why,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Verdict:
        number = row["decided_by"]
        expected = row.get("expected")  # summaries of earlier versions do not have it
        return cls(
            row["claim"],
            Outcome(row["outcome"]),
            None if number is None else headline_of(number),
            row["why"],
            None if expected is None else Sign(expected),
        )

    def said(self) -> str:
        """In words: the claim, the difference with its p-value, and why it was not tested."""
        compared = None if self.decided_by is None else self.decided_by.comparison
        shown = ""
        if compared is not None:
            p = "" if compared.p is None else f", p = {compared.p:.2g}"
            over = UNITS[compared.test].format(n=compared.difference.n).removesuffix(" pairs")
            shown = f" ({difference_text(compared.difference.value)}{p}, {over})"
        reason = f"; {self.why}" if self.why else ""
        return f"{self.about.text}{shown}{reason}"

    @property
    def about(self) -> Claim:
        return CLAIMS[self.claim]


def decide(number: Headline, expected: Sign, least: float = 0.0, of: int = 1) -> Outcome:
    """What one number, `of` so many, says of a claim that it is higher or lower than its control; a difference of
    `least` or less in either direction is too small to count."""
    comparison = number.comparison
    if comparison is None or not comparison.decided:
        return Outcome.UNDECIDED
    towards = comparison.difference.value * (1 if expected == Sign.HIGHER else -1)
    if abs(towards) <= least:
        return Outcome.UNDECIDED
    if towards > 0:
        return Outcome.AGREES
    return Outcome.OPPOSITE if comparison.p is not None and comparison.p < LEVEL / of else Outcome.UNDECIDED


def verdict(
    claim: str,
    numbers: Sequence[tuple[Headline, Sign]],
    *,
    least: Sequence[float] = (),
    needs: Verdict | None = None,
    why: str | None = None,
) -> Verdict:
    """The verdict on a claim from all the numbers that it stands on; `least`: the smallest difference of each that
    counts, 0 for those behind the last.

    `needs`: a claim without which this one says nothing (where no head looks at the reasoning, where such heads lie is
    no question); unless it agrees, this one is undecided.
    """
    if claim not in CLAIMS:
        raise KeyError(claim)
    if not numbers:
        return Verdict(claim, Outcome.NOT_TESTED, why=why or "its measurement is missing in this run")
    smallest = [*least, *(0.0 for _ in numbers)]
    found = [(decide(*one, small, len(numbers)), *one) for one, small in zip(numbers, smallest, strict=False)]
    outcomes = [outcome for outcome, *_ in found]
    for outcome in (Outcome.OPPOSITE, Outcome.UNDECIDED, Outcome.AGREES):
        if outcome in outcomes:
            break
    number, sign = next((number, sign) for one, number, sign in found if one is outcome)
    if needs is not None and needs.outcome != Outcome.AGREES:
        outcome, why = Outcome.UNDECIDED, f"{needs.claim} is {needs.outcome.value}: {needs.about.text}"
    return Verdict(claim, outcome, number, why, sign)


def complete(found: Sequence[Verdict], why: Mapping[str, str]) -> list[Verdict]:
    """One verdict for every claim, in the papers' order; `why` says by experiment why it was not run."""
    known = {one.claim: one for one in found}
    missing = "experiment={} was not run"
    return [
        known.get(key)
        or Verdict(key, Outcome.NOT_TESTED, why=why.get(claim.experiment) or missing.format(claim.experiment))
        for key, claim in CLAIMS.items()
    ]
