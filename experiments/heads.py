"""Where do answers look, and which heads read the reasoning? (Paper A, section 4)"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from experiments.base.collect import Collected, collect, from_response, given_trace, respond
from experiments.base.options import AtLeastOne, Count, Lax, Layers, Megabytes, Options, Share, Text, typed
from experiments.base.plan import Plan, measured, require_memory
from experiments.base.probing import HaystackOptions, needles_for, probes
from experiments.base.session import Session
from interp.data.examples import TraceText
from interp.errors import UserError
from interp.heads.findings import FindingsOptions, findings
from interp.heads.haystack import Haystack
from interp.heads.measure import HeadMeasures, map_rows, measure_heads
from interp.heads.ranking import (
    layer_rows,
    mean_over_examples,
    overlap_rows,
    ranking_rows,
    samples_by_kind,
    top_heads,
)
from interp.heads.scores import HeadScore, usual_count
from interp.model.layers import layer_set
from interp.runs.headlines import Findings, reasons, summary
from interp.runs.store import records
from interp.text.trace import Trace

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""About what the self-check, statistics and figures take on any model."""


class HeadsOptions(Options):
    """conf/experiment/heads.yaml"""

    name: Text
    top_k: AtLeastOne | None
    score: Annotated[HeadScore, Lax]
    layers: Layers
    random_sets: Count
    resamples: AtLeastOne
    reflection_words: list[Text]
    permutations: Count
    min_mass: Share
    induction_prompts: Count
    haystack: HaystackOptions
    maps: Count
    map_heads: Count
    block_mb: Megabytes | None

    def k(self, n_heads: int) -> int:
        """How many of so many heads the ranking takes."""
        return self.top_k if self.top_k is not None else usual_count(n_heads)

    @property
    def measures(self) -> HeadMeasures:
        return HeadMeasures(self.reflection_words, self.permutations, self.min_mass)

    @property
    def block_bytes(self) -> int | None:
        return None if self.block_mb is None else self.block_mb * 2**20


OPTIONS = HeadsOptions


def run(session: Session) -> Findings:
    """Measures every trace, probes and ranks the heads, keeps the maps of a few traces, draws all figures."""
    options = typed(HeadsOptions, session.cfg.experiment, "experiment")
    needles = check(session, options)
    store, lens = session.store, session.lens
    session.describe_environment()
    for item in session.bar(collect(session), "traces", total=session.n_examples):
        if item.trace is None:
            store.skip(item.index, item.example, item.reason or "", **item.tables)
        else:
            store.write(item.index, item.example, heads=measure(session, item.trace, options), **item.tables)
    if store.table("heads").empty:
        raise UserError(f"no trace was measured: {reasons(store.skipped())}")

    for prompt, score in session.bar(probes(session, options.induction_prompts, options.haystack, needles), "probes"):
        if not store.has_closing(f"a-{prompt}"):
            store.write_closing(f"a-{prompt}", probes=score())
    layers = layer_set(options.layers, lens.n_layers)
    n_ranked = len(layers) * lens.n_heads
    k = options.k(n_ranked)
    samples = samples_by_kind(store.table("heads"), store.table("probes"), layers)
    means = {kind: mean_over_examples(values) for kind, values in samples.items()}
    tops = {kind: top_heads(values, k, kind) for kind, values in means.items()}
    if not store.has_closing("b-ranking"):
        rows = (session.seed, options.resamples)
        store.write_closing(
            "b-ranking",
            ranking=[row for kind, values in samples.items() for row in ranking_rows(values, kind, k, *rows)],
            layers=[row for kind, values in samples.items() for row in layer_rows(values, kind, k, *rows)],
            overlaps=overlap_rows(tops, n_ranked),
        )
    _keep_maps(session, options, tops[options.score])

    how = FindingsOptions(
        options.score, k, options.random_sets, options.resamples, options.reflection_words, session.seed
    )
    headlines, more, lines = findings(store.table, samples, how)
    skipped = store.skipped()
    facts = summary(headlines, lines=lines, skipped=skipped, **more)
    session.finish(facts)
    if skipped:
        lines.append(f"left out: {reasons(skipped)}")
    return Findings(headlines, lines)


def measure(session: Session, trace: Trace, options: HeadsOptions) -> list[dict[str, Any]]:
    """The rows of heads.parquet of one trace, from one streaming pass."""
    return measure_heads(session.lens, trace, options.measures, session.seed, options.block_bytes)


def _keep_maps(session: Session, options: HeadsOptions, top: Sequence[Any]) -> None:
    """Attention rows of the best heads on the first traces, for Figs. 4 and 5."""
    store = session.store
    for i, row in enumerate(records(store.table("traces").head(options.maps))):
        if not store.has_closing(f"c-map-{i:02d}"):
            trace = Trace.from_row(row)
            rows = map_rows(session.lens, trace, top[: options.map_heads], options.block_bytes)
            store.write_closing(f"c-map-{i:02d}", maps=rows)


def plan(session: Session) -> Plan:
    """Runs one batch of generation, a trace or two and a probe of each kind, and scales up."""
    options = typed(HeadsOptions, session.cfg.experiment, "experiment")
    needles = check(session, options)
    traces = (
        _plan_generated(session, options) if session.given is None else _plan_given(session, options, session.given)
    )
    found = probes(session, options.induction_prompts, options.haystack, needles)
    induction, retrieval = options.induction_prompts, len(needles)
    seconds = 0.0
    for n, at in ((induction, 0), (retrieval, induction)):
        if n:
            with measured() as meter:
                found[at][1]()
            seconds += n * meter.seconds
    mapped = min(options.maps, traces.examples)
    return Plan(
        traces.examples,
        traces.passes + induction + retrieval + mapped,
        traces.generated_tokens + retrieval * options.haystack.max_new_tokens,
        traces.peak_bytes,
        traces.seconds * (1 + mapped / max(1, traces.examples)) + seconds + CLOSING_SECONDS,
        traces.basis + (", one probe of each kind" if found else ""),
    )


def _plan_given(session: Session, options: HeadsOptions, given: list[TraceText]) -> Plan:
    lengths: list[int] = []
    shortest: Trace | None = None
    longest: Trace | None = None
    for item in given:
        if session.data_options.limit is not None and len(lengths) == session.data_options.limit:
            break
        trace = given_trace(session, len(lengths), item).trace
        if trace is not None:
            lengths.append(trace.n_measured)
            shortest = min(shortest or trace, trace, key=lambda t: t.n_measured)
            longest = max(longest or trace, trace, key=lambda t: t.n_measured)
    if shortest is None or longest is None:
        raise UserError("no trace would be measured: raise data.max_tokens or change data.where")
    with measured():
        measure(session, shortest, options)  # the first pass pays for what later ones find ready
    with measured() as short:
        measure(session, shortest, options)
    with measured() as long:
        measure(session, longest, options)
    low, high = shortest.n_measured, longest.n_measured
    slope = (long.seconds - short.seconds) / (high - low) if high > low else 0.0
    seconds = sum(short.seconds + slope * (n - low) for n in lengths)
    basis = f"the shortest and the longest trace, {low} and {high} tokens"
    return Plan(len(lengths), len(lengths), 0, long.peak_bytes, seconds, basis)


def _plan_generated(session: Session, options: HeadsOptions) -> Plan:
    questions, size = session.questions, session.generation.batch
    batch = questions[:size]
    with measured() as generation:
        responses = respond(session, batch, 0)
    items: list[Collected] = [
        from_response(session, i, q, r) for i, (q, r) in enumerate(zip(batch, responses, strict=True))
    ]
    traces = [item.trace for item in items if item.trace is not None]
    with measured() as passes:
        for trace in traces:
            measure(session, trace, options)
    share = len(questions) / len(batch)
    return Plan(
        len(questions),
        round(len(traces) * share),
        round(sum(len(response.ids) for response in responses) * share),
        max(generation.peak_bytes, passes.peak_bytes),
        (generation.seconds + passes.seconds) * share,
        f"the first {len(batch)} questions",
    )


def check(session: Session, options: HeadsOptions) -> list[Haystack]:
    """Everything that can be wrong is said before anything runs. Returns the haystacks."""
    model = session.shape
    n_heads = len(layer_set(options.layers, model.n_layers)) * model.n_heads
    if not 1 <= options.k(n_heads) <= n_heads:
        raise UserError(f"experiment.top_k={options.top_k}: {model.name} has {n_heads} heads in these layers")
    if not 0 <= options.map_heads <= options.k(n_heads):
        raise UserError(
            f"experiment.map_heads={options.map_heads} must lie between 0 and {options.k(n_heads)}, the top k"
        )
    if options.block_bytes is not None:
        require_memory(session, 3 * options.block_bytes, "the block of attention weights", "lower experiment.block_mb")
    return needles_for(session, options.haystack)
