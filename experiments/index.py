"""All runs below a folder on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.base.experiment import Experiment
from experiments.base.options import Options, Text
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.errors import UserError
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.index import index_page, runs_below

PAGE = "index.html"


class IndexOptions(Options):
    """conf/experiment/index.yaml"""

    name: Text


@dataclass(frozen=True)
class IndexFacts:
    """Where the runs lie, and how many there are."""

    folder: str
    n_runs: int


def write(session: Session, options: IndexOptions) -> None:
    """Writes the page into this run's own directory."""
    file = session.directory / PAGE
    session.store.claim.made(file)
    file.write_text(index_page(_folder(session), _runs(session), session.directory), encoding="utf-8", errors="replace")


def _runs(session: Session) -> list[Path]:
    """All but this one."""
    return [run for run in runs_below(_folder(session)) if run.resolve() != session.directory.resolve()]


def _folder(session: Session) -> Path:
    """Where to look for runs."""
    folder = Path(session.cfg.run or "outputs")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: set run=FOLDER to where the runs lie")
    if not runs_below(folder):
        raise UserError(f"there is no run below {folder}")
    return folder


def tell(session: Session, options: IndexOptions) -> Findings[IndexFacts]:
    """Where the page lies."""
    folder = _folder(session)
    n = len(_runs(session))
    lines = [f"page:    {session.directory / PAGE}"]
    return Findings([], IndexFacts(str(folder), n), lines, f"{n} runs below {folder}")


EXPERIMENT = Experiment(
    reads="run",
    options=IndexOptions,
    about=About(
        title="Which runs are there?",
        question="All runs below a folder, each with its first number and a link to its report.",
        source="both papers",
    ),
    unit=None,
    splits=False,
    needs_data=False,
    needs_model=lambda _: False,
    comparable=False,
    check=lambda session, _: _folder(session),
    analyse=write,
    findings=tell,
    facts=IndexFacts,
    plan=lambda session, _: Plan(0, 0, 0, 0, 5.0, f"nothing: {len(runs_below(_folder(session)))} runs are read"),
)
