"""Do high-FAI tokens decide what follows? Forced tokens and counterfactual rollouts. (Paper B, Table 1, Fig. 3)"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from experiments.base.collect import Needs, answer_of
from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.options import AtLeastOne, Lax, Layers, Megabytes, Options, Temperature, Text, distinct, one_of
from experiments.base.plan import Plan
from experiments.base.ranking import HeadShare, Horizon, check_ranking, head_sets, rank_first, ranked_first, ranking_of
from experiments.base.sample import sampled
from experiments.base.session import Session
from interp.errors import UserError
from interp.figures import perturb as figures
from interp.figures.drawing import Drawings, Tables
from interp.grading.outcomes import is_correct
from interp.model.generate import Sampling, ends_of
from interp.perturb.findings import PerturbFacts, findings
from interp.perturb.overlap import Scores, drop, edit_distance, jaccard
from interp.perturb.rollouts import Fork, Trunk, rollouts, trunk
from interp.perturb.tables import OWN_TOKEN, group_rows, groups_of, predictor_rows, problems_of
from interp.perturb.thirds import third_rows
from interp.rhythm.couplings import Peaks
from interp.rhythm.head_sets import HeadSets, Ranking, rank_by_distance, sets_of
from interp.rhythm.tables import curve_rows, token_rows
from interp.rhythm.waad_fai import Sinks, measure_rhythm, response_of
from interp.runs.about import About
from interp.sentences.demands import surprisal_before_steps
from interp.stats import or_null
from interp.text.sentences import sentences_of
from interp.text.trace import Segment, Trace, decode_response

SCORES = ("fai", "fai_near", "receiver_fai", "waad_drop", "waad", "entropy", "answer_surprisal")


class PerturbOptions(Options):
    """conf/experiment/perturb.yaml"""

    name: Text
    k: AtLeastOne
    candidates: AtLeastOne
    positions: Annotated[str, one_of(("all", "groups"))] | None
    max_all: AtLeastOne
    scores: Annotated[list[Annotated[str, one_of(SCORES)]], Field(min_length=1), AfterValidator(distinct)]
    rollout_temperature: Temperature
    rollout_draws: AtLeastOne
    max_new_tokens: AtLeastOne | None
    batch: AtLeastOne
    layers: Layers
    sinks: Annotated[Sinks, Lax]
    share: HeadShare
    receivers: AtLeastOne | None
    ranking_traces: AtLeastOne
    window: AtLeastOne
    horizon: Horizon
    block_mb: Megabytes | None

    @model_validator(mode="after")
    def _draws_differ(self) -> PerturbOptions:
        if self.rollout_draws > 1 and self.rollout_temperature == 0:
            raise UserError(
                "experiment.rollout_draws above 1 needs experiment.rollout_temperature above 0: greedy "
                "rollouts are all alike"
            )
        return self

    @property
    def ranking(self) -> Ranking:
        return ranking_of(self, [self.layers], [self.sinks], self.receivers, self.block_mb)


def _without_room(options: PerturbOptions, trace: Trace) -> str | None:
    """Why a trace is left out whose response does not hold two groups apart; its last token has no FAI."""
    room = (len(response_of(trace)) - 1) // 2
    return None if room >= options.k else f"its response is too short for two groups of experiment.k={options.k} tokens"


def measure(session: Session, options: PerturbOptions, example: Example) -> Rows | LeftOut:
    """The rows of one trace: its tokens' scores, and what each forced token did."""
    if (why := _without_room(options, example.subject)) is not None:
        return LeftOut(why)
    (heads,) = head_sets(session)
    return perturb(session, options, example.subject, heads)


def perturb(session: Session, options: PerturbOptions, trace: Trace, heads: HeadSets) -> Rows:
    """The same, with scores averaged over these heads."""
    rhythm = options.ranking
    curves, entropy = measure_rhythm(session.lens, trace, rhythm.settings, rhythm.sinks, rhythm.block_bytes)
    (curve,) = curve_rows(trace, curves, [heads])
    tokens = token_rows(trace, curve, entropy, Peaks())
    values = {
        "fai": curve["fai_to_end"],
        "fai_near": curve["fai"],
        "receiver_fai": curve["receiver_fai_to_end"],
        "waad": curve["waad"],
        "waad_drop": drop(curve["waad"]),
        "entropy": entropy,
    }
    shared = trunk(session.lens, trace.measured_ids)
    if "answer_surprisal" in options.scores:
        values["answer_surprisal"] = surprisal_before_steps(session.lens, shared, trace, response_of(trace))
        for row, value in zip(tokens, values["answer_surprisal"], strict=True):
            row["answer_surprisal"] = or_null(value)
    scores = Scores({name: np.asarray(values[name], dtype=float) for name in options.scores}, entropy)
    chosen = _chosen(session, options, trace, scores)
    return {"tokens": tokens, "effects": _force(session, options, trace, shared, chosen)}


def _chosen(session: Session, options: PerturbOptions, trace: Trace, scores: Scores) -> list[int]:
    """Positions of the whole sequence that are forced."""
    response = response_of(trace)
    everywhere = options.positions == "all" or (options.positions is None and len(response) <= options.max_all)
    if everywhere:
        return list(response)
    # The analysis draws the same groups again.
    groups = [groups_of(scores, score, options.k, session.seed, trace.example) for score in options.scores]
    places = {place for of_score in groups for chosen in of_score.values() for place in chosen}
    return [response.start + i for i in sorted(places)]


def _force(
    session: Session, options: PerturbOptions, trace: Trace, shared: Trunk, positions: Sequence[int]
) -> list[dict[str, Any]]:
    lens, gold = session.lens, session.golds.get(trace.example)
    # The trace's own token is forced as well: what changes then has nothing to do with the token.
    asked = [(p, draw, token) for p in positions for draw, token in enumerate(_forced(shared, p, options.candidates))]
    asked = [one for one in asked for _ in range(options.rollout_draws)]
    forks = [Fork(p, token) for p, _, token in asked]
    longest = options.max_new_tokens or session.generation.max_new_tokens
    sampling = Sampling(options.rollout_temperature, longest, thought=session.generation.thought)
    found = rollouts(
        lens, shared, forks, sampling, session.seed, trace.example, batch=options.batch, engine=session.engine,
        reasoning=trace[Segment.REASONING].positions, closing=trace[Segment.END_THINK].positions,
    )  # fmt: skip
    whole = answer_of(session, trace, trace.measured_ids)
    ends = ends_of(lens)
    rows = []
    for (_, draw, _), fork, (continuation, finished) in zip(asked, forks, found, strict=True):
        # Both up to the limit of a rollout: what it cuts off is no difference.
        old = trace.measured_ids[fork.position + 1 :][: sampling.max_new_tokens]
        new = [token for token in continuation if token not in ends]
        if not finished:
            new = new[: len(old)]  # what it would go on with is not known: equal lengths are compared
        answer = answer_of(session, trace, [*trace.measured_ids[: fork.position], fork.token, *new])
        texts = [decode_response(lens.tokenizer, ids) for ids in (old, new)]
        known = finished and whole is not None
        values: dict[str, tuple[float | None, float | None, float | None]] = {
            "jaccard": (None, None, jaccard(*texts)),
            "edit_distance": (None, None, edit_distance(old, new)),
            "answer_changed": (None, None, float(answer != whole) if known else None),
            "unfinished": (None, None, float(not finished)),
            "steps_changed": (_steps(texts[0]), _steps(texts[1]), abs(_steps(texts[1]) - _steps(texts[0]))),
        }
        if gold is not None and finished:
            before, after = (float(is_correct(a, gold, session.grading.seconds)) for a in (whole, answer))
            values["correct_changed"] = (before, after, abs(after - before))
        about = {
            "example": trace.example,
            "intervention": "force_token",
            "position": fork.position,
            "position_end": fork.position + 1,
            "segment": trace.segment_at(fork.position),
            "token": trace.token_text(fork.position),
            "draw": draw if draw < options.candidates else None,
            "control": None if fork.token != trace.measured_ids[fork.position] else OWN_TOKEN,
            "forced": str(lens.tokenizer.decode([fork.token])),
        }
        for metric, (clean, patched, value) in values.items():
            rows.append({**about, "metric": metric, "clean": clean, "patched": patched, "value": value})
    return rows


def _forced(shared: Trunk, position: int, n: int) -> list[int]:
    """The likeliest other tokens at a position, and behind them its own."""
    return [*shared.candidates(position, n), shared.ids[position]]


def _steps(text: str) -> float:
    """Number of sentences."""
    return float(len(sentences_of(text)))


def compare_groups(session: Session, options: PerturbOptions) -> None:
    """Groups of positions beside one another, and which score foretells what a forced token does."""
    store = session.store
    if not store.has_closing("b-groups"):
        problems = problems_of(store.table("tokens"), store.table("effects"), options.scores)
        store.write_closing(
            "b-groups",
            perturbed=group_rows(problems, options.scores, options.k, session.seed),
            predictors=predictor_rows(problems, options.scores, session.seed),
            thirds=third_rows(problems, options.scores, options.k, session.seed),
        )


def check(session: Session, options: PerturbOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    check_ranking(session, options.ranking)


def plan(session: Session, options: PerturbOptions) -> Plan:
    """Forces tokens in one trace and scales up by squared length: every position is forked, and a rollout is as long
    as the response."""

    def alone(_: Session, __: PerturbOptions, example: Example) -> Rows:
        (heads,) = sets_of(pd.DataFrame(rank_by_distance(session.lens, [example.subject], options.ranking)))
        return perturb(session, options, example.subject, heads)

    left_out = partial(_without_room, options)
    sample = sampled(session, options, alone, Needs.RESPONSE, shortest=True, left_out=left_out)
    forks = options.rollout_draws * len({(row["position"], row["draw"]) for row in sample.rows["effects"]})
    return sample.plan(passes=2, generated=forks * sample.middle / 2, power=2)


def draw(table: Tables, facts: PerturbFacts) -> Drawings:
    """Paper B's Table 1 and Fig. 3."""
    perturbed, tokens = table("perturbed"), table("tokens")
    model, seed = str(tokens["model"].iloc[0]), int(tokens["seed"].iloc[0])
    yield "b_fig3_problems", partial(figures.problems, table("effects"), tokens, facts.k, seed, model)
    yield "perturb_predictors", partial(figures.predictors, table("predictors"), model)
    if not perturbed.empty:
        yield "b_table1_perturbed", partial(figures.groups, perturbed, model)
        yield "b_table1_perturbed", partial(figures.group_table, perturbed)


EXPERIMENT = Experiment(
    options=PerturbOptions,
    about=About(
        title="Do high-FAI tokens decide what follows?",
        question=(
            "Other tokens are forced at positions of high and of low FAI, and everything behind them is written anew."
        ),
        source="Paper B, section 4, Table 1, Fig. 3",
        published=(
            "Paper B, Table 1, 70 problems: Jaccard overlap with the original .534 at high FAI, .631 at low FAI; "
            "lower at high FAI in 87 % of the problems."
        ),
        figures={
            "b_table1_perturbed": "B-Table-1. Overlap after a forced token, by group of positions.",
            "b_fig3_problems": "B-Fig-3. The same, problem by problem.",
            "perturb_predictors": "How well each score foretells the effect of a forced token, over all positions.",
        },
        beside={
            "Jaccard overlap of content words: top * by FAI": (
                ".534; at the lowest FAI .631 (Qwen3-4B-Base, 70 problems; raw, nothing subtracted)"
            ),
        },
    ),
    check=check,
    prepare=lambda session, options: rank_first(session, options.ranking),
    examples=lambda session, _: ranked_first(session),
    measure=measure,
    analyse=compare_groups,
    findings=lambda session, options: findings(session.store.table, options.k, options.scores),
    facts=PerturbFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(
        shared_traces=True,
        options={"candidates": 2},
        quick={"scores": ["fai"], "k": 3, "candidates": 1, "positions": "groups", "max_new_tokens": 64},
    ),
    smallest=(
        "data.limit=2",
        *(f"experiment.{option}" for option in ("candidates=1", "positions=groups", "k=2", "max_new_tokens=24")),
    ),
)
