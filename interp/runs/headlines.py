"""The headline numbers of a run, each with its n, interval and control: for summary.json and for the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from interp.errors import printable
from interp.stats import Estimate


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
    value = None if math.isnan(estimate.value) else estimate.value
    return {"value": value, "n": estimate.n, "low": estimate.low, "high": estimate.high}


@dataclass(frozen=True)
class Findings:
    """What a run tells on the screen: its headline numbers and lines beside them."""

    headlines: Sequence[Headline]
    lines: Sequence[str] = ()
    title: str | None = None
    """What the run was about, where that is not one model on one set of data."""


def summary(headlines: Sequence[Headline], **more: Any) -> dict[str, Any]:
    """The content of summary.json."""
    return {"headlines": [headline.as_json() for headline in headlines], **more}


def reasons(skipped: dict[str, int]) -> str:
    """Why examples were left out, with how many of each."""
    return "; ".join(f"{n} {reason}" for reason, n in skipped.items()) or "the data is empty"


def show(title: str, findings: Findings, directory: Path) -> None:
    """The headline table and where the run is. Texts may quote models and files: nothing in them is markup."""
    table = Table(title=printable(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("", "value", "95 % interval", "n", "control"):
        table.add_column(column, justify="left" if column in ("", "control") else "right", overflow="fold")
    for h in findings.headlines:
        control = f"{h.control_kind}: {_text(h.control)}" if h.control else ""
        row = (h.name, f"{h.estimate.value:.3f}", _interval(h.estimate), str(h.estimate.n), control)
        table.add_row(*map(printable, row))
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, width=140)  # a log or a pipe
    if findings.headlines:
        console.print(table)
    else:
        console.print(printable(title))
    for line in findings.lines:
        console.print(printable(line), highlight=False)
    console.print(printable(f"run:     {directory}"), soft_wrap=True)
    figures = sorted(p for p in directory.glob("figures/*") if p.suffix in (".png", ".html"))
    for label, figure in zip(["figures:"] + ["        "] * len(figures), figures, strict=False):
        console.print(printable(f"{label} {figure}"), soft_wrap=True)


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} {_interval(estimate)}".strip()
