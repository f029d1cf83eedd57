"""What an experiment is: one record, found by the name of its file in conf/experiment/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from experiments.base.arguments import choices, searched_directories
from experiments.base.options import Options
from experiments.base.plan import Plan
from experiments.base.session import Session
from experiments.base.share import Batches
from interp.errors import UserError, nearest
from interp.figures.drawing import Drawings, Tables
from interp.runs.about import About
from interp.runs.compared import Asked, Run, RunsCompared
from interp.runs.findings import Findings

O = TypeVar("O", bound=Options)  # noqa: E741 - options
F = TypeVar("F")
Rows = dict[str, list[dict[str, Any]]]
"""Rows by the name of their table."""

EXTRAS = {"trl": "rl"}
"""Packages that some experiments need, and the extra that installs them."""


@dataclass(frozen=True)
class Example:
    """One example of the data: what is measured, or the reason why it is not. `tables` are known either way."""

    index: int
    name: str
    subject: Any = None
    """A trace or a contrast pair, say; None where there is none to measure."""
    reason: str | None = None
    tables: Rows = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """What measuring an example may end in instead of its rows: why there are none, and what is known of it even so."""

    reason: str
    tables: Rows = field(default_factory=dict)


@dataclass(frozen=True)
class InPaper:
    """How the report on both papers runs an experiment."""

    shared_traces: bool = False
    """It measures the traces that all parts share; else it asks its own questions."""
    unless_asked: str | None = None
    """Why it is not run unless `experiment.parts` names it; None = it may well be."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of it that differ there from its own defaults."""
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Options of it with `experiment.quick=true`: what its claims need and no more."""


@dataclass(frozen=True)
class Experiment(Generic[O, F]):
    """One experiment: all that the suite knows of it. `run` in runner.py does what all have in common."""

    options: type[O]
    """Its options with types and ranges; defaults and comments stand in its YAML file."""
    about: About
    """Its question and what was published, in the report's words."""
    findings: Callable[[Session, O], Findings[F]]
    """Headline numbers, lines for the screen and facts for the figures, out of the run's tables."""
    facts: type[F]
    plan: Callable[[Session, O], Plan]
    """Runs a small part and scales it up, for dry_run=true."""
    check: Callable[[Session, O], object] = lambda *_: None
    """Says everything that can be wrong and depends on the model or the data, before weights are loaded."""
    prepare: Callable[[Session, O], None] = lambda *_: None
    """What must be known before the first example is measured, kept by `write_closing` and guarded by `has_closing`."""
    batches: Callable[[Session, O], Batches] = lambda session, _: session.batches
    """How many examples there are and how many are made together: what can be split over workers."""
    splits: bool = True
    """Its examples, or those of its parts, can be split over workers (`shards`)."""
    examples: Callable[[Session, O], Iterable[Example]] = lambda *_: ()
    """The examples that are not in the store yet, in the order of the data."""
    measure: Callable[[Session, O, Example], Rows | LeftOut] = lambda *_: {}
    """The rows of one example that has a subject."""
    analyse: Callable[[Session, O], None] = lambda *_: None
    """Steps over all examples, each kept by `write_closing` and guarded by `has_closing`; those that do not need one
    another by `run_steps`, which splits them over workers."""
    draw: Callable[[Tables, F], Drawings] | None = None
    """The figures, out of the tables and the facts alone."""
    report: Callable[[Session, O], None] = lambda *_: None
    """Writes a page on the whole run, once tables and figures are there."""
    tidy: Callable[[Session, O], None] = lambda *_: None
    """What is removed of the run's own folders once it is finished."""
    unit: str | None = "trace"
    """What an example is called: a run without one that was measured is an error. None = it has no examples."""
    reads: str | None = None
    """Which option names the finished runs that it reads: `run` or `runs`."""
    needs_data: bool = True
    """It measures the data that `data=` names."""
    needs_model: Callable[[Session], bool] = lambda _: True
    """It measures the weights that `model=` names: environment.json says which they were."""
    changes_model: bool = False
    """It trains the model, so it loads one of its own."""
    in_paper: InPaper | None = None
    comparable: bool = True
    """Its runs can be set side by side by their headline numbers."""
    compare: Callable[[Sequence[Run], Asked], RunsCompared] | None = None
    """What else runs of it are compared by."""
    has_published: bool = False
    """Whether `compare` knows published numbers in a file."""
    has_arms: bool = False
    """Whether its runs are arms of a study, one of which may be named as the reference."""
    draw_compared: Callable[[Tables, Mapping[str, Tables], str], Drawings] | None = None
    """Figures of such a comparison, out of its tables, those of the runs by label, and what it is about."""
    smallest: Sequence[str] = ()
    """Overrides that make a run as small as it can be: for a first look, and for tests."""

    def drawings(self, tables: Tables, summary: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
        """The figures of a run whose summary.json has this content. Raises UserError where there are none to draw."""
        if self.draw is None:
            raise UserError("this experiment has no figures of its own")
        yield from self.draw(tables, TypeAdapter(self.facts).validate_python(summary))


def experiment(name: str) -> Experiment[Any, Any]:
    """An experiment's record. Raises UserError if there is none of this name, or a package that it needs is missing."""
    try:
        record: Experiment[Any, Any] = import_module(f"experiments.{name}").EXPERIMENT
    except ModuleNotFoundError as error:
        if f"experiments.{name}".startswith(error.name or "-"):  # of 0.5 the package experiments.0 is missing
            known = choices("experiment", searched_directories())
            raise UserError(f"experiment.name={name} is not an experiment; {nearest(str(name), known)}") from error
        if error.name not in EXTRAS:
            raise
        install = f"pip install 'anchorlens[{EXTRAS[error.name]}]'"
        raise UserError(f"{name} needs the package {error.name}: run `{install}`") from error
    return record


def experiments() -> dict[str, Experiment[Any, Any]]:
    """All experiments that have a file in a configuration directory and can be imported here, by name."""
    found = {}
    for name in choices("experiment", searched_directories()):
        try:
            found[name] = experiment(name)
        except UserError:  # a package that it needs is missing
            continue
    return found
