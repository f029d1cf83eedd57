"""Draws every figure of a finished run again from its tables, without the model."""

from __future__ import annotations

import logging
from pathlib import Path

from experiments.base.options import Options, Text
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.errors import UserError
from interp.figures.redraw import redraw
from interp.runs.directory import ENVIRONMENT, SUMMARY
from interp.runs.headlines import Findings
from interp.runs.store import read_json, tables_of

log = logging.getLogger(__name__)


class FiguresOptions(Options):
    """conf/experiment/figures.yaml"""

    name: Text


OPTIONS = FiguresOptions


def run(session: Session) -> Findings:
    """Writes the figures into this run's own directory: the run that they come from is not touched."""
    source, experiment = _source(session)
    log.info("drawing %s", source)
    facts = read_json(source / SUMMARY)
    session.describe_environment(with_model=False)
    target = session.directory / "figures"
    session.store.claim.made(target)
    try:
        redraw(experiment, tables_of(source), facts, target)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot draw the figures of {source}: {type(error).__name__}: {error}") from error
    finally:
        if target.is_dir():
            session.store.claim.made(*target.iterdir())
    session.store.finish({**facts, "drawn_from": str(source)})
    return Findings([], title=f"figures of {source}")


def plan(session: Session) -> Plan:
    """No model is needed."""
    source, _ = _source(session)
    return Plan(0, 0, 0, 0, 10.0, f"nothing: the tables of {source} are enough")


def _source(session: Session) -> tuple[Path, str]:
    """The finished run and its experiment."""
    if session.cfg.run is None:
        raise UserError("set run=DIR to the directory of a finished run")
    source = Path(session.cfg.run)
    if not (source / ENVIRONMENT).is_file():
        raise UserError(f"there is no run in {source}: it has no {ENVIRONMENT}")
    tables_of(source)
    return source, str(read_json(source / ENVIRONMENT)["options"]["experiment"]["name"])
