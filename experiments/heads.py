"""Which heads read the reasoning when the model writes its answer? (Paper A, sections 4.1 and 4.2)"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.collect import collect, from_response, left_out, respond
from experiments.plan import Plan, measured, require_memory
from experiments.session import Session, choice, typed
from experiments.summary import Findings, Headline, summary
from interp.attention import SegmentMasses, stream
from interp.datasets import TraceText
from interp.errors import UserError
from interp.figures import heads as figures
from interp.figures import style
from interp.heads import (
    Head,
    HeadScore,
    head_array,
    head_rows,
    masses_by_segment,
    mean_over,
    overlap,
    rank_heads,
    score_values,
)
from interp.stats import Estimate, bootstrap_mean, random_heads_like, rng_for
from interp.trace import Segment, Trace, parse_text

log = logging.getLogger(__name__)

SOURCES = (Segment.REASONING, Segment.ANSWER)
CLOSING_SECONDS = 4.0
"""About what the self-check, statistics and figures take on any model."""


@dataclass(frozen=True)
class HeadsOptions:
    """conf/experiment/heads.yaml"""

    name: str = "heads"
    top_k: int | None = None
    score: str = HeadScore.DIFFERENCE.value
    random_sets: int = 200
    block_mb: int = 128

    def k(self, n_heads: int) -> int:
        """How many of a model's heads the ranking takes."""
        if self.top_k is not None:
            return self.top_k
        return 10 if n_heads >= 100 else max(2, n_heads // 10)


def run(session: Session) -> Findings:
    """Measures every trace, ranks the heads, draws Figs. 2 and 3."""
    options = typed(HeadsOptions, session.cfg.experiment, "experiment")
    score = choice(HeadScore, options.score, "experiment.score")
    _check(session, options)
    store = session.store
    session.describe_environment()
    for item in session.bar(collect(session), "traces", total=session.n_examples):
        if item.trace is None:
            store.skip(item.index, item.example, item.reason or "", **item.tables)
        else:
            rows = measure(session, item.trace, options)
            store.write(item.index, item.example, heads=rows, **item.tables)

    heads = store.table("heads")
    if heads.empty:
        raise UserError(f"no trace was measured: {_reasons(store.skipped())}")
    headlines, more = analyse(heads, options, score, session.seed)
    top = [Head(*place) for place in more["top_heads"]]
    if not (answers := store.table("answers")).empty and answers["correct"].notna().any():
        correct = answers["correct"].dropna().to_numpy(dtype=float)
        headlines.append(
            Headline("accuracy of the generated answers", bootstrap_mean(correct, rng_for(session.seed, "accuracy")))
        )
    draw(heads, top, session.cfg.model.name, score, session.directory)
    skipped = store.skipped()
    store.finish(summary(headlines, skipped=skipped, **more))
    ranked = ", ".join(f"{head} {value:.3f}" for head, value in zip(top, more["top_head_scores"], strict=True))
    lines = [f"top heads (layer,head) by {score}: {ranked}"]
    if skipped:
        lines.append(f"left out: {_reasons(skipped)}")
    return Findings(headlines, lines)


def measure(session: Session, trace: Trace, options: HeadsOptions) -> list[dict[str, Any]]:
    """The rows of heads.parquet of one trace, from one streaming pass."""
    masses = SegmentMasses(trace, session.lens.n_layers, session.lens.n_heads, SOURCES)
    stream(session.lens, trace.measured_ids, masses, block_bytes=options.block_mb * 2**20)
    return head_rows(trace, masses)


def analyse(heads: pd.DataFrame, options: HeadsOptions, score: HeadScore, seed: int) -> tuple[list[Headline], dict]:
    """The headline numbers and the ranking, from heads.parquet alone."""
    values = head_array(heads, score_values(heads, score))
    k = options.k(values[0].size)
    top = rank_heads(values.mean(axis=0), k)
    by_segment = masses_by_segment(heads)
    even = heads.groupby("example", sort=False)["answer_reasoning_even"].first().to_numpy()
    headlines = []
    for s in Segment:
        masses = bootstrap_mean(by_segment[f"answer_{s}"].to_numpy(), rng_for(seed, "mass", s))
        control: tuple[str, Estimate] | tuple[None, None] = (None, None)
        if s is Segment.REASONING:
            control = ("an even head", bootstrap_mean(even, rng_for(seed, "even")))
        if masses.n:
            headlines.append(Headline(f"mass answer->{s}, all heads", masses, *control))
    more = {
        "score": score.value,
        "top_heads": [list(head) for head in top],
        "top_head_scores": [float(values.mean(axis=0)[head]) for head in top],
        "n_traces": len(values),
    }
    if len(values) >= 2:
        headlines += _split_half(heads, values, k, options.random_sets, seed)
    return headlines, more


def _split_half(heads: pd.DataFrame, values: np.ndarray, k: int, random_sets: int, seed: int) -> list[Headline]:
    """Ranks on every other trace and measures on the rest, so that choosing the best does not flatter the result."""
    chosen = rank_heads(values[0::2].mean(axis=0), k)
    again = rank_heads(values[1::2].mean(axis=0), k)
    mass = head_array(heads, heads["answer_reasoning"])[1::2]
    rng = rng_for(seed, "random heads")
    sets = random_heads_like(np.array(chosen), mass.shape[2], random_sets, rng)
    kept = [[Head(*map(int, place)) for place in one if place[0] >= 0] for one in sets]
    by_set = np.stack([mean_over(mass, one) for one in kept if one]) if any(kept) else None
    control = None if by_set is None else bootstrap_mean(by_set.mean(axis=0), rng_for(seed, "random heads", "interval"))
    n_heads = values[0].size
    return [
        Headline(
            f"mass answer->reasoning, top {k} heads of the other half of the traces",
            bootstrap_mean(mean_over(mass, chosen), rng_for(seed, "top heads")),
            "random heads of the same layers",
            control,
        ),
        Headline(
            f"share of the top {k} heads that both halves of the traces agree on",
            Estimate(overlap(chosen, again) / k, 1),
            "expected by chance",
            Estimate(k / n_heads, 1),
        ),
    ]


def draw(heads: pd.DataFrame, top: list[Head], model: str, score: HeadScore, directory: Path) -> None:
    """Figures 2 and 3 of Paper A into directory/figures."""
    style.save(figures.segment_masses({model: heads}), directory / "figures", "a_fig2_segment_masses")
    style.save(figures.head_masses(heads, top, model, f"{score} score"), directory / "figures", "a_fig3_head_masses")


def plan(session: Session) -> Plan:
    """Runs one batch of generation and a trace or two, and scales up."""
    options = typed(HeadsOptions, session.cfg.experiment, "experiment")
    _check(session, options)
    if session.given is None:
        return _plan_generated(session, options)
    return _plan_given(session, options, session.given)


def _plan_given(session: Session, options: HeadsOptions, given: list[TraceText]) -> Plan:
    lengths: list[int] = []
    shortest: Trace | None = None
    longest: Trace | None = None
    for item in given:
        if session.data_options.limit is not None and len(lengths) == session.data_options.limit:
            break
        trace = parse_text(item.text, session.lens.tokenizer, session.lens.markers, example=item.id)
        if left_out(session, trace) is None:
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
    seconds = CLOSING_SECONDS + sum(short.seconds + slope * (n - low) for n in lengths)
    return Plan(
        len(lengths),
        len(lengths),
        0,
        long.peak_bytes,
        seconds,
        f"the shortest and the longest trace, {low} and {high} tokens",
    )


def _plan_generated(session: Session, options: HeadsOptions) -> Plan:
    questions, size = session.questions, session.generation.batch
    batch = questions[:size]
    with measured() as generation:
        responses = respond(session, batch, 0)
    items = [from_response(session, i, q, r) for i, (q, r) in enumerate(zip(batch, responses, strict=True))]
    traces = [item.trace for item in items if item.trace is not None]
    with measured() as passes:
        for trace in traces:
            measure(session, trace, options)
    share = len(questions) / len(batch)
    tokens = sum(len(response.ids) for response in responses)
    return Plan(
        len(questions),
        round(len(traces) * share),
        round(tokens * share),
        max(generation.peak_bytes, passes.peak_bytes),
        CLOSING_SECONDS + (generation.seconds + passes.seconds) * share,
        f"the first {len(batch)} questions",
    )


def _check(session: Session, options: HeadsOptions) -> None:
    n_heads = session.lens.n_heads
    if not 1 <= options.k(session.lens.n_layers * n_heads) <= session.lens.n_layers * n_heads:
        raise UserError(
            f"experiment.top_k={options.top_k}: {session.lens.name} has {session.lens.n_layers * n_heads} heads"
        )
    longest = session.data_options.max_tokens or session.generation.max_new_tokens
    row = n_heads * longest * 4 * 2
    if options.block_mb * 2**20 < row:
        raise UserError(
            f"experiment.block_mb={options.block_mb} holds no row of {longest} tokens: use {row // 2**20 + 1}"
        )
    require_memory(session, 3 * options.block_mb * 2**20, "the block of attention weights", "lower experiment.block_mb")


def _reasons(skipped: dict[str, int]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in skipped.items()) or "the data is empty"
