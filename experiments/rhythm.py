"""Do models preplan and anchor? Local and global heads, WAAD, FAI and their couplings. (Paper B, section 4)"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import AfterValidator, Field

from experiments.base.collect import Collected, Needs, collect, examples
from experiments.base.options import AtLeastOne, Count, Lax, LayerList, Megabytes, Options, Text, distinct, typed
from experiments.base.plan import Plan, measured
from experiments.base.ranking import HeadShare, Horizon, Portion, Ranking, ranking_of
from experiments.base.session import Session
from interp.errors import UserError
from interp.heads.scores import Head, head_array, usual_count
from interp.model.layers import layer_sets
from interp.rhythm.couplings import PeakRule, Peaks
from interp.rhythm.findings import findings
from interp.rhythm.tables import (
    Analysis,
    HeadSets,
    boundary_rows,
    choose_heads,
    coupling_rows,
    curve_rows,
    head_rows,
    head_set_rows,
    lag_rows,
    partial_rows,
    token_rows,
    type_rows,
)
from interp.rhythm.waad_fai import Sinks, map_of_sets, measure_rhythm
from interp.runs.headlines import Findings, reasons, summary
from interp.runs.store import records
from interp.text.trace import Trace

log = logging.getLogger(__name__)

CLOSING_SECONDS = 20.0
"""About what the self-check, statistics and figures take on a few dozen short traces."""
MEASURES = ("distance", "kurtosis", "distance_no_sinks", "kurtosis_no_sinks")


class PeakOptions(Options):
    """How peaks are found."""

    rule: Annotated[PeakRule, Lax]
    prominence: Annotated[float, Field(ge=0)]
    share: Portion


class RhythmOptions(Options):
    """conf/experiment/rhythm.yaml"""

    name: Text
    layers: LayerList
    sinks: Annotated[list[Annotated[Sinks, Lax]], Field(min_length=1), AfterValidator(distinct)]
    share: HeadShare
    receivers: AtLeastOne | None
    ranking_traces: AtLeastOne
    window: AtLeastOne
    horizon: Horizon
    peaks: PeakOptions
    shares: list[Portion]
    lags: Count
    sentence_draws: Count
    tolerances: list[Count]
    map_tokens: Count
    block_mb: Megabytes | None

    @property
    def ranking(self) -> Ranking:
        return ranking_of(self, self.layers, self.sinks, self.receivers, self.block_mb)

    def analysis(self, seed: int) -> Analysis:
        peaks = Peaks(self.peaks.rule, self.peaks.prominence, self.peaks.share)
        return Analysis(peaks, self.shares, self.lags, self.sentence_draws, self.tolerances, seed)


OPTIONS = RhythmOptions


def run(session: Session) -> Findings:
    """Ranks heads on the first traces, measures every trace, then couplings, nulls and figures over all of them."""
    options = typed(RhythmOptions, session.cfg.experiment, "experiment")
    check(session, options)
    store = session.store
    session.describe_environment()
    sets, items = ranked_first(session, options.ranking)
    for item in items:
        if item.trace is None:
            store.skip(item.index, item.example, item.reason or "", **item.tables)
        else:
            store.write(item.index, item.example, **_measure(session, options, item.trace, sets), **item.tables)
    _analyse(session, options, sets)
    headlines, more, lines = findings(store.table, session.seed)
    more |= {"layers": sets[0].layers, "sinks": sets[0].sinks, "skipped": store.skipped()}
    facts = summary(headlines, lines=lines, **more)
    session.finish(facts)
    return Findings(headlines, lines)


def ranked_first(session: Session, options: Ranking) -> tuple[list[HeadSets], Iterator[Collected]]:
    """The sets of heads, ranked on the first traces unless the store has them, and all examples that are not done.

    Which heads count must be known before the first trace is averaged over them.
    """
    store = session.store
    items = session.bar(collect(session, Needs.RESPONSE), "traces", total=session.n_examples)
    early: list[Collected] = []
    if not store.has_closing("a-heads"):
        traces: list[Trace] = []
        while len(traces) < options.ranking_traces and (item := next(items, None)) is not None:
            early.append(item)
            traces += [item.trace] if item.trace is not None else []
        if not traces:
            for item in early:
                store.skip(item.index, item.example, item.reason or "", **item.tables)
            raise UserError(f"no trace was measured: {reasons(store.skipped())}")
        store.write_closing("a-heads", head_sets=rank_heads_by_distance(session, options, traces))
    return sets_of(store.table("head_sets")), chain(early, items)


def rank_heads_by_distance(session: Session, options: Ranking, traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The rows of head_sets.parquet from the mean distance and kurtosis of each head over the ranking traces."""
    rows: list[dict[str, Any]] = []
    for trace in session.bar(traces, "ranking heads", total=len(traces)):
        curves, _ = measure_rhythm(session.lens, trace, options.settings, options.sinks, options.block_bytes)
        rows += head_rows(trace.example, curves)
    table = pd.DataFrame(rows)
    means = {name: _mean(head_array(table, table[name].astype(float))) for name in MEASURES if name in table}
    n_heads = session.lens.n_layers * session.lens.n_heads
    receivers = options.receivers if options.receivers is not None else usual_count(n_heads)
    sets = []
    for layers, numbers in layer_sets(options.layers, session.lens.n_layers).items():
        for sinks in options.sinks:
            suffix = "" if sinks is Sinks.KEPT else "_no_sinks"
            distance, kurtosis = means[f"distance{suffix}"], means[f"kurtosis{suffix}"]
            chosen = choose_heads(distance, kurtosis, numbers, options.share, receivers)
            sets.append(HeadSets(layers, sinks, *chosen))
    return list(head_set_rows(sets, means))


def _mean(values: Float[np.ndarray, "trace layer head"]) -> Float[np.ndarray, "layer head"]:
    """Each head's mean over the traces in which it has a value; NaN where it has none."""
    known = ~np.isnan(values)
    return np.where(known.any(axis=0), np.nansum(values, axis=0) / known.sum(axis=0).clip(min=1), np.nan)


def sets_of(table: pd.DataFrame) -> list[HeadSets]:
    """The sets of heads from head_sets.parquet."""
    sets = []
    for (layers, sinks), part in table.groupby(["layers", "sinks"], sort=False):
        heads = {
            kind: [Head(int(row["layer"]), int(row["head"])) for row in records(part[part["kind"] == kind])]
            for kind in ("local", "global", "receiver")
        }
        sets.append(HeadSets(str(layers), Sinks(str(sinks)), heads["local"], heads["global"], heads["receiver"]))
    return sets


def _measure(
    session: Session, options: RhythmOptions, trace: Trace, sets: Sequence[HeadSets]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one trace."""
    ranking = options.ranking
    curves, entropy = measure_rhythm(session.lens, trace, ranking.settings, ranking.sinks, ranking.block_bytes)
    of_sets = curve_rows(trace, curves, sets)
    peaks = options.analysis(session.seed).peaks
    return {
        "heads": head_rows(trace.example, curves),
        "curves": of_sets,
        "tokens": token_rows(trace, of_sets[0], entropy, peaks),
    }


def _analyse(session: Session, options: RhythmOptions, sets: Sequence[HeadSets]) -> None:
    """The tables over all traces, and the maps of the first one."""
    store, analysis = session.store, options.analysis(session.seed)
    tokens = store.table("tokens")
    if not store.has_closing("b-couplings"):
        log.info("couplings and null models over %d traces", tokens["example"].nunique())
        store.write_closing(
            "b-couplings",
            couplings=coupling_rows(store.table("curves"), tokens, analysis),
            lags=lag_rows(tokens, analysis),
            partial_effects=partial_rows(tokens, analysis),
            token_types=type_rows(tokens, analysis),
            boundaries=boundary_rows(tokens, analysis),
        )
    if options.map_tokens and not store.has_closing("c-maps"):
        trace = Trace.from_row(records(store.table("traces").head(1))[0])
        shown = {"local": sets[0].local, "global": sets[0].far}
        rows = map_of_sets(session.lens, trace, shown, options.map_tokens, options.ranking.block_bytes)
        store.write_closing("c-maps", maps=rows)


def check(session: Session, options: RhythmOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    layer_sets(options.layers, session.shape.n_layers)


def plan(session: Session) -> Plan:
    """Generates one batch (or takes the first given traces), measures two traces and scales up by squared length."""
    options = typed(RhythmOptions, session.cfg.experiment, "experiment")
    check(session, options)
    with measured() as generation:
        first = list(islice(examples(session, Needs.RESPONSE), session.generation.batch))
    traces = sorted((item.trace for item in first if item.trace is not None), key=lambda t: t.n_measured)
    if not traces:
        raise UserError("no trace would be measured: raise data.max_tokens or change the data")
    middle = traces[len(traces) // 2]
    ranking = options.ranking
    settings, sinks = ranking.settings, ranking.sinks
    measure_rhythm(session.lens, middle, settings, sinks, ranking.block_bytes)  # pays for what later ones find ready
    with measured() as passes:
        measure_rhythm(session.lens, middle, settings, sinks, ranking.block_bytes)
    share = session.n_examples / len(first)
    mean_square = float(np.mean([t.n_measured**2 for t in traces])) / middle.n_measured**2
    n = round(len(traces) * share) + min(options.ranking_traces, round(len(traces) * share))
    tokens = 0 if session.given is not None else sum(len(t.token_ids) for t in traces)
    return Plan(
        session.n_examples,
        n,
        round(tokens * share),
        max(generation.peak_bytes, passes.peak_bytes),
        generation.seconds * share + passes.seconds * mean_square * n + CLOSING_SECONDS,
        f"the first {len(first)} examples, one of them measured",
    )
