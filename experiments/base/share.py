"""What a worker does of a run whose examples are split over several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interp.runs.directory import SHARES

EXAMPLES = "examples"
"""The stage in which examples are made and measured; the steps behind them have stages of their own."""
DEALT = "dealt.json"
"""Which units of a stage are whose."""


@dataclass(frozen=True)
class Share:
    """A worker's part of one stage of a run."""

    stage: str
    units: frozenset[int]
    """Numbers of the batches of examples, or of the steps, that are this worker's."""


class ShareDone(Exception):  # noqa: N818 - it is no error
    """A worker has done its share of the stage that it was started for."""


@dataclass(frozen=True)
class Batches:
    """Examples that are made together, since which ones are decides the last bits: workers share whole batches."""

    examples: int
    """How many may be looked at."""
    size: int
    """How many are made together."""
    measured: int
    """How many will be measured at the most."""

    def undone(self, done: Callable[[int], bool]) -> list[int]:
        """Numbers of the batches with an example that is not done."""
        starts = range(0, self.examples, self.size)
        ends = (min(first + self.size, self.examples) for first in starts)
        return [n for n, (a, b) in enumerate(zip(starts, ends, strict=True)) if not all(map(done, range(a, b)))]


def share_of(run: Path, number: int) -> Path:
    """Where a worker writes its parts."""
    return run / SHARES / f"{number:03d}"


def log_of(run: Path, number: int) -> Path:
    """Where a worker says what it does."""
    return run / SHARES / f"{number:03d}.log"


def outcome_of(run: Path, number: int) -> Path:
    """What became of a worker that came to an end: {"wrong": null, or what a user can mend}."""
    return run / SHARES / f"{number:03d}.json"
