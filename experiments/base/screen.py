"""What a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from interp.errors import printable
from interp.runs.findings import Findings, reasons
from interp.stats import Estimate


def show(title: str, findings: Findings[Any], skipped: Mapping[str, int], directory: Path) -> None:
    """The headline table and where the run is. Texts may quote models and files: nothing in them is markup."""
    table = Table(title=printable(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("", "value", "95 % interval", "n", "control"):
        table.add_column(column, justify="left" if column in ("", "control") else "right", overflow="fold")
    for h in findings.headlines if findings.shown is None else findings.shown:
        control = f"{h.control_kind}: {_text(h.control)}" if h.control else ""
        row = (h.name, f"{h.estimate.value:.3f}", _interval(h.estimate), str(h.estimate.n), control)
        table.add_row(*map(printable, row))
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, width=140)  # a log or a pipe
    if table.rows:
        console.print(table)
    else:
        console.print(printable(title))
    if findings.verdicts:
        verdicts = Table.grid(padding=(0, 2, 0, 0))
        for fixed in (True, True, False):
            verdicts.add_column(no_wrap=fixed, overflow="fold")
        for verdict in findings.verdicts:
            verdicts.add_row(*map(printable, (verdict.claim, verdict.outcome.value, verdict.said())))
        console.print(verdicts, highlight=False)
    for line in findings.lines:
        console.print(printable(line), highlight=False)
    if skipped:
        console.print(printable(f"left out: {reasons(skipped)}"), highlight=False)
    if findings.shown is not None:
        console.print(f"{len(findings.shown)} of {len(findings.headlines)} numbers are shown: all are in summary.json")
    for label, path in (("run", directory), ("report", directory / "report.html")):
        if path.exists():
            console.print(printable(f"{f'{label}:':<8} {path}"), soft_wrap=True)
    figures = sorted(p for p in directory.glob("figures/*") if p.suffix in (".png", ".html"))
    for label, figure in zip(["figures:"] + ["        "] * len(figures), figures, strict=False):
        console.print(printable(f"{label} {figure}"), soft_wrap=True)


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} {_interval(estimate)}".strip()
