"""Do the heads matter that look at the reasoning? Ablation and attention knockout with matched controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from experiments.base.collect import Needs, examples, traces
from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.options import AtLeastOne, Count, Lax, Layers, OneTraceScore, Options, Text, distinct, one_of
from experiments.base.plan import Plan, measured
from experiments.base.probing import HaystackOptions, needles_for, probe_steps
from experiments.base.sample import CLOSING_SECONDS
from experiments.base.session import Session
from experiments.base.steps import run_steps
from interp.ablation.design import CUT, RFH, Design, Step, kept_lists
from interp.ablation.effects import Labels, Subjects, answer_position
from interp.ablation.findings import AblateFacts, findings
from interp.ablation.interventions import Ablation, AblationKind, Reference, record_reference
from interp.ablation.interventions import Rows as CutRows
from interp.ablation.lists import list_by_half, lists_that_were_cut
from interp.errors import UserError
from interp.figures import ablation as figures
from interp.figures.drawing import Drawings, Tables
from interp.heads.measure import HeadMeasures, measure_heads
from interp.heads.ranking import HeadKind, best_heads, mean_over_examples, samples_by_kind
from interp.heads.scores import Head, rank_heads
from interp.model.generate import by_room
from interp.model.layers import in_layers, layer_set
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.store import records
from interp.text.trace import Segment, Trace

GREEDY = "greedy"
"""Heads taken one by one such that those so far, cut together, hurt most."""
LISTS = (RFH, *HeadKind, GREEDY)
MOST_ALONE = 64
"""Up to so many heads are cut one by one, and searched greedily, unless told otherwise."""
MOST_GREEDY = 5
MIN_HALVES = 4
"""With fewer traces heads are ranked on the traces that they are cut on."""
NO_ANSWER = "its answer gives nothing to look at"


class SetsLike(StrEnum):
    """What random sets of heads have in common with the list that they stand beside."""

    LAYERS = "layers"
    MASS = "mass"


class AblateOptions(Options):
    """conf/experiment/ablate.yaml"""

    name: Text
    score: OneTraceScore
    layers: Layers
    doses: Annotated[list[AtLeastOne], AfterValidator(distinct)]
    lists: Annotated[list[Annotated[str, one_of(LISTS)]], AfterValidator(distinct)]
    halves: bool
    random_sets: Count
    sets: Annotated[SetsLike, Lax]
    kinds: Annotated[list[Annotated[AblationKind, Lax]], Field(min_length=1), AfterValidator(distinct)]
    rows: Annotated[list[Annotated[CutRows, Lax]], Field(min_length=1), AfterValidator(distinct)]
    each_head: bool | None
    knockouts: Annotated[list[Annotated[str, one_of(CUT)]], AfterValidator(distinct)]
    renormalise: Annotated[list[bool], Field(min_length=1), AfterValidator(distinct)]
    window: Count | None
    write: bool
    max_answer_tokens: AtLeastOne
    batch: AtLeastOne
    reference_samples: AtLeastOne
    induction_prompts: Count
    haystack: HaystackOptions

    @model_validator(mode="after")
    def _something_to_cut(self) -> AblateOptions:
        if not self.knockouts and self.each_head is False and not (self.doses and self.lists):
            raise UserError("nothing would be cut: set experiment.doses and experiment.lists, or experiment.knockouts")
        return self

    @model_validator(mode="after")
    def _lists_are_measured(self) -> AblateOptions:
        measured_by = {
            HeadKind.INDUCTION: ("experiment.induction_prompts", self.induction_prompts),
            HeadKind.RETRIEVAL: ("experiment.haystack.lengths", self.haystack.lengths),
        }
        for kind, (option, value) in measured_by.items():
            if kind in self.lists and not value:
                raise UserError(f"experiment.lists has {kind}, which {option} leaves out: set {option}, or other lists")
        return self


def measure(session: Session, options: AblateOptions, example: Example) -> Rows | LeftOut:
    """The scores of every head on one trace, for the ranking."""
    if answer_position(example.subject) is None:
        return LeftOut(NO_ANSWER)
    return {"heads": measure_heads(session.lens, example.subject, HeadMeasures((), 0), session.seed)}


def cut(session: Session, options: AblateOptions) -> None:
    """Ranks the heads on one half of the traces and cuts them on the other, both ways round, batch by batch."""
    run_steps(session, "probes", probe_steps(session, options.induction_prompts, options.haystack))
    traces = _answered(session)
    reference = record_reference(session.lens, traces, options.reference_samples, session.seed)
    halves = _halves(options, traces)
    lists = _kept_lists(session, options, halves, reference)
    todo = [list(design(session, options).steps(lists, half)) for half in range(len(lists))]
    total = sum(len(steps) * -(-len(part) // options.batch) for steps, (part, _) in zip(todo, halves, strict=True))
    steps = [
        (
            f"b-{half}-{first:06d}",
            partial(_cut, session, options, subset[first : first + options.batch], first, of_half, reference),
        )
        for half, ((subset, _), of_half) in enumerate(zip(halves, todo, strict=True))
        for first in range(0, len(subset), options.batch)
    ]
    run_steps(session, "interventions", steps, ticks=total)


def _answered(session: Session) -> list[Trace]:
    """The traces that are cut: those that were left out are in the table as well."""
    traces = [Trace.from_row(row) for row in records(session.store.table("traces"))]
    return [trace for trace in traces if answer_position(trace) is not None]


def _halves(options: AblateOptions, traces: Sequence[Trace]) -> list[tuple[list[Trace], list[Trace]]]:
    """(cut on, ranked on): every other trace and the rest, and the other way round."""
    if not options.halves or len(traces) < MIN_HALVES:
        return [(list(traces), list(traces))]
    even, odd = list(traces[0::2]), list(traces[1::2])
    return [(even, odd), (odd, even)]


def _kept_lists(
    session: Session, options: AblateOptions, halves: Sequence[tuple[list[Trace], list[Trace]]], reference: Reference
) -> list[dict[str, list[Head]]]:
    """The lists of each half, ranked once: a run that goes on cuts the same heads."""
    store = session.store
    if not store.has_closing("a-lists"):
        ranked = [_lists(session, options, ranked_on, reference) for _, ranked_on in halves]
        plan_of = design(session, options)
        rows = [row for half, lists in enumerate(ranked) for row in plan_of.list_rows(lists, half)]
        store.write_closing("a-lists", cut_lists=rows)
    return [kept_lists(store.table("cut_lists"), half) for half in range(len(halves))]


def _lists(
    session: Session, options: AblateOptions, ranked_on: Sequence[Trace], reference: Reference | None = None
) -> dict[str, list[Head]]:
    """Heads of each kind, best first, without those below the kind's floor; greedy ones need the reference."""
    store = session.store
    layers = layer_set(options.layers, session.lens.n_layers)
    heads = store.table("heads")
    heads = heads[heads["example"].isin([trace.example for trace in ranked_on])]
    samples = samples_by_kind(heads, store.table("probes"), layers)
    # More than half of the heads is no list of special ones, and no random set would differ from it.
    n_heads = len(layers) * session.lens.n_heads
    most = min(max(options.doses, default=1), n_heads // 2)
    found = {}
    for name in options.lists:
        kind = options.score if name == RFH else name
        if kind in samples:
            found[name] = best_heads(mean_over_examples(samples[kind]), most, kind)
    if GREEDY in options.lists and reference is not None and options.score in samples:
        first = rank_heads(mean_over_examples(samples[options.score]), min(MOST_ALONE, n_heads))
        found[GREEDY] = _greedy(session, options, ranked_on, first, min(most, MOST_GREEDY), reference)
    return found


def _greedy(
    session: Session,
    options: AblateOptions,
    traces: Sequence[Trace],
    candidates: Sequence[Head],
    n: int,
    reference: Reference,
) -> list[Head]:
    """Heads that stand in for one another show little alone: each is added to those before it where it hurts most."""
    part = list(traces[: options.batch])
    subjects = Subjects(session.lens, part, [None] * len(part), options.max_answer_tokens)
    kind, chosen = options.kinds[0], list[Head]()
    for _ in range(n):
        harm = {}
        for head in (head for head in candidates if head not in chosen):
            step = (Ablation(frozenset([*chosen, head]), kind, CutRows.ANSWER),)
            rows = subjects.teacher_forced(step, Labels("greedy"), reference, session.seed)
            harm[head] = np.mean([row["value"] for row in rows if row["metric"] == "ld"])
        chosen.append(min(harm, key=lambda head: (harm[head], head)))
    return chosen


def design(session: Session, options: AblateOptions) -> Design:
    """What is cut, on this model."""
    lens = session.lens
    layers = layer_set(options.layers, lens.n_layers)
    every = [Head(layer, h) for layer in layers for h in range(lens.n_heads)]
    one_by_one = options.each_head or (options.each_head is None and len(every) <= MOST_ALONE)
    return Design(
        options.doses,
        options.kinds,
        options.rows,
        options.knockouts,
        options.renormalise,
        max(1, lens.n_layers // 4) if options.window is None else options.window,
        every if one_by_one else (),
        options.random_sets,
        options.write,
        session.seed,
        lens.n_layers,
        lens.n_heads,
        _masses(session) if options.sets == SetsLike.MASS else None,
    )


def _masses(session: Session) -> dict[Head, float] | None:
    """Every head's attention to the reasoning, mean over the traces; None before any was measured."""
    heads = session.store.table("heads")
    if heads.empty:
        return None
    mean = heads.groupby(["layer", "head"])["answer_reasoning"].mean()
    return {Head(int(layer), int(head)): float(mass) for (layer, head), mass in mean.items()}


def _cut(
    session: Session,
    options: AblateOptions,
    part: list[Trace],
    first: int,
    steps: Sequence[Step],
    reference: Reference,
    tick: Callable[[int], object],
) -> Rows:
    """All interventions on one batch of traces."""
    golds = session.golds
    # Side by side are answers that have as much room: the longest prompt of a batch decides how much.
    groups = by_room(session.lens, [trace[Segment.ANSWER].start for trace in part], options.max_answer_tokens)
    together = [[part[i] for i in group] for group in groups]
    each = [
        Subjects(session.lens, some, [golds.get(one.example) for one in some], options.max_answer_tokens)
        for some in together
    ]
    rows: list[dict[str, Any]] = []
    seed = session.seed + first
    for step in steps:
        for subjects in each:
            rows += subjects.teacher_forced(step.interventions, step.labels, reference, seed)
            if step.write:
                rows += subjects.written_anew(step.interventions, step.labels, reference, seed)
        tick(1)
    return {"effects": rows}


def check(session: Session, options: AblateOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    model = session.shape
    n_heads = len(layer_set(options.layers, model.n_layers)) * model.n_heads
    if options.doses and min(options.doses) > n_heads:
        raise UserError(f"experiment.doses={options.doses}: {model.name} has {n_heads} heads in these layers")
    if options.window is not None and not 0 <= options.window <= model.n_layers:
        raise UserError(f"experiment.window={options.window}: {model.name} has {model.n_layers} layers")
    needles_for(session, options.haystack)


def plan(session: Session, options: AblateOptions) -> Plan:
    """Makes the traces of one batch, runs two interventions on it and scales up."""
    with measured() as making:
        items = list(islice(examples(session, Needs.REASONING), max(options.batch, session.generation.batch)))
    traces = [item.subject for item in items if item.subject is not None and answer_position(item.subject) is not None]
    if not traces:
        raise UserError("no trace would be measured: raise data.max_tokens or generation.max_new_tokens")
    part = traces[: options.batch]
    with measured() as heads:
        for trace in part:
            measure_heads(session.lens, trace, HeadMeasures((), 0), session.seed)
    subjects = Subjects(session.lens, part, [None] * len(part), options.max_answer_tokens)
    reference = record_reference(session.lens, part, options.reference_samples, session.seed)
    layers = layer_set(options.layers, session.lens.n_layers)
    every = [Head(layer, h) for layer in layers for h in range(session.lens.n_heads)]
    todo = list(design(session, options).steps([dict.fromkeys(options.lists, every[: len(every) // 2])]))
    with measured() as forced:
        subjects.teacher_forced(todo[0].interventions, todo[0].labels, reference)
    with measured() as written:
        if any(step.write for step in todo):
            subjects.written_anew(todo[0].interventions, todo[0].labels, reference)
    share = session.n_examples / len(items)
    batches = -(-round(len(traces) * share) // options.batch)
    n_written = sum(step.write for step in todo)
    seconds = batches * (len(todo) * forced.seconds + n_written * written.seconds / 2)
    seconds += share * making.seconds + heads.seconds / len(part) * len(traces) * share + CLOSING_SECONDS
    return Plan(
        round(len(traces) * share),
        batches * len(todo) * options.batch,
        batches * n_written * options.batch * options.max_answer_tokens,
        max(making.peak_bytes, forced.peak_bytes, written.peak_bytes),
        seconds,
        f"{len(items)} examples and one intervention",
    )


def tell(session: Session, options: AblateOptions) -> Findings[AblateFacts]:
    """The findings, out of the run's tables."""
    traces = _answered(session)
    table, halves = session.store.table, len(_halves(options, traces)) == 2
    cut = lists_that_were_cut(table("effects"), table("cut_lists"))
    ranked = _lists(session, options, traces)
    found = findings(table, cut, session.seed, halves=halves)
    where = in_layers(layer_set(options.layers, session.shape.n_layers), session.shape.n_layers)
    uncut = [name for name in options.lists if options.doses and name not in set(table("cut_lists")["heads_kind"])]
    lines = [f"{name} heads were not cut: {_why_uncut(name, ranked.get(name), where)}" for name in uncut]
    return replace(found, lines=[*found.lines, *lines])


def _why_uncut(name: str, heads: Sequence[Head] | None, where: str) -> str:
    if name == GREEDY:
        return f"at most {MOST_GREEDY} are searched for, too few for any dose"
    if heads is None:
        return "no trace or prompt gives them a score"
    return "too few for any dose" if heads else f"none is above the floor{where}"


def draw(table: Tables, facts: AblateFacts) -> Drawings:
    """Doses, single heads, windows of layers, whole segments."""
    effects, heads = table("effects"), table("heads")
    effects = effects[effects["role"].isna()]  # figures are of whole answers
    model = str(effects["model"].iloc[0])
    shape = (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    yield "ablate_doses", partial(figures.doses, effects, model)
    yield "ablate_doses_appendix", partial(figures.all_doses, effects, model)
    rfhs = {RFH: list(dict.fromkeys(chain(*list_by_half(effects, table("cut_lists"), RFH).values())))}
    yield "ablate_heads", partial(figures.single_heads, effects, rfhs, shape, model)
    yield "knockout_windows", partial(figures.windows, effects, model)
    yield "knockout_whole", partial(figures.whole, effects, model)


EXPERIMENT = Experiment(
    options=AblateOptions,
    about=About(
        title="Do the heads matter that look at the reasoning?",
        question=(
            "Heads are cut, and edges of attention from one segment to another, beside random heads, of the same "
            "layers where these hold enough."
        ),
        source="Paper A, section 4: a causal control",
        published="The papers have no such experiment: attention alone does not show influence.",
        figures={
            "ablate_doses": "Effects by the number of heads that are cut, beside random sets of as many heads.",
            "ablate_doses_appendix": "Appendix: the same for every kind of ablation, at answer rows and at all rows.",
            "ablate_heads": "What cutting each head alone does to the answer's logit difference.",
            "knockout_whole": "Edges of attention between two segments cut in all heads and layers.",
            "knockout_windows": "The same cut in a window of layers, by its first layer.",
        },
    ),
    check=check,
    examples=lambda session, _: traces(session),
    measure=measure,
    analyse=cut,
    findings=tell,
    facts=AblateFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(
        shared_traces=True,
        quick={
            "doses": [10],
            "lists": ["rfh"],
            "kinds": ["zero"],
            "rows": ["answer"],
            "random_sets": 40,
            "knockouts": ["answer_reasoning"],
            "renormalise": [True],
            "window": 0,
            "write": False,
            "each_head": False,
            "haystack": {"lengths": []},
        },
    ),
    smallest=(
        "data.limit=2",
        *(f"experiment.{option}" for option in ("doses=[1]", "random_sets=1", "kinds=[zero]", "rows=[answer]")),
        *(f"experiment.{option}" for option in ("knockouts=[answer_reasoning]", "renormalise=[true]", "window=0")),
        *(f"experiment.{option}" for option in ("induction_prompts=1", "haystack.lengths=[]", "each_head=false")),
        "experiment.lists=[rfh,induction,receiver,greedy]",
    ),
)
