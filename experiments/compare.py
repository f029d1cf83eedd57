"""Finished runs side by side: joint tables and figures of what compares, and a clear refusal of what does not."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import ListConfig

from experiments.base.experiment import Experiment, experiment, experiments
from experiments.base.options import Options, Text, one_of
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.errors import UserError
from interp.figures.compare import along_layers, side_by_side
from interp.figures.drawing import Drawings, Tables
from interp.heads.ranking import HeadKind
from interp.heads.scores import HeadScore
from interp.runs.about import About
from interp.runs.claims_compared import brief_claim_lines, claim_lines, claim_rows, claim_table
from interp.runs.compared import (
    Asked,
    Run,
    RunsCompared,
    labels,
    number_rows,
    series,
    unlike,
)
from interp.runs.directory import ENVIRONMENT, SUMMARY
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.store import read_json, tables_of
from interp.stats import Estimate

log = logging.getLogger(__name__)
LINES = 4
"""Lines of the experiment's own comparison on the screen, above the claims."""


class CompareOptions(Options):
    """conf/experiment/compare.yaml"""

    name: Text
    kind: Annotated[str, one_of([*HeadScore, *HeadKind])]
    published: Text | None
    reference: Text | None


@dataclass(frozen=True)
class CompareFacts:
    """What was compared."""

    compared: str
    """The experiment of all runs."""
    runs: dict[str, str]
    """The directory of each run by its label."""
    subject: str
    by_run: bool


def gather(session: Session, options: CompareOptions) -> None:
    """Gathers the runs, and compares them as their experiment says."""
    runs = _runs(session, 1 if options.published else 2)
    log.info("comparing %s", ", ".join(str(one.directory) for one in runs))
    numbers, record = number_rows(runs), experiment(runs[0].experiment)
    if options.published and not record.has_published:
        raise UserError(f"experiment.published names masses of heads: these are runs of {runs[0].experiment}")
    if options.reference and not record.has_arms:
        raise UserError(f"experiment.reference names an arm of trainings: these are runs of {runs[0].experiment}")
    asked = Asked(options.kind, options.published, options.reference)
    compared = record.compare(runs, asked) if record.compare else RunsCompared({}, _side_by_side(numbers, len(runs)))
    claims, differences = claim_rows(runs, compared.published), unlike(runs)
    said = [*differences, *compared.lines[:LINES], *brief_claim_lines(claims)]
    compared = replace(compared, lines=[*differences, *compared.lines, *claim_lines(claims)])
    if session.store.has_closing("compared"):
        _check_same(session, pd.DataFrame(numbers))
    else:
        session.store.write_closing("compared", numbers=numbers, claims=claims, **compared.tables)
    session.memo["compared"] = runs, compared, said


def _check_same(session: Session, now: pd.DataFrame) -> None:
    """Raises UserError where the runs that match now have other numbers than those that were compared before."""
    before, columns = session.store.table("numbers"), ["run", "name", "value", "n"]
    if not before[columns].equals(now[columns].astype(before[columns].dtypes)):
        raise UserError(f"cannot resume {session.directory}: other runs match runs={session.cfg.runs} now")


def tell(session: Session, options: CompareOptions) -> Findings[CompareFacts]:
    """What comparing found."""
    runs, compared, said = session.memo["compared"]
    directories = {one.label: str(one.directory) for one in runs}
    facts = CompareFacts(runs[0].experiment, directories, compared.subject, compared.by_run)
    about = f": {compared.subject}" if compared.subject else ""
    return Findings(
        compared.headlines,
        facts,
        compared.lines,
        f"{len(runs)} runs of {runs[0].experiment}{about}",
        said=said,
        verdicts=compared.verdicts,
    )


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


def plan(session: Session, options: CompareOptions) -> Plan:
    """No model is needed."""
    n_runs = len(_runs(session, 1 if options.published else 2))
    return Plan(0, 0, 0, 0, 10.0, f"nothing: the tables of {n_runs} runs are enough")


def _runs(session: Session, at_least: int) -> list[Run]:
    """The finished runs that `runs` names, all of one experiment."""
    asked = session.cfg.runs
    if asked is None:
        raise UserError(f"set runs=GLOB or runs=[DIR,DIR,...] to finished runs of one of: {_comparable()}")
    patterns = [str(one) for one in asked] if isinstance(asked, ListConfig) else [str(asked)]
    fitting = _fitting(_matched(patterns))
    if len(fitting) < at_least:
        needed = "two are" if at_least == 2 else "one is"
        raise UserError(f"runs={asked} names {len(fitting)} runs that compare: at least {needed} needed")
    directories = list(fitting)
    options = list(fitting.values())
    names = [one["experiment"]["name"] for one in options]
    return [
        Run(directory, name, label, line, one, tables_of(directory))
        for directory, name, label, line, one in zip(
            directories, names, labels(options), series(options), options, strict=True
        )
    ]


def _matched(patterns: Sequence[str]) -> dict[Path, str]:
    """The directories of runs that the patterns match, each once however it is spelt, with its pattern.

    One that is named and is no run is an error, and so is a pattern that matches none.
    """
    matched: dict[Path, str] = {}
    for pattern in patterns:
        found = [Path(pattern)] if _is_name(pattern) else [Path(one) for one in sorted(glob.glob(pattern))]  # noqa: PTH207 - may be absolute
        runs = [one for one in found if (one / ENVIRONMENT).is_file()]
        if not runs:
            what = f"there is no run in {pattern}: it has no {ENVIRONMENT}"
            raise UserError(what if _is_name(pattern) else f"no run matches runs={pattern}: name finished runs")
        for one in runs:
            same = next((other for other in matched if other.resolve() == one.resolve()), None)
            if same is None:
                matched[one] = pattern
            else:
                log.warning("%s is named twice, as %s: it is compared once", one, same)
    return matched


def _is_name(pattern: str) -> bool:
    """Whether it names one directory: names may hold brackets too."""
    return not glob.has_magic(pattern) or Path(pattern).is_dir()


def _fitting(matched: Mapping[Path, str]) -> dict[Path, dict[str, Any]]:
    """The options of the runs that compare, by directory: finished ones of the experiment that comes first.

    A pattern may match others, which are left out, and said so; a run that is named and does not fit is an error.
    """
    fitting: dict[Path, dict[str, Any]] = {}
    for directory, pattern in matched.items():
        options = read_json(directory / ENVIRONMENT)["options"]
        name = options["experiment"]["name"]
        first = next(iter(fitting.values()))["experiment"]["name"] if fitting else name
        complaint = None
        if not experiment(name).comparable:
            complaint = f"{directory} is a run of {name}: only runs of {_comparable()} compare"
        elif name != first:
            complaint = f"{directory} is a run of {name} and {next(iter(fitting))} one of {first}: compare them apart"
        elif not (directory / SUMMARY).is_file():
            complaint = f"{directory} holds no finished run: it has no {SUMMARY}"
        if complaint is None:
            fitting[directory] = options
        elif not _is_name(pattern):
            log.warning("left out: %s", complaint)
        else:
            raise UserError(complaint)
    return fitting


def _comparable() -> str:
    return ", ".join(name for name, record in experiments().items() if record.comparable)


def draw(table: Tables, facts: CompareFacts) -> Drawings:
    """The runs' headline numbers side by side and along layers, and what their experiment draws of them."""
    if facts.by_run:
        for i, page in enumerate(side_by_side(table("numbers"))):
            yield f"compare_numbers_{i}", partial(_itself, page)
        for i, page in enumerate(along_layers(table("numbers"))):
            yield f"compare_layers_{i}", partial(_itself, page)
    if not table("claims").empty:
        yield "claims", partial(claim_table, table("claims"))
    further = experiment(facts.compared).draw_compared
    if further is not None:
        runs = {label: tables_of(Path(directory)) for label, directory in facts.runs.items()}
        yield from further(table, runs, facts.subject)


def _itself(page: Figure) -> Figure:
    return page


EXPERIMENT = Experiment(
    reads="runs",
    options=CompareOptions,
    about=About(
        title="What do runs have in common?",
        question="Finished runs of one experiment side by side: models, data sets, layers, seeds or arms of a study.",
        source="both papers",
    ),
    unit=None,
    splits=False,
    needs_data=False,
    needs_model=lambda _: False,
    comparable=False,
    analyse=gather,
    findings=tell,
    facts=CompareFacts,
    draw=draw,
    plan=plan,
)
