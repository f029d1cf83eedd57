"""Draws every figure of a finished run again from its tables, without the model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from experiments.base.experiment import Experiment, experiment
from experiments.base.options import Options, Text
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.errors import UserError
from interp.figures.drawing import save
from interp.figures.style import look
from interp.runs.about import About
from interp.runs.directory import ENVIRONMENT, SUMMARY, shown_path
from interp.runs.findings import Findings
from interp.runs.finished import experiment_of, finished_run
from interp.runs.store import read_json, tables_of

log = logging.getLogger(__name__)


class FiguresOptions(Options):
    """conf/experiment/figures.yaml"""

    name: Text


@dataclass(frozen=True)
class FiguresFacts:
    """Which run the figures are of."""

    drawn_from: str


def redraw(session: Session, options: FiguresOptions) -> None:
    """Writes the figures into this run's own directory: the run that they come from is not touched."""
    source, name = _source(session)
    log.info("drawing %s", source)
    target = session.directory / "figures"
    session.store.claim.made(target)
    try:
        for stem, make in experiment(name).drawings(tables_of(source), read_json(source / SUMMARY)):
            with look():
                save(make(), target, stem)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot draw the figures of {source}: {type(error).__name__}: {error}") from error
    finally:
        if target.is_dir():
            session.store.claim.made(*target.iterdir())


def tell(session: Session, options: FiguresOptions) -> Findings[FiguresFacts]:
    """Where the figures come from."""
    source, _ = _source(session)
    parts = sorted(one.parent.name for one in source.glob(f"*/{ENVIRONMENT}"))
    lines = [f"its parts have figures of their own: run={shown_path(source)}/{one}" for one in parts]
    return Findings([], FiguresFacts(str(source)), lines, f"figures of {source}", said=lines)


def plan(session: Session, options: FiguresOptions) -> Plan:
    """No model is needed."""
    source, _ = _source(session)
    return Plan(0, 0, 0, 0, 10.0, f"nothing: the tables of {source} are enough")


def _source(session: Session) -> tuple[Path, str]:
    """The finished run and its experiment."""
    source = finished_run(session.cfg.run)
    return source, experiment_of(read_json(source / ENVIRONMENT))


EXPERIMENT = Experiment(
    reads="run",
    options=FiguresOptions,
    about=About(
        title="What do a finished run's figures look like?",
        question="Draws every figure of a run again from its tables, without the model.",
        source="both papers",
    ),
    unit=None,
    splits=False,
    needs_data=False,
    needs_model=lambda _: False,
    comparable=False,
    analyse=redraw,
    findings=tell,
    facts=FiguresFacts,
    plan=plan,
)
