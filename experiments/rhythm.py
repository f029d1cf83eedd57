"""Do models preplan and anchor? Local and global heads, WAAD, FAI and their couplings. (Paper B, section 4)"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from experiments.base.collect import Needs
from experiments.base.experiment import Example, Experiment, InPaper, Rows
from experiments.base.options import AtLeastOne, Count, Lax, LayerList, Megabytes, Options, Text, distinct
from experiments.base.plan import Plan
from experiments.base.ranking import (
    HeadShare,
    Horizon,
    Portion,
    check_ranking,
    head_sets,
    rank_first,
    ranked_first,
    ranking_of,
)
from experiments.base.sample import sampled
from experiments.base.session import Session
from interp.figures import rhythm as figures
from interp.figures.drawing import Drawings, Tables
from interp.model.layers import layer_sets
from interp.rhythm.couplings import PeakRule, Peaks
from interp.rhythm.findings import RhythmFacts, findings
from interp.rhythm.head_controls import ControlSets, control_rows, control_sets
from interp.rhythm.head_sets import Ranking, head_rows
from interp.rhythm.tables import (
    Analysis,
    boundary_rows,
    coupling_rows,
    curve_rows,
    lag_rows,
    partial_rows,
    token_rows,
    type_rows,
)
from interp.rhythm.waad_fai import Sinks, map_of_sets, measure_rhythm
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.store import records
from interp.text.trace import Trace


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
    shares: Annotated[list[Portion], AfterValidator(distinct)]
    lags: Count
    sentence_draws: Count
    tolerances: Annotated[list[Count], AfterValidator(distinct)]
    map_tokens: Count
    random_sets: Count
    block_mb: Megabytes | None

    @property
    def ranking(self) -> Ranking:
        return ranking_of(self, self.layers, self.sinks, self.receivers, self.block_mb)

    def analysis(self, seed: int) -> Analysis:
        peaks = Peaks(self.peaks.rule, self.peaks.prominence, self.peaks.share)
        return Analysis(peaks, self.shares, self.lags, self.sentence_draws, self.tolerances, seed)


def measure(session: Session, options: RhythmOptions, example: Example) -> Rows:
    """The rows of one trace."""
    trace, ranking = example.subject, options.ranking
    curves, entropy = measure_rhythm(session.lens, trace, ranking.settings, ranking.sinks, ranking.block_bytes)
    of_sets = curve_rows(trace, curves, head_sets(session))
    peaks = options.analysis(session.seed).peaks
    tokens = token_rows(trace, of_sets[0], entropy, peaks)
    sentence, starts = (np.array([row[name] for row in tokens]) for name in ("sentence", "sentence_start"))
    controls = _controls(session, options)
    of_first = curves[head_sets(session)[0].sinks]
    return {
        "heads": head_rows(trace.example, curves),
        "curves": of_sets,
        "tokens": tokens,
        "head_controls": list(control_rows(trace.example, of_first, controls, entropy, sentence, starts, peaks)),
    }


def _controls(session: Session, options: RhythmOptions) -> ControlSets:
    """What stands in for the first set of heads, alike for all traces."""
    if "head_controls" not in session.memo:
        first, lens = head_sets(session)[0], session.lens
        layers = layer_sets(options.layers, lens.n_layers)[first.layers]
        session.memo["head_controls"] = control_sets(first, layers, lens.n_heads, options.random_sets, session.seed)
    found: ControlSets = session.memo["head_controls"]
    return found


def analyse(session: Session, options: RhythmOptions) -> None:
    """The tables over all traces, and the maps of the first one."""
    store, analysis = session.store, options.analysis(session.seed)
    tokens = store.table("tokens")
    if not store.has_closing("b-couplings"):
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
        first = head_sets(session)[0]
        shown = {"local": first.local, "global": first.far}
        rows = map_of_sets(session.lens, trace, shown, options.map_tokens, options.ranking.block_bytes)
        store.write_closing("c-maps", maps=rows)


def tell(session: Session, options: RhythmOptions) -> Findings[RhythmFacts]:
    """The findings, out of the run's tables."""
    first = head_sets(session)[0]
    return findings(session.store.table, session.seed, first.layers, first.sinks)


def check(session: Session, options: RhythmOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    check_ranking(session, options.ranking)


def plan(session: Session, options: RhythmOptions) -> Plan:
    """Measures one trace and scales up by squared length."""

    def alone(_: Session, __: RhythmOptions, example: Example) -> Rows:
        ranking = options.ranking
        curves, _entropy = measure_rhythm(
            session.lens, example.subject, ranking.settings, ranking.sinks, ranking.block_bytes
        )
        return {"heads": head_rows(example.name, curves)}

    sample = sampled(session, options, alone, Needs.RESPONSE)
    return sample.plan(power=2, more=min(options.ranking_traces, round(sample.traces)), seconds=10.0)


def draw(table: Tables, facts: RhythmFacts) -> Drawings:
    """Paper B's Fig. 2 and its tables of couplings."""
    tokens, couplings, maps = table("tokens"), table("couplings"), table("maps")
    model = str(tokens["model"].iloc[0])
    yield "b_fig2_curves", partial(figures.curves, tokens, model)
    yield "rhythm_types", partial(figures.token_types, table("token_types"), model)
    if not maps.empty:
        yield "b_fig2_maps", partial(figures.maps_of_sets, maps, tokens, model)
    if not couplings.empty:
        yield "b_table2_couplings", partial(figures.couplings, couplings, model)
        yield "b_table10_layers", partial(figures.by_layers, couplings, model)
        yield "rhythm_shares", partial(figures.by_share, couplings, model)
        yield "b_table2_couplings", partial(figures.coupling_table, couplings, model)
    if not table("lags").empty:
        yield "rhythm_lags", partial(figures.lags, table("lags"), model)
    if not table("boundaries").empty:
        yield "rhythm_boundaries", partial(figures.boundaries, table("boundaries"), model)


EXPERIMENT = Experiment(
    options=RhythmOptions,
    about=About(
        title="Do models preplan and anchor?",
        question=(
            "WAAD (how far local heads look back) and FAI (how much later tokens look at a token), their peaks, "
            "and whether these go together with entropy, with receiver heads, and with each other."
        ),
        source="Paper B, section 4, Fig. 2, Tables 2, 10 to 12",
        published=(
            "Paper B, section 4.2, Qwen3-4B-Base: entropy +52 % at WAAD peaks, receiver peaks at FAI peaks +171 %, "
            "FAI peaks at or right after WAAD peaks +42 %."
        ),
        figures={
            "b_fig2_curves": "B-Fig-2, right. WAAD, FAI and entropy along a response.",
            "b_fig2_maps": "B-Fig-2, left. Mean maps of local and global heads.",
            "b_table2_couplings": "B-Table-2. The three couplings with their null models.",
            "b_table10_layers": "B-Table-10. The couplings by layers.",
            "rhythm_lags": "FAI and entropy around WAAD peaks; grey: shifted in a circle.",
            "rhythm_shares": "The couplings by the share of tokens that count as peaks.",
            "rhythm_types": "Which types of tokens are peaks, beside their share of all tokens.",
            "rhythm_boundaries": "WAAD peaks as detectors of boundaries; grey: peaks at random places.",
        },
        beside={
            "entropy at WAAD peaks": ".361 against .239, +52 % (Qwen3-4B-Base; its unit is not stated)",
            "share of receiver-FAI peaks that are FAI peaks": ".608 against .224, +171 %",
            "share of FAI peaks at or right after a WAAD peak": ".525 against .369, +42 %",
        },
    ),
    check=check,
    prepare=lambda session, options: rank_first(session, options.ranking),
    examples=lambda session, _: ranked_first(session),
    measure=measure,
    analyse=analyse,
    findings=tell,
    facts=RhythmFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(shared_traces=True, quick={"layers": ["all"], "sinks": ["kept"]}),
    smallest=("data.limit=2", "experiment.sentence_draws=5", "experiment.map_tokens=10"),
)
