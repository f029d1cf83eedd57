"""What every experiment does: check, describe the environment, measure example by example, analyse, tell, draw."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from experiments.base.crews import require_launcher
from experiments.base.environment import describe_environment
from experiments.base.experiment import Experiment, LeftOut, O, Rows
from experiments.base.plan import Plan
from experiments.base.session import Session, warned
from experiments.base.shards import gather_examples, gather_left
from experiments.base.share import EXAMPLES, ShareDone
from experiments.base.tracking import track
from interp.errors import UserError, on_command_line
from interp.figures.drawing import save_all
from interp.runs.directory import shown_path
from interp.runs.findings import Findings, reasons, summary
from interp.runs.store import written_tables

log = logging.getLogger(__name__)


def run(experiment: Experiment[Any, Any], session: Session) -> Findings[Any]:
    """Runs an experiment, or goes on with it: what the store has is not measured again.

    The tables are finished before anything is drawn; what cannot be drawn is a warning. The summary is written last.
    """
    options = session.options_of(experiment.options)
    experiment.check(session, options)
    if session.run_options.shards > 1:
        require_launcher()
    store = session.store
    describe_environment(session, experiment.needs_model(session))
    gather_left(session)
    experiment.prepare(session, options)
    if experiment.unit is not None and gather_examples(session, experiment.batches(session, options)):
        experiment.prepare(session, options)  # looks again at what is left to do
    _measure(experiment, session, options)
    if experiment.unit is not None and store.n_measured == 0:
        raise UserError(f"no {experiment.unit} was measured: {reasons(store.skipped())}")
    experiment.analyse(session, options)
    findings = experiment.findings(session, options)
    content = summary(findings, store.skipped())

    def draw() -> None:
        if session.run_options.figures:
            draw_all(experiment, session, content)
        with warned("draw the report"):
            experiment.report(session, options)

    store.finish(content, draw)
    if session.run_options.track is not None:
        with warned(f"send the run to {session.run_options.track}"):
            chosen = store.environment()["options"]
            track(session.run_options.track, session.run_options.project, session.directory, chosen, content)
    experiment.tidy(session, options)
    return findings


def work(experiment: Experiment[Any, Any], session: Session) -> None:
    """A worker's share of one stage of a run: `session.store` also reads what the run has done before."""
    options, share = session.options_of(experiment.options), session.share
    assert share is not None
    if share.stage == EXAMPLES:
        experiment.prepare(session, options)
        _measure(experiment, session, options)
        return
    with suppress(ShareDone):
        experiment.analyse(session, options)
        raise AssertionError(f"there is no stage {share.stage!r}")


def _measure(experiment: Experiment[O, Any], session: Session, options: O) -> None:
    """Example by example, each kept at once."""
    store = session.store
    for example in experiment.examples(session, options):
        found: Rows | LeftOut = LeftOut(example.reason or "")
        if example.subject is not None:
            found = experiment.measure(session, options, example)
        if isinstance(found, LeftOut):
            tables = {**found.tables, **example.tables}
            store.skip(example.index, example.name, found.reason, example.subject is not None, **tables)
        else:
            store.write(example.index, example.name, **{**found, **example.tables})


def draw_all(experiment: Experiment[Any, Any], session: Session, content: dict[str, Any]) -> None:
    """Draws a run's figures from its tables and the content of its summary, where it has any."""
    again = f"; try again by experiment=figures {on_command_line('run', shown_path(session.directory))}"
    if experiment.draw is None:
        return
    with warned("draw all figures", again):
        drawings = experiment.drawings(written_tables(session.directory), content)
        save_all(drawings, session.directory / "figures", lambda name, error: _warn(name, error, again))


def _warn(name: str, error: Exception, again: str) -> None:
    with warned(f"draw the figure {name}", again):
        raise error


def plan(experiment: Experiment[Any, Any], session: Session) -> Plan:
    """What a run would cost."""
    options = session.options_of(experiment.options)
    experiment.check(session, options)
    return experiment.plan(session, options)
