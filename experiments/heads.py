"""Where do answers look, and which heads read the reasoning? (Paper A, section 4)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, Field

from experiments.base.collect import traces
from experiments.base.experiment import Example, Experiment, InPaper, Rows
from experiments.base.options import AtLeastOne, Count, Lax, Layers, Megabytes, Options, Share, Text, distinct
from experiments.base.plan import Plan, require_memory
from experiments.base.probing import HaystackOptions, cost_of_probes, needles_for, probe_steps
from experiments.base.ranking import HeadShare
from experiments.base.sample import sampled
from experiments.base.session import Session
from experiments.base.steps import Step, run_steps
from interp.errors import UserError
from interp.figures import heads as figures
from interp.figures.compare import layer_profiles
from interp.figures.drawing import Drawings, Tables
from interp.figures.explorer.page import explorer
from interp.figures.maps import attention_maps, mapped_heads
from interp.figures.tokens import token_attention
from interp.grading.responses import graded_trace
from interp.heads.compare import compare
from interp.heads.findings import FindingsOptions, HeadsFacts, findings
from interp.heads.largest import attention_rows
from interp.heads.measure import HeadMeasures, map_rows, measure_heads
from interp.heads.ranking import (
    Samples,
    layer_rows,
    mean_over_examples,
    overlap_rows,
    ranking_rows,
    samples_by_kind,
    top_heads,
)
from interp.heads.scores import Head, HeadScore, head_array, rank_heads, score_values, usual_count
from interp.heads.unrelated import joined, unrelated_rows, with_unrelated_answer
from interp.model.layers import in_layers, layer_set
from interp.rhythm.head_sets import HeadSets, choose_heads, head_set_rows
from interp.rhythm.waad_fai import Sinks
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.names import readable
from interp.runs.store import records
from interp.text.trace import Trace


class ExploreOptions(Options):
    """What the page to click in is made of."""

    traces: Count
    heads: Count
    weights: Annotated[int, Field(ge=1, le=255)]
    share: HeadShare


class HeadsOptions(Options):
    """conf/experiment/heads.yaml"""

    name: Text
    top_k: AtLeastOne | None
    score: Annotated[HeadScore, Lax]
    layers: Layers
    random_sets: Count
    resamples: AtLeastOne
    reflection_words: Annotated[list[Text], AfterValidator(distinct)]
    permutations: Count
    min_mass: Share
    induction_prompts: Count
    haystack: HaystackOptions
    shuffled: bool
    unrelated: bool
    maps: Count
    map_heads: Count
    explore: ExploreOptions
    block_mb: Megabytes | None

    def k(self, n_heads: int) -> int:
        """How many of so many heads the ranking takes."""
        return self.top_k if self.top_k is not None else usual_count(n_heads)

    @property
    def measures(self) -> HeadMeasures:
        return HeadMeasures(self.reflection_words, self.permutations, self.min_mass, self.shuffled)

    @property
    def block_bytes(self) -> int | None:
        return None if self.block_mb is None else self.block_mb * 2**20


def measure(session: Session, options: HeadsOptions, example: Example) -> Rows:
    """The rows of one trace, from one streaming pass."""
    rows = measure_heads(session.lens, example.subject, options.measures, session.seed, options.block_bytes)
    return {"heads": rows}


def rank(session: Session, options: HeadsOptions) -> None:
    """Probes the heads, ranks them by every score, and keeps attention rows of the best on the first traces: whole ones
    of the answer for pictures, the largest weights of all for the page."""
    store = session.store
    steps = probe_steps(session, options.induction_prompts, options.haystack)
    run_steps(session, "probes", [*steps, *(_unrelated(session, options) if options.unrelated else ())])
    samples, k = _samples(session, options)
    tops = {kind: top_heads(mean_over_examples(values), k, kind) for kind, values in samples.items()}
    if not store.has_closing("b-ranking"):
        how = (k, session.seed, options.resamples)
        store.write_closing(
            "b-ranking",
            ranking=[row for kind, values in samples.items() for row in ranking_rows(values, kind, *how)],
            layers=[row for kind, values in samples.items() for row in layer_rows(values, kind, *how)],
            overlaps=overlap_rows(tops, _n_ranked(session, options), session.shape.n_heads),
        )
    for i, row in enumerate(records(store.table("traces").head(options.maps))):
        if not store.has_closing(f"c-map-{i:02d}"):
            shown = tops[options.score][: options.map_heads]
            rows = map_rows(session.lens, Trace.from_row(row), shown, options.block_bytes)
            store.write_closing(f"c-map-{i:02d}", maps=rows)
    explore = options.explore
    if explore.traces and not store.has_closing("d-sets"):
        store.write_closing("d-sets", head_sets=_head_sets(session, options, tops[options.score]))
    for i, row in enumerate(records(store.table("traces").head(explore.traces))):
        if not store.has_closing(f"e-attention-{i:02d}"):
            sets = _members(store.table("head_sets"))
            shown = _shown(options, samples, sets)
            trace, largest = Trace.from_row(row), explore.weights
            rows = attention_rows(session.lens, trace, shown, sets, largest, options.block_bytes)
            store.write_closing(f"e-attention-{i:02d}", attention=rows, answers=_graded(session, trace.example))


def _graded(session: Session, example: str) -> list[dict[str, Any]]:
    """The row of answers.parquet of a given trace; a generated one has its own already, a scrambled one no answer."""
    if session.given is None or session.data_options.scrambled is not None:
        return []
    given = next(one for one in session.given if one.id == example)
    return [{**graded_trace(given, session.grading), "example": example}]


def _head_sets(session: Session, options: HeadsOptions, rfhs: Sequence[Head]) -> list[dict[str, Any]]:
    """The rows of head_sets.parquet: over whose heads the page has means."""
    table, layers = session.store.table, layer_set(options.layers, session.lens.n_layers)
    heads = joined(table("heads"), table("unrelated"))
    means = {
        name: mean_over_examples(head_array(heads, heads[name].astype(float))) for name in ("distance", "kurtosis")
    }
    chosen = choose_heads(means["distance"], means["kurtosis"], layers, options.explore.share, len(rfhs))
    scores = mean_over_examples(head_array(heads, score_values(heads, options.score)))
    about = {"layers": options.layers, "sinks": Sinks.KEPT}
    return [
        *({"kind": "rfh", **about, **head._asdict(), "value": float(scores[head])} for head in rfhs),
        *head_set_rows([HeadSets(options.layers, Sinks.KEPT, *chosen)], means),
    ]


def _members(head_sets: pd.DataFrame) -> dict[str, list[Head]]:
    """The heads of each set, the first ones first."""
    return {
        str(kind): [Head(int(row["layer"]), int(row["head"])) for row in records(rows)]
        for kind, rows in head_sets.groupby("kind", sort=False)
    }


def _shown(options: HeadsOptions, samples: Mapping[str, Samples], sets: Mapping[str, Sequence[Head]]) -> list[Head]:
    """Which single heads the page has: the first of each set, then the best of the ranking."""
    values = mean_over_examples(samples[options.score])
    first = [members[0] for members in sets.values() if members]
    return list(dict.fromkeys([*first, *rank_heads(values, values.size)]))[: options.explore.heads]


def _unrelated(session: Session, options: HeadsOptions) -> Iterator[Step]:
    """What each trace's heads give its reasoning behind an answer to another question."""
    measured = [Trace.from_row(row) for row in records(session.store.table("traces"))]

    def rows(i: int, _: object) -> Rows:
        other = with_unrelated_answer(measured, i)
        return {"unrelated": [] if other is None else list(unrelated_rows(session.lens, other, options.block_bytes))}

    for i in range(len(measured)):
        yield f"a-unrelated-{i:05d}", partial(rows, i)


def _samples(session: Session, options: HeadsOptions) -> tuple[Mapping[str, Samples], int]:
    """Every score of every ranked head by trace or probe, and how many heads count as the top."""
    layers = layer_set(options.layers, session.lens.n_layers)
    table = session.store.table
    samples = samples_by_kind(joined(table("heads"), table("unrelated")), table("probes"), layers)
    return samples, options.k(_n_ranked(session, options))


def _n_ranked(session: Session, options: HeadsOptions) -> int:
    model = session.shape
    return len(layer_set(options.layers, model.n_layers)) * model.n_heads


def tell(session: Session, options: HeadsOptions) -> Findings[HeadsFacts]:
    """The findings, out of the run's tables."""
    samples, k = _samples(session, options)
    how = FindingsOptions(
        options.score, k, options.random_sets, options.resamples, options.reflection_words, session.seed
    )
    return findings(session.store.table, samples, how)


def plan(session: Session, options: HeadsOptions) -> Plan:
    """Measures a trace and a probe of each kind, and scales up."""
    sample = sampled(session, options, measure)
    n_probes, seconds = cost_of_probes(session, options.induction_prompts, options.haystack)
    mapped = min(options.maps, session.n_examples) + min(options.explore.traces, session.n_examples)
    unrelated = round(sample.traces) if options.unrelated else 0
    written = sample.plan(more=mapped + unrelated, seconds=seconds)
    more = len(needles_for(session, options.haystack)) * options.haystack.max_new_tokens
    return replace(written, passes=written.passes + n_probes, generated_tokens=written.generated_tokens + more)


def check(session: Session, options: HeadsOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    n_heads = _n_ranked(session, options)
    if not 1 <= options.k(n_heads) <= n_heads:
        raise UserError(f"experiment.top_k={options.top_k}: {session.shape.name} has {n_heads} heads in these layers")
    if options.score == HeadScore.CONTENT and not options.unrelated:
        raise UserError(
            "experiment.score=content takes off what an unrelated answer gets: set experiment.unrelated=true"
        )
    if not 0 <= options.map_heads <= options.k(n_heads):
        raise UserError(
            f"experiment.map_heads={options.map_heads} must lie between 0 and {options.k(n_heads)}, the top k"
        )
    if options.block_bytes is not None:
        require_memory(session, 3 * options.block_bytes, "the block of attention weights", "lower experiment.block_mb")
    needles_for(session, options.haystack)


def draw(table: Tables, facts: HeadsFacts) -> Drawings:
    """Paper A's Figs. 2 to 5."""
    heads, ranking, maps = table("heads"), table("ranking"), table("maps")
    model, score = str(heads["model"].iloc[0]), facts.score
    marks = {kind: facts.lists.get(kind, []) for kind in ("induction", "retrieval")}
    yield "a_fig2_segment_masses", partial(figures.segment_masses, {model: heads})
    title = f"{readable(score)} score"
    where = in_layers(ranking.dropna(subset="value")["layer"].unique(), ranking["layer"].nunique())
    ranked = f"{model}, heads ranked{where}" if where else model
    yield "a_fig3_head_masses", partial(figures.head_masses, heads, facts.top_heads, ranked, title, marks)
    yield "a_fig3_layers", partial(figures.layer_profile, table("layers"), score, ranked)
    yield "a_fig3_stability", partial(figures.ranking_stability, ranking, score, ranked)
    yield "a_fig3_overlaps", partial(figures.overlaps, table("overlaps"), ranked)
    yield "explore", partial(explorer, {"heads": table}, facts.reflection_words)
    if maps.empty:
        return
    shown, words = set(maps["example"]), facts.reflection_words
    traces = [Trace.from_row(row) for row in records(table("traces")) if row["example"] in shown]
    if mapped_heads(maps):
        yield "a_fig4_maps", partial(attention_maps, maps, heads, traces, words, model)
    yield "a_fig5_tokens", partial(token_attention, maps, traces[0], model)


def draw_compared(table: Tables, runs: Mapping[str, Tables], kind: str) -> Drawings:
    """Overlaps of the top heads, and Paper A's Figs. 2 and 3 with all runs in one."""
    if not table("overlaps").empty:
        yield "overlaps", partial(figures.overlaps, table("overlaps"), f"top heads by {readable(kind)}")
    masses = {label: of("heads") for label, of in runs.items()}
    yield "a_fig2_segment_masses", partial(figures.segment_masses, masses)
    profiles = {label: of("layers") for label, of in runs.items()}
    yield "a_fig3_layers", partial(layer_profiles, profiles, kind)


EXPERIMENT = Experiment(
    options=HeadsOptions,
    about=About(
        title="Where do answers look?",
        question=(
            "The attention of answer tokens to each segment, the heads that look at the reasoning most "
            "(Reasoning-Focus Heads), whether they move through it, and whether other known kinds of heads are the "
            "same."
        ),
        source="Paper A, section 4, Figs. 2 to 5",
        published=(
            "Paper A, section 4: mean answer->reasoning mass .138 (R1-Distill-Llama-8B), .294 (Qwen-7B), .259 "
            "(Qwen-1.5B); Reasoning-Focus Heads lie in middle layers and overlap little with induction and "
            "retrieval heads."
        ),
        figures={
            "a_fig2_segment_masses": "A-Fig-2. Attention of answer tokens to each segment.",
            "a_fig3_head_masses": "A-Fig-3. The same for each head; boxes: top heads, marks: induction and retrieval.",
            "a_fig3_layers": "A-Fig-3, by layer. In which layers the top heads lie.",
            "a_fig3_stability": "A-Fig-3, stability. What of the ranking other traces would keep.",
            "a_fig3_overlaps": "A-Fig-3, overlaps between lists of heads.",
            "a_fig4_maps": "A-Fig-4. Maps of a top head.",
            "a_fig5_tokens": "A-Fig-5. Where chosen answer tokens look.",
        },
        beside={
            "mass answer->bos, all heads": ".617 (R1-Distill-Llama-8B), .096 (Qwen-7B), .151 (Qwen-1.5B)",
            "mass answer->prompt, all heads": ".014, .138, .032 (the same)",
            "mass answer->reasoning, all heads": ".138, .294, .259",
            "mass answer->answer, all heads": ".230, .463, .545",
            "in the middle third": (
                "layers 8-16 of 32, 14-22 of 28, 12-20 of 28; of the published ten heads .6, .7, .5 in the middle third"
            ),
        },
    ),
    check=check,
    examples=lambda session, _: traces(session),
    measure=measure,
    analyse=rank,
    findings=tell,
    facts=HeadsFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(
        shared_traces=True,
        quick={"haystack": {"lengths": [150], "depths": [0.5]}, "induction_prompts": 2, "maps": 1, "unrelated": False},
    ),
    compare=compare,
    has_published=True,
    draw_compared=draw_compared,
    smallest=(
        "data.limit=2",
        *(
            f"experiment.{option}"
            for option in ("random_sets=3", "resamples=20", "induction_prompts=1", "maps=1", "explore.traces=1")
        ),
        "experiment.haystack.lengths=[40]",
        "experiment.haystack.depths=[0.5]",
    ),
)
