"""Do the heads matter that look at the reasoning? Ablation and attention knockout with matched controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from experiments.base.collect import Needs, examples, traces
from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.options import AtLeastOne, Count, Lax, Layers, Options, Text, distinct, one_of
from experiments.base.plan import Plan, measured
from experiments.base.probing import HaystackOptions, measure_probes, needles_for
from experiments.base.sample import CLOSING_SECONDS
from experiments.base.session import Session
from interp.ablation.effects import Intervention, Labels, Subjects, answer_position
from interp.ablation.findings import AblateFacts, findings
from interp.ablation.interventions import Ablation, AblationKind, Knockout, Reference, record_reference
from interp.ablation.interventions import Rows as CutRows
from interp.errors import UserError
from interp.figures import ablation as figures
from interp.figures.drawing import Drawings, Tables
from interp.heads.measure import HeadMeasures, measure_heads
from interp.heads.ranking import HeadKind, mean_over_examples, samples_by_kind, top_heads
from interp.heads.scores import Head, HeadScore
from interp.model.layers import layer_set
from interp.runs.about import About
from interp.runs.headlines import Findings
from interp.runs.store import records
from interp.stats import random_heads_like, rng_for
from interp.text.trace import Segment, Trace

RFH = "rfh"
LISTS = (RFH, HeadKind.INDUCTION, HeadKind.RETRIEVAL, HeadKind.RECEIVER, HeadKind.TRAJECTORY)
EDGES = {f"{source}_{destination}": (source, destination) for source in Segment for destination in Segment}
CUT = [edge for edge, (source, _) in EDGES.items() if source in (Segment.REASONING, Segment.ANSWER)]
"""Those that can be cut."""
MOST_ALONE = 64
"""Up to so many heads are cut one by one unless told otherwise."""
NO_ANSWER = "its answer gives nothing to look at"


class AblateOptions(Options):
    """conf/experiment/ablate.yaml"""

    name: Text
    score: Annotated[HeadScore, Lax]
    layers: Layers
    doses: list[AtLeastOne]
    lists: Annotated[list[Annotated[str, one_of(LISTS)]], AfterValidator(distinct)]
    random_sets: Count
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


@dataclass(frozen=True)
class Step:
    """One intervention with its name, and whether answers are written anew under it."""

    interventions: tuple[Intervention, ...]
    labels: Labels
    write: bool


def measure(session: Session, options: AblateOptions, example: Example) -> Rows | LeftOut:
    """The scores of every head on one trace, for the ranking."""
    if answer_position(example.subject) is None:
        return LeftOut(NO_ANSWER)
    return {"heads": measure_heads(session.lens, example.subject, HeadMeasures((), 0), session.seed)}


def cut(session: Session, options: AblateOptions) -> None:
    """Ranks the heads, then cuts them and the edges, batch of traces by batch."""
    measure_probes(session, options.induction_prompts, options.haystack)
    traces = [Trace.from_row(row) for row in records(session.store.table("traces"))]
    reference = record_reference(session.lens, traces, options.reference_samples, session.seed)
    todo = list(steps(session, options, _lists(session, options)))
    total = len(todo) * -(-len(traces) // options.batch)
    for _ in session.bar(_cut(session, options, traces, todo, reference), "interventions", total=total):
        pass


def _lists(session: Session, options: AblateOptions) -> dict[str, list[Head]]:
    """Heads of each kind, best first, without those below the kind's floor."""
    store = session.store
    layers = layer_set(options.layers, session.lens.n_layers)
    samples = samples_by_kind(store.table("heads"), store.table("probes"), layers)
    # More than half of the heads is no list of special ones, and no random set would differ from it.
    n_heads = len(layers) * session.lens.n_heads
    most = min(max(options.doses, default=1), n_heads // 2)
    found = {}
    for name in options.lists:
        kind = options.score if name == RFH else name
        if kind in samples:
            found[name] = top_heads(mean_over_examples(samples[kind]), most, kind)
    return found


def steps(session: Session, options: AblateOptions, lists: dict[str, list[Head]]) -> Iterator[Step]:
    """Every intervention of the run, each with its controls behind it."""
    lens = session.lens
    for name, heads in lists.items():
        for n in (n for n in options.doses if n <= len(heads)):
            yield from _dose(options, name, heads[:n], None, None)
            if name == RFH:
                for draw, others in enumerate(_random_sets(session, options, heads[:n])):
                    yield from _dose(options, name, others, draw, "random_heads")
    layers = layer_set(options.layers, lens.n_layers)
    n_heads = len(layers) * lens.n_heads
    if options.each_head or (options.each_head is None and n_heads <= MOST_ALONE):
        kind = AblationKind(options.kinds[0])
        for head in (Head(layer, h) for layer in layers for h in range(lens.n_heads)):
            labels = Labels(f"ablate_head_{kind}", rows=CutRows.ANSWER, layer=head.layer, head=head.head)
            yield Step((Ablation(frozenset([head]), kind, CutRows.ANSWER),), labels, write=False)
    for edge in options.knockouts:
        for scaled in options.renormalise:
            yield from _knockouts(session, options, edge, scaled, lists)


def _dose(
    options: AblateOptions,
    name: str,
    heads: Sequence[Head],
    draw: int | None,
    control: str | None,
) -> Iterator[Step]:
    for i, kind in enumerate(AblationKind(k) for k in options.kinds):
        for rows in (CutRows(r) for r in options.rows):
            labels = Labels(f"ablate_head_{kind}", name, len(heads), rows, draw=draw, control=control)
            yield Step(
                (Ablation(frozenset(heads), kind, rows),),
                labels,
                write=options.write and i == 0 and rows is CutRows.ANSWER,
            )


def _knockouts(
    session: Session, options: AblateOptions, edge: str, scaled: bool, lists: dict[str, list[Head]]
) -> Iterator[Step]:
    """The whole edge, windows of layers, and the RFHs' edges beside those of random heads."""
    lens = session.lens
    source, destination = EDGES[edge]
    name = f"knockout_{edge}" if scaled else f"knockout_{edge}_unscaled"

    def cut(heads: Sequence[Head] | None) -> tuple[Intervention, ...]:
        return (Knockout(source, destination, None if heads is None else frozenset(heads), scaled),)

    yield Step(cut(None), Labels(name), write=options.write)
    width = options.window if options.window is not None else max(1, lens.n_layers // 4)
    for first in range(lens.n_layers - width + 1) if width else ():
        inside = [Head(layer, h) for layer in range(first, first + width) for h in range(lens.n_heads)]
        yield Step(cut(inside), Labels(name, layer=first, layer_end=first + width), write=False)
    if scaled != options.renormalise[0] or edge != options.knockouts[0]:
        return  # sets of heads are cut for the first edge and in one way only
    for n in (n for n in options.doses if n <= len(lists.get(RFH, []))):
        top = lists[RFH][:n]
        yield Step(cut(top), Labels(name, RFH, n), write=False)
        for draw, others in enumerate(_random_sets(session, options, top)):
            yield Step(cut(others), Labels(name, RFH, n, draw=draw, control="random_heads"), write=False)


def _random_sets(session: Session, options: AblateOptions, heads: Sequence[Head]) -> list[list[Head]]:
    """Random sets with as many heads in each layer. The list's own heads may be drawn: else large sets could not be
    matched, and the comparison is conservative."""
    rng = rng_for(session.seed, "random heads", len(heads))
    drawn = random_heads_like(np.array(heads), session.lens.n_heads, options.random_sets, rng, others_only=False)
    return [[Head(int(layer), int(head)) for layer, head in one] for one in drawn]


def _cut(
    session: Session, options: AblateOptions, traces: list[Trace], todo: list[Step], reference: Reference
) -> Iterator[None]:
    """All interventions on each batch of traces; each batch is kept at once."""
    golds = session.golds
    for first in range(0, len(traces), options.batch):
        name = f"b-{first:06d}"
        if session.store.has_closing(name):
            continue
        part = traces[first : first + options.batch]
        subjects = Subjects(session.lens, part, [golds.get(trace.example) for trace in part], options.max_answer_tokens)
        rows: list[dict[str, Any]] = []
        for step in todo:
            seed = session.seed + first
            rows += subjects.teacher_forced(step.interventions, step.labels, reference, seed)
            if step.write:
                rows += subjects.written_anew(step.interventions, step.labels, reference, seed)
            yield
        session.store.write_closing(name, effects=rows)


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
    todo = list(steps(session, options, dict.fromkeys(options.lists, every)))
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
    return findings(session.store.table("effects"), _lists(session, options), session.seed)


def draw(table: Tables, facts: AblateFacts) -> Drawings:
    """Doses, single heads, windows of layers, whole segments."""
    effects, heads = table("effects"), table("heads")
    model = str(effects["model"].iloc[0])
    shape = (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    yield "ablate_doses", partial(figures.doses, effects, model)
    yield "ablate_heads", partial(figures.single_heads, effects, facts.lists, shape, model)
    yield "knockout_windows", partial(figures.windows, effects, model)
    yield "knockout_whole", partial(figures.whole, effects, model)


EXPERIMENT = Experiment(
    options=AblateOptions,
    about=About(
        title="Do the heads matter that look at the reasoning?",
        question=(
            "Heads are cut, and edges of attention from one segment to another, beside random heads of the same layers."
        ),
        source="Paper A, section 4: a causal control",
        published="The papers have no such experiment: attention alone does not show influence.",
        figures={
            "ablate_doses": "Effects by the number of heads that are cut; grey: random heads of the same layers.",
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
    in_paper=InPaper(shared_traces=True),
    smallest=(
        "data.limit=2",
        *(f"experiment.{option}" for option in ("doses=[1]", "random_sets=1", "kinds=[zero]", "rows=[answer]")),
        *(f"experiment.{option}" for option in ("knockouts=[answer_reasoning]", "renormalise=[true]", "window=0")),
        *(f"experiment.{option}" for option in ("induction_prompts=1", "haystack.lengths=[]", "each_head=false")),
    ),
)
