"""What a run tells: headline numbers, verdicts, the facts behind its figures, and what stands in summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from interp.runs.headlines import Headline, as_json_value
from interp.runs.verdicts import Verdict

F = TypeVar("F")


@dataclass(frozen=True)
class Findings(Generic[F]):
    """What a run tells: its headline numbers, lines beside them, and the facts that its figures are drawn from.

    All of it goes to summary.json and to run.log; the screen has room for a few.
    """

    headlines: Sequence[Headline]
    facts: F
    lines: Sequence[str] = ()
    title: str | None = None
    """What the run was about, where that is not one model on one set of data."""
    shown: Sequence[Headline] | None = None
    """The headline numbers on the screen; None = the first ones."""
    said: Sequence[str] | None = None
    """The lines on the screen; None = the first ones."""
    verdicts: Sequence[Verdict] = ()
    """What they say of the papers' claims."""


@dataclass(frozen=True)
class NoFacts:
    """For figures that need nothing but tables."""


def summary(findings: Findings[Any], skipped: Mapping[str, int]) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "headlines": [headline.as_json() for headline in findings.headlines],
        "verdicts": [verdict.as_json() for verdict in findings.verdicts],
        "lines": list(findings.lines),
        "skipped": dict(skipped),
        **as_json_value(asdict(findings.facts)),
    }


def reasons(skipped: Mapping[str, int]) -> str:
    """Why examples were left out, with how many of each."""
    return "; ".join(f"{n} {reason}" for reason, n in skipped.items()) or "the data is empty"
