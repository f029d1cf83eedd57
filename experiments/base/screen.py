"""What a run says at its end: a few lines on the screen, made for 80 columns, and everything in run.log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.base.job_files import LOG
from interp.errors import printable
from interp.runs.directory import shown_path
from interp.runs.findings import Findings, reasons
from interp.runs.headlines import Headline
from interp.runs.names import readable_text
from interp.runs.verdicts import Verdict
from interp.stats import ComparedBy, Estimate
from interp.text.numbers import difference_text, with_interval

NUMBERS, LINES = 8, 4
"""Headline numbers, and lines beside them, on the screen, where the experiment does not choose them."""
SETS_MARK = "*"
"""Behind a number of sets of heads, which stands where else examples are counted."""
LOG_COLUMNS = 1000
"""In run.log a number is one line, however long its name."""


def show(title: str, findings: Findings[Any], skipped: Mapping[str, int], directory: Path) -> None:
    """Verdicts, the first numbers and lines, and where the rest is; the rest goes to run.log.

    Texts may quote models and files: nothing in them is markup.
    """
    with (directory / LOG).open("a", encoding="utf-8", errors="backslashreplace") as log:
        _write(
            Console(file=log, markup=False, emoji=False, highlight=False, width=LOG_COLUMNS), title, findings, skipped
        )
    console = Console(markup=False, emoji=False, highlight=False)
    numbers = findings.headlines[:NUMBERS] if findings.shown is None else findings.shown
    lines = findings.lines[:LINES] if findings.said is None else findings.said
    console.print(printable(title), style="bold")
    if findings.verdicts:
        console.print(_verdicts(findings.verdicts))
        decided = [one.decided_by.comparison for one in findings.verdicts if one.decided_by]
        if any(one is not None and one.test == ComparedBy.SETS for one in decided):
            console.print(f"{SETS_MARK} random sets of heads")
    if numbers:
        console.print(_numbers(numbers))
    for line in [*lines, *_left_out(skipped)]:
        console.print(printable(readable_text(line)))
    left = {"number": len(findings.headlines) - len(numbers), "line": len(findings.lines) - len(lines)}
    if more := " and ".join(f"{n} {what}{'s' if n > 1 else ''}" for what, n in left.items() if n > 0):
        console.print(f"{more} more: run.log, summary.json")
    for path in _places(directory):
        console.print(printable(path), soft_wrap=True)


def _write(console: Console, title: str, findings: Findings[Any], skipped: Mapping[str, int]) -> None:
    """Everything, whatever the width of the screen."""
    console.print(printable(title))
    if findings.headlines:
        console.print(_numbers(findings.headlines))
    for verdict in findings.verdicts:
        console.print(printable(f"{verdict.claim} {verdict.outcome}: {verdict.said()}"), soft_wrap=True)
    for line in [*findings.lines, *_left_out(skipped)]:
        console.print(printable(line), soft_wrap=True)


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    """One line each: what cannot be told in one stands in the report."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name, justify in (("", "left"), ("claim", "left"), ("here", "left"), ("diff.", "right"), ("p", "right")):
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    table.add_column("n", justify="right", no_wrap=True)
    for one in verdicts:
        compared = None if one.decided_by is None else one.decided_by.comparison
        told = ["", "", ""]
        if compared is not None:
            p = "" if compared.p is None else f"{compared.p:.2g}"
            sets = SETS_MARK if compared.test == ComparedBy.SETS else ""
            told = [difference_text(compared.difference.value), p, f"{compared.difference.n}{sets}"]
        table.add_row(one.claim, one.about.brief, one.outcome.removesuffix(" here"), *told)
    return table


def _numbers(headlines: Sequence[Headline]) -> Table:
    """Each number with its interval and n, and its control on the line below."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("number", overflow="fold")
    table.add_column("value, 95 % interval", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for one in headlines:
        table.add_row(printable(readable_text(one.name)), _text(one.estimate), str(one.estimate.n))
        if one.control is not None:
            table.add_row(printable(f"  {one.control_kind}"), _text(one.control), "")
    return table


def _left_out(skipped: Mapping[str, int]) -> Iterator[str]:
    if skipped:
        yield f"left out: {reasons(skipped)}"


def _places(directory: Path) -> Iterator[str]:
    """Where the run, its report and its figures are."""
    pages = sorted(directory.glob("figures/*.html"))
    pictures = len(list(directory.glob("figures/*.png")))
    yield f"run:     {shown_path(directory)}"
    if (directory / "report.html").exists():
        yield f"report:  {shown_path(directory / 'report.html')}"
    for page in pages:
        yield f"page:    {shown_path(page)}"
    if pictures:
        yield f"figures: {shown_path(directory / 'figures')} ({pictures})"


def _text(estimate: Estimate) -> str:
    return with_interval(estimate.value, estimate.low, estimate.high)
