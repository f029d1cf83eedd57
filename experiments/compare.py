"""Finished runs side by side: joint tables and figures of what compares, and a clear refusal of what does not."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from omegaconf import ListConfig

from experiments.base.options import Options, Text, one_of, typed
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.credit import compare as compare_credit
from interp.errors import UserError
from interp.heads import compare as compare_heads
from interp.heads.ranking import HeadKind
from interp.heads.scores import HeadScore
from interp.runs.compared import Run, RunsCompared, labels, number_rows, series
from interp.runs.directory import ENVIRONMENT
from interp.runs.headlines import Findings, Headline, summary
from interp.runs.store import read_json, tables_of
from interp.stats import Estimate

log = logging.getLogger(__name__)

GENERAL = ("evaluate", "patching", "rhythm", "ablate", "perturb", "key_tokens", "paper")
"""Experiments whose runs are compared by their headline numbers alone."""
COMPARE: dict[str, Callable[[list[Run], str], RunsCompared]] = {
    "heads": compare_heads.compare,
    "credit": compare_credit.compare,
}
"""What else runs of an experiment are compared by."""


class CompareOptions(Options):
    """conf/experiment/compare.yaml"""

    name: Text
    kind: Annotated[str, one_of([*HeadScore, *HeadKind])]


OPTIONS = CompareOptions


def run(session: Session) -> Findings:
    """Gathers the runs, compares them as their experiment says, and draws."""
    options = typed(CompareOptions, session.cfg.experiment, "experiment")
    runs = _runs(session)
    log.info("comparing %s", ", ".join(str(one.directory) for one in runs))
    numbers = number_rows(runs)
    further = COMPARE.get(runs[0].experiment)
    compared = further(runs, options.kind) if further else RunsCompared({}, _side_by_side(numbers, len(runs)))
    session.describe_environment(with_model=False)
    store = session.store
    store.write_closing("compared", numbers=numbers, **compared.tables)
    facts = summary(
        compared.headlines,
        compared=runs[0].experiment,
        runs={one.label: str(one.directory) for one in runs},
        **compared.facts,
    )
    session.finish(facts)
    return Findings(compared.headlines, compared.lines, f"{len(runs)} runs of {runs[0].experiment}{compared.title}")


def _side_by_side(rows: list[dict[str, Any]], n_runs: int) -> list[Headline]:
    """Every headline number that all runs have, run by run."""
    counts = Counter(row["name"] for row in rows)
    return [
        Headline(f"{row['name']}: {row['run']}", Estimate.of(row))
        for name in counts
        if counts[name] == n_runs
        for row in rows
        if row["name"] == name and row["value"] is not None
    ]


def plan(session: Session) -> Plan:
    """No model is needed."""
    return Plan(0, 0, 0, 0, 10.0, f"nothing: the tables of {len(_runs(session))} runs are enough")


def _runs(session: Session) -> list[Run]:
    """The finished runs that `runs` names, all of one experiment."""
    asked = session.cfg.runs
    if asked is None:
        raise UserError(
            f"set runs=GLOB or runs=[DIR,DIR,...] to finished runs of one of: {', '.join((*COMPARE, *GENERAL))}"
        )
    patterns = list(asked) if isinstance(asked, ListConfig) else [str(asked)]
    directories = [Path(found) for pattern in patterns for found in sorted(glob.glob(str(pattern)))]  # noqa: PTH207 - may be absolute
    directories = list(dict.fromkeys(d for d in directories if (d / ENVIRONMENT).is_file()))
    if len(directories) < 2:
        raise UserError(f"runs={asked} names {len(directories)} runs: at least two are needed")
    options = [read_json(directory / ENVIRONMENT)["options"] for directory in directories]
    names = [one["experiment"]["name"] for one in options]
    for directory, name in zip(directories, names, strict=True):
        if name not in COMPARE and name not in GENERAL:
            raise UserError(f"{directory} is a run of {name}: only runs of {', '.join((*COMPARE, *GENERAL))} compare")
        if name != names[0]:
            raise UserError(
                f"{directory} is a run of {name} and {directories[0]} one of {names[0]}: compare them apart"
            )
    return [
        Run(directory, name, label, line, one, tables_of(directory))
        for directory, name, label, line, one in zip(
            directories, names, labels(options), series(options), options, strict=True
        )
    ]
