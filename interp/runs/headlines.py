"""The headline numbers of a run, each with its n, interval and control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.stats import ComparedBy, Comparison, Estimate


@dataclass(frozen=True)
class Headline:
    """One number that the run found, and what it is to be compared with."""

    name: str
    estimate: Estimate
    control_kind: str | None = None
    control: Estimate | None = None
    comparison: Comparison | None = None
    """The number against that control: two intervals side by side decide nothing."""

    def as_json(self) -> dict[str, Any]:
        control = comparison = None
        if self.control is not None:
            control = {"kind": self.control_kind, **_estimate_json(self.control)}
        if self.comparison is not None:
            found = self.comparison
            comparison = {"test": found.test.value, **_estimate_json(found.difference), "p": as_json_value(found.p)}
        return {"name": self.name, **_estimate_json(self.estimate), "control": control, "comparison": comparison}


def headline_of(row: Mapping[str, Any]) -> Headline:
    """A headline number as summary.json holds it."""
    control, comparison = row["control"], row.get("comparison")
    return Headline(
        row["name"],
        Estimate.of(row),
        control["kind"] if control else None,
        Estimate.of(control) if control else None,
        Comparison(ComparedBy(comparison["test"]), Estimate.of(comparison), comparison["p"]) if comparison else None,
    )


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return as_json_value({"value": estimate.value, "n": estimate.n, "low": estimate.low, "high": estimate.high})


def as_json_value(value: Any) -> Any:
    """The same with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: as_json_value(one) for name, one in value.items()}
    return [as_json_value(one) for one in value] if isinstance(value, list | tuple) else value
