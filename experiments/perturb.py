"""Do high-FAI tokens decide what follows? Forced tokens and counterfactual rollouts. (Paper B, Table 1, Fig. 3)"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from experiments.base.collect import Needs, examples
from experiments.base.options import (
    AtLeastOne,
    Layers,
    Megabytes,
    Options,
    Temperature,
    Text,
    distinct,
    one_of,
    typed,
)
from experiments.base.plan import Plan, measured
from experiments.base.ranking import HeadShare, Horizon, Ranking, ranking_of
from experiments.base.session import Session
from experiments.rhythm import rank_heads_by_distance, ranked_first, sets_of
from interp.errors import UserError
from interp.grading.outcomes import extract_answer, is_correct
from interp.model.generate import Sampling
from interp.model.layers import layer_set
from interp.perturb.findings import findings
from interp.perturb.overlap import Scores, drop, edit_distance, jaccard
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.perturb.tables import group_rows, groups_of, predictor_rows, problems_of
from interp.rhythm.couplings import Peaks
from interp.rhythm.tables import HeadSets, curve_rows, token_rows
from interp.rhythm.waad_fai import Sinks, measure_rhythm, response_of
from interp.runs.headlines import Findings, summary
from interp.text.trace import Trace, after_reasoning, decode_response, end_ids

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""About what the self-check, statistics and figures take."""
SCORES = ("fai", "fai_near", "receiver_fai", "waad_drop", "waad", "entropy")
_STEPS = re.compile(r"[.!?](?:\s|$)|\n+")


class PerturbOptions(Options):
    """conf/experiment/perturb.yaml"""

    name: Text
    k: AtLeastOne
    candidates: AtLeastOne
    positions: Annotated[str, one_of(("all", "groups"))] | None
    max_all: AtLeastOne
    scores: Annotated[list[Annotated[str, one_of(SCORES)]], Field(min_length=1), AfterValidator(distinct)]
    rollout_temperature: Temperature
    max_new_tokens: AtLeastOne | None
    batch: AtLeastOne
    layers: Layers
    share: HeadShare
    receivers: AtLeastOne | None
    ranking_traces: AtLeastOne
    window: AtLeastOne
    horizon: Horizon
    block_mb: Megabytes | None

    @property
    def ranking(self) -> Ranking:
        return ranking_of(self, [self.layers], [Sinks.KEPT], self.receivers, self.block_mb)


OPTIONS = PerturbOptions


def run(session: Session) -> Findings:
    """Measures every trace, forces tokens in it, compares groups of positions and scores."""
    options = typed(PerturbOptions, session.cfg.experiment, "experiment")
    check(session, options)
    store = session.store
    session.describe_environment()
    (heads,), items = ranked_first(session, options.ranking)
    golds = session.golds
    for item in items:
        if item.trace is None:
            store.skip(item.index, item.example, item.reason or "", **item.tables)
        else:
            rows = perturb(session, options, item.trace, heads, golds.get(item.example))
            store.write(item.index, item.example, **rows, **item.tables)
    if not store.has_closing("b-groups"):
        problems = problems_of(store.table("tokens"), store.table("effects"), options.scores)
        store.write_closing(
            "b-groups",
            perturbed=group_rows(problems, options.scores, options.k, session.seed),
            predictors=predictor_rows(problems, options.scores, session.seed),
        )
    headlines, more, lines = findings(store.table, options.k)
    more |= {"skipped": store.skipped(), "scores": list(options.scores), "k": options.k}
    facts = summary(headlines, lines=lines, **more)
    session.finish(facts)
    return Findings(headlines, lines)


def perturb(
    session: Session, options: PerturbOptions, trace: Trace, heads: HeadSets, gold: str | None
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one trace: its tokens' scores, and what each forced token did."""
    rhythm = options.ranking
    curves, entropy = measure_rhythm(session.lens, trace, rhythm.settings, [Sinks.KEPT], rhythm.block_bytes)
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
    scores = Scores({name: np.asarray(values[name], dtype=float) for name in options.scores}, entropy)
    chosen = _chosen(session, options, trace, scores)
    return {"tokens": tokens, "effects": _force(session, options, trace, chosen, gold)}


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
    session: Session, options: PerturbOptions, trace: Trace, positions: Sequence[int], gold: str | None
) -> list[dict[str, Any]]:
    lens = session.lens
    shared = trunk(lens, trace.measured_ids)
    forks = [Fork(p, token) for p in positions for token in shared.candidates(p, options.candidates)]
    sampling = Sampling(options.rollout_temperature, options.max_new_tokens or session.generation.max_new_tokens)
    found = rollouts(lens, shared, forks, sampling, session.seed, trace.example, batch=options.batch)
    whole = _answer(session, trace, trace.measured_ids)
    ends = end_ids(lens.tokenizer)
    rows = []
    for n, (fork, (continuation, finished)) in enumerate(zip(forks, found, strict=True)):
        # Both up to the limit of a rollout: what it cuts off is no difference.
        old = trace.measured_ids[fork.position + 1 :][: sampling.max_new_tokens]
        new = [token for token in continuation if token not in ends]
        answer = _answer(session, trace, [*trace.measured_ids[: fork.position], fork.token, *new])
        texts = [decode_response(lens.tokenizer, ids) for ids in (old, new)]
        known = finished and whole is not None
        values: dict[str, tuple[float | None, float | None, float | None]] = {
            "jaccard": (None, None, jaccard(*texts)),
            "edit_distance": (None, None, edit_distance(old, new)),
            "answer_changed": (None, None, float(answer != whole) if known else None),
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
            "draw": n % options.candidates,
            "forced": str(lens.tokenizer.decode([fork.token])),
        }
        for metric, (clean, patched, value) in values.items():
            rows.append({**about, "metric": metric, "clean": clean, "patched": patched, "value": value})
    return rows


def _answer(session: Session, trace: Trace, ids: Sequence[int]) -> str | None:
    """The answer that a sequence gives after its reasoning."""
    text = decode_response(session.lens.tokenizer, ids[response_of(trace).start :])
    return extract_answer(after_reasoning(text, session.lens.markers), session.grading.where)


def _steps(text: str) -> float:
    """Number of sentences and lines."""
    return float(len(_STEPS.findall(text.strip() + "\n")))


def check(session: Session, options: PerturbOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    layer_set(options.layers, session.shape.n_layers)


def plan(session: Session) -> Plan:
    """Makes one batch of traces, forces tokens in the shortest and scales up by length."""
    options = typed(PerturbOptions, session.cfg.experiment, "experiment")
    check(session, options)
    with measured() as making:
        items = list(islice(examples(session, Needs.RESPONSE), session.generation.batch))
    traces = sorted((item.trace for item in items if item.trace is not None), key=lambda t: len(response_of(t)))
    if not traces:
        raise UserError("no trace would be measured: raise data.max_tokens or change the data")
    short = traces[0]
    ranking = replace(options.ranking, ranking_traces=1)
    (heads,) = sets_of_rows(rank_heads_by_distance(session, ranking, [short]))
    with measured() as forcing:
        rows = perturb(session, options, short, heads, None)
    forks = len({(row["position"], row["draw"]) for row in rows["effects"]})
    share = session.n_examples / len(items)
    lengths = np.array([len(response_of(t)) for t in traces], dtype=float)
    # Every position is forked, and rollouts are as long as the response: the work grows with the square of its length.
    seconds = forcing.seconds * float((lengths**2).sum() / lengths[0] ** 2) * share
    generated = forks * lengths[0] / 2 * float((lengths**2).sum() / lengths[0] ** 2) * share
    return Plan(
        round(len(traces) * share),
        round(2 * len(traces) * share),
        round(generated),
        max(making.peak_bytes, forcing.peak_bytes),
        making.seconds * share + seconds + CLOSING_SECONDS,
        f"{len(items)} examples, the shortest of them forked",
    )


def sets_of_rows(rows: list[dict[str, Any]]) -> list[HeadSets]:
    """As `sets_of`, from rows that are in no table yet."""
    import pandas as pd

    return sets_of(pd.DataFrame(rows))
