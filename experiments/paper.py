"""Both papers on one model: every experiment on shared traces, in one directory, with a report to hand on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import AfterValidator

from experiments.base import runner
from experiments.base.environment import check_same, check_same_data, check_same_model
from experiments.base.experiment import Experiment, experiment, experiments
from experiments.base.options import AtLeastOne, Options, Text, distinct, typed
from experiments.base.plan import Plan
from experiments.base.session import Session
from experiments.base.shared_traces import shared_traces
from interp.errors import PassingError, UserError
from interp.figures.drawing import Drawings, Tables
from interp.figures.explorer.page import explorer
from interp.heads.scores import Head
from interp.model.untrained import UNTRAINED, looks_untrained
from interp.runs.about import About
from interp.runs.directory import ENVIRONMENT, SUMMARY
from interp.runs.findings import Findings
from interp.runs.headlines import Headline, headline_of
from interp.runs.report import Part, Report, report_page
from interp.runs.store import of_part, read_json
from interp.runs.verdicts import Verdict, complete
from interp.stats import Estimate
from interp.text.prompts import Condition

log = logging.getLogger(__name__)

TRACES = "traces.jsonl"
EXPLORER = "explore"
EXPLORED = f"figures/{EXPLORER}.html"
NOT_ASKED = "It is not among experiment.parts."


def parts_of_papers() -> dict[str, Experiment[Any, Any]]:
    """The experiments that a report may have, in the order of the papers."""
    known = {name: record for name, record in experiments().items() if record.in_paper is not None}
    return dict(sorted(known.items(), key=lambda item: item[1].about.source))


def _part(name: str) -> str:
    if name not in (known := parts_of_papers()):
        raise ValueError(f"is not known: use {', '.join(known)}")
    return name


def on_traces(name: str) -> bool:
    """Whether a part measures the traces that all share; the others ask their own questions."""
    in_paper = experiment(name).in_paper
    return in_paper is not None and in_paper.shared_traces


class PaperOptions(Options):
    """conf/experiment/paper.yaml"""

    name: Text
    parts: Annotated[list[Annotated[str, AfterValidator(_part)]], AfterValidator(distinct)]
    questions: AtLeastOne
    traces: AtLeastOne
    pairs: AtLeastOne
    quick: bool
    options: dict[Annotated[str, AfterValidator(_part)], dict[str, Any]]


@dataclass(frozen=True)
class PaperFacts:
    """The parts that were asked for, and why others are missing; the heads that `patching` holds back."""

    parts: list[str]
    missing: dict[str, str]
    reflection_words: list[str] = field(default_factory=list)
    rfhs: list[Head] = field(default_factory=list)


def run_parts(session: Session, options: PaperOptions) -> None:
    """Runs the parts that are not finished yet."""
    parts = []
    for name in _in_order(options):
        directory = session.directory / name
        if name not in options.parts:
            in_paper = experiment(name).in_paper
            parts.append(Part(name, directory, missing=(in_paper and in_paper.unless_asked) or NOT_ASKED))
            continue
        part = _begin(session, options, name, directory)
        try:
            _run_part(session, options, part, name)
            parts.append(Part(name, directory, read_json(directory / SUMMARY)))
        except PassingError:
            raise  # resuming may do: a report without this part would be finished
        except UserError as error:
            log.warning("%s: %s", name, error)
            parts.append(Part(name, directory, missing=str(error)))
    if not any(part.summary for part in parts):
        why = next(part.missing for part in parts if part.name in options.parts)
        raise UserError(f"no part could be run: {why}")
    session.memo["parts"] = parts


def _in_order(options: PaperOptions) -> list[str]:
    """The parts that are asked for, whose traces others measure first, and then those that are not run."""
    asked = sorted(options.parts, key=lambda name: name != "evaluate")
    return list(dict.fromkeys([*asked, *parts_of_papers()]))


def tell(session: Session, options: PaperOptions) -> Findings[PaperFacts]:
    """The headline numbers of all parts."""
    parts: list[Part] = session.memo["parts"]
    missing = {part.name: part.missing for part in parts if part.missing}
    lines = [*_ability(parts), *(f"not run: {name}: {why}" for name, why in missing.items())]
    headlines = [headline for part in parts for headline in _headlines(part)]
    summaries = {part.name: part.summary for part in parts if part.summary}
    words = summaries.get("heads", {}).get("reflection_words", [])
    rfhs = [Head(*one) for one in summaries.get("patching", {}).get("rfhs", [])]
    facts = PaperFacts(options.parts, missing, words, rfhs)
    return Findings(headlines, facts, lines, shown=[], said=lines, verdicts=_verdicts(parts))


def draw(table: Tables, facts: PaperFacts) -> Drawings:
    """The explorer of the shared traces, with what all parts know of them, and of the routes of pairs."""
    done = {name: of_part(table, name) for name in facts.parts if name not in facts.missing}
    yield EXPLORER, partial(explorer, done, facts.reflection_words, facts.rfhs)


def report(session: Session, options: PaperOptions) -> None:
    """The papers' figures in one folder, and report.html."""
    parts: list[Part] = session.memo["parts"]
    _gather_figures(session.directory, parts)
    page = Report(
        f"From reasoning to answer, and the preplan-and-anchor rhythm: {session.model_options.label}",
        parts,
        read_json(session.directory / ENVIRONMENT),
        [*_ability(parts), *_notes(session, options)],
        _verdicts(parts),
        explorer=EXPLORED if (session.directory / EXPLORED).is_file() else None,
    )
    about = {part.name: experiment(part.name).about for part in parts}
    (session.directory / "report.html").write_text(report_page(page, about), encoding="utf-8", errors="replace")


def plan(session: Session, options: PaperOptions) -> Plan:
    """The sum of the parts' own plans, those on shared traces as if each made its own."""
    plans = []
    for name in options.parts:
        part = _session(session, options, name, session.directory / name, own_data=True)
        plans.append(runner.plan(experiment(name), part))
    return Plan(
        max(one.examples for one in plans),
        sum(one.passes for one in plans),
        sum(one.generated_tokens for one in plans),
        max(one.peak_bytes for one in plans),
        sum(one.seconds for one in plans),
        f"the plans of {', '.join(options.parts)}",
    )


def check(session: Session, options: PaperOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    if not options.parts:
        raise UserError(f"experiment.parts must name some of: {', '.join(parts_of_papers())}")
    needy = [name for name in options.parts if on_traces(name)]
    if needy and session.given is None and "evaluate" not in options.parts:
        raise UserError(
            f"{needy[0]} measures the answers of evaluate: add evaluate to experiment.parts, or set data=traces"
        )
    for name, given in options.options.items():
        if given and name not in options.parts:
            raise UserError(f"experiment.options.{name} is of a part that is not run: add {name} to experiment.parts")
    for name in options.parts:
        record, cfg = experiment(name), _config(session, options, name, Path(), own_data=True)
        where = f"experiment.options.{name}"
        theirs = typed(record.options, cfg.experiment, where)
        if options.options.get(name):
            try:
                record.check(_session(session, options, name, Path(), own_data=True), theirs)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error


def _begin(session: Session, options: PaperOptions, name: str, directory: Path) -> Session:
    """A part of the run in its own directory. Raises UserError for files there that this run has not made."""
    file = session.directory / TRACES
    shared = on_traces(name) and session.given is None
    if shared and file.exists() and file.read_bytes() != _shared(session, options):
        raise UserError(f"{file} does not hold the traces of this run's evaluate: move it away to go on")
    part = _session(session, options, name, directory)
    if (directory / ENVIRONMENT).is_file():
        before, cannot = read_json(directory / ENVIRONMENT), f"cannot go on with {directory}"
        check_same(part, before, cannot)
        check_same_data(part, before, cannot)
        if not experiment(name).changes_model and before.get("model") is not None:
            check_same_model(session, before, cannot)
    return part


def _run_part(session: Session, options: PaperOptions, part: Session, name: str) -> None:
    """Nothing to do if the part is finished; its continuation if it was begun."""
    if (part.directory / SUMMARY).is_file():
        return
    log.info("%s: %s", name, experiment(name).about.title)
    file = session.directory / TRACES
    if on_traces(name) and session.given is None and not file.exists():
        unfinished = file.with_suffix(".tmp")
        unfinished.write_bytes(_shared(session, options))
        unfinished.rename(file)
    try:
        if not on_traces(name):  # its own questions; the shared traces are the model's own
            part.input  # noqa: B018 - said, or refused
        runner.run(_without_explorer(experiment(name)), part)
    except UserError:
        if "store" in part.__dict__:
            part.store.discard()
        raise
    finally:
        part.close()


def _without_explorer(record: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """A part as it is run here: the explorer of the whole run knows what its own would, and more."""
    if (draw := record.draw) is None:
        return record
    return replace(record, draw=lambda table, facts: (one for one in draw(table, facts) if one[0] != EXPLORER))


def _session(session: Session, options: PaperOptions, name: str, directory: Path, *, own_data: bool = False) -> Session:
    part = Session(_config(session, options, name, directory, own_data=own_data), directory)
    if not experiment(name).changes_model:
        part.__dict__["lens"] = session.lens
    return part


def _config(
    session: Session, options: PaperOptions, name: str, directory: Path, *, own_data: bool = False
) -> DictConfig:
    """What the command line of a part would give, with this run's model, seed and data."""
    cfg = compose("config", [f"experiment={name}"])
    ours = session.cfg
    with open_dict(cfg):
        for key in ("seed", "model", "grading", "progress", "figures", "threads", "generated", "dry_run"):
            cfg[key] = ours[key]
        cfg.shards = ours.shards if experiment(name).splits else 1
        cfg.generation.backend, cfg.generation.max_new_tokens = ours.generation.backend, ours.generation.max_new_tokens
        if name == "evaluate":
            cfg.generation = ours.generation
        if name == "evaluate" or (session.given is not None and on_traces(name)):
            cfg.data = ours.data
            cfg.data.limit = options.questions if name == "evaluate" else options.traces
        elif on_traces(name) and own_data:
            cfg.data, cfg.data.limit = ours.data, options.traces
        elif on_traces(name):
            cfg.data = compose("config", ["data=traces"]).data
            cfg.data.path, cfg.data.limit = str(session.directory / TRACES), options.traces
        if (directory / ENVIRONMENT).is_file():
            cfg.resume = str(directory)
        if name == "patching" and (heads := _ranked_before(session, options)):
            cfg.experiment.rfhs = heads
        if name == "patching":
            cfg.data.limit = options.pairs
        if (in_paper := experiment(name).in_paper) is not None:
            cfg.experiment.merge_with(in_paper.options, in_paper.quick if options.quick else {})
        cfg.experiment.merge_with(options.options.get(name, {}))
    OmegaConf.set_struct(cfg, True)
    return cfg


def _ranked_before(session: Session, options: PaperOptions) -> list[list[int]] | None:
    """The RFHs of the part that ranks heads, if it comes before patching: a report has one ranking. (`ablate` ranks on
    other traces than it cuts, and so has its own two.)"""
    asked, own = options.parts, options.options.get("patching", {})
    file = session.directory / "heads" / SUMMARY
    before = {"heads", "patching"} <= set(asked) and asked.index("heads") < asked.index("patching")
    before = before and not {"top_k", "score"} & set(own)
    if not before or not file.is_file():
        return None
    heads: list[list[int]] = read_json(file)["top_heads"]
    return heads


def _shared(session: Session, options: PaperOptions) -> bytes:
    """The content of traces.jsonl."""
    directory = session.directory / "evaluate"
    return shared_traces(_session(session, options, "evaluate", directory, own_data=True)).encode()


def _gather_figures(directory: Path, parts: list[Part]) -> None:
    """Copies the papers' figures and tables, named as in every other run: `a_fig3_...` is Paper A, Fig. 3."""
    target = directory / "figures"
    target.mkdir(exist_ok=True)
    for part in parts:
        for file in sorted((part.directory / "figures").glob("[ab]_*")):
            shutil.copyfile(file, target / file.name)


def _headlines(part: Part) -> Iterator[Headline]:
    """A part's headline numbers, with its name before them."""
    for row in (part.summary or {}).get("headlines", []):
        found = headline_of(row)
        yield replace(found, name=f"{part.name}: {found.name}")


def _verdicts(parts: Sequence[Part]) -> list[Verdict]:
    """One for every claim: those of parts that were not run are not tested here."""
    found = [Verdict.from_json(row) for part in parts if part.summary for row in part.summary["verdicts"]]
    return complete(found, {part.name: part.missing.rstrip(".") for part in parts if part.missing})


LITTLE = 0.2
"""A model that surely gets fewer of its questions right cannot do the task."""


def _ability(parts: Sequence[Part]) -> list[str]:
    """Whether the model can do what it is asked: if not, what it does with text is no solving of problems."""
    summary = next((part.summary for part in parts if part.name == "evaluate" and part.summary), None)
    wanted = f"all questions, accuracy, {Condition.WITH_REASONING.replace('_', ' ')}"
    found = [one for one in (summary or {}).get("headlines", []) if one["name"] == wanted]
    if not found or found[0]["value"] is None:
        return []
    accuracy = Estimate.of(found[0])
    ends = "" if accuracy.low is None else f" [{accuracy.low:.2f}, {accuracy.high:.2f}]"
    said = f"With reasoning {accuracy.value:.2f}{ends} of its answers are right (n = {accuracy.n})"
    if (accuracy.value if accuracy.high is None else accuracy.high) < LITTLE:
        return [
            f"The model cannot do this task. {said}: the verdicts are on how it treats text, not on how it reasons."
        ]
    return [f"{said}."]


def _notes(session: Session, options: PaperOptions) -> list[str]:
    data = session.data_options.name
    said = [*(session.input.warnings if session.input else ())]
    if session.model_options.untrained is not None or looks_untrained(session.lens.hf):
        said.insert(0, f"{UNTRAINED[0].upper()}{UNTRAINED[1:]}.")
    if not session.cfg.figures:
        said.append("No figures were drawn: the run was made with figures=false.")
    shared = f"{options.questions} questions of {data} are answered with and without reasoning"
    if session.given is not None:
        return [
            f"The traces are those of {session.data_options.path}; up to {options.traces} are measured. They were "
            "given, so that the verdicts say what the model does as it reads them, not that it would write them.",
            *said,
        ]
    sampling = asdict(session.generation)
    return [
        f"{shared} at T = {sampling['temperature']:g}; the first {options.traces} finished traces with reasoning are "
        "what the parts on heads, rhythm, ablation, forced tokens and changed reasoning measure.",
        *said,
    ]


EXPERIMENT = Experiment(
    options=PaperOptions,
    about=About(
        title="What do both papers say of this model?",
        question="All experiments on shared traces in one directory, with a report to hand on.",
        source="both papers",
    ),
    unit=None,
    check=check,
    analyse=run_parts,
    findings=tell,
    facts=PaperFacts,
    draw=draw,
    plan=plan,
    report=report,
    smallest=(
        "experiment.parts=[evaluate,heads]",
        "experiment.questions=4",
        "experiment.traces=2",
        *(f"+experiment.options.heads.{o}" for o in ("random_sets=3", "resamples=20", "induction_prompts=1", "maps=1")),
        "+experiment.options.heads.haystack.lengths=[]",
    ),
)
