"""The headline numbers of a run, each with its n, interval and control, and what stands in summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from interp.stats import Estimate

F = TypeVar("F")


@dataclass(frozen=True)
class Headline:
    """One number that the run found, and what it is to be compared with."""

    name: str
    estimate: Estimate
    control_kind: str | None = None
    control: Estimate | None = None

    def as_json(self) -> dict[str, Any]:
        control = None
        if self.control is not None:
            control = {"kind": self.control_kind, **_estimate_json(self.control)}
        return {"name": self.name, **_estimate_json(self.estimate), "control": control}


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return _json({"value": estimate.value, "n": estimate.n, "low": estimate.low, "high": estimate.high})


@dataclass(frozen=True)
class Findings(Generic[F]):
    """What a run tells: its headline numbers, lines beside them, and the facts that its figures are drawn from."""

    headlines: Sequence[Headline]
    facts: F
    lines: Sequence[str] = ()
    title: str | None = None
    """What the run was about, where that is not one model on one set of data."""
    shown: Sequence[Headline] | None = None
    """The headline numbers that are printed; None = all."""


@dataclass(frozen=True)
class NoFacts:
    """For figures that need nothing but tables."""


def summary(findings: Findings[Any], skipped: Mapping[str, int]) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "headlines": [headline.as_json() for headline in findings.headlines],
        "lines": list(findings.lines),
        "skipped": dict(skipped),
        **_json(asdict(findings.facts)),
    }


def _json(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, list | tuple) else value


def reasons(skipped: Mapping[str, int]) -> str:
    """Why examples were left out, with how many of each."""
    return "; ".join(f"{n} {reason}" for reason, n in skipped.items()) or "the data is empty"
