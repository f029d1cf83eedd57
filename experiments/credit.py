"""Does credit from the rhythm make RL better? GRPO with per-token credit on a verifiable task. (Paper B, section 5)"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import OmegaConf

from experiments.base.collect import Needs, from_response, respond
from experiments.base.credit_gates import measure_treatment
from experiments.base.credit_options import ALL_HEADS, CreditOptions
from experiments.base.credit_training import (
    CHECKPOINTS,
    decisions_of,
    fit,
    grpo_config,
    held_out_accuracy,
    make_trainer,
    responses_a_step,
    train,
)
from experiments.base.data import DECISIONS, DataOptions, questions
from experiments.base.experiment import Example, Experiment, InPaper
from experiments.base.options import typed
from experiments.base.plan import Plan, measured
from experiments.base.session import Session
from interp.credit.compare import compare
from interp.credit.findings import CreditFacts, findings
from interp.credit.gamma import Strategy
from interp.credit.rows import credited_rows
from interp.credit.signals import CreditHeads, Measuring
from interp.data.examples import Question
from interp.errors import UserError
from interp.figures import credit as figures
from interp.figures.drawing import Drawings, Tables
from interp.heads.scores import Head
from interp.model.generate import Backend
from interp.model.layers import layer_set
from interp.rhythm.head_sets import rank_by_distance
from interp.rhythm.waad_fai import response_of
from interp.runs.about import About
from interp.runs.compared import TIMING
from interp.runs.findings import Findings, reasons
from interp.runs.store import read_json, records, write_json
from interp.text.trace import Trace

log = logging.getLogger(__name__)

FIRST = "a-start"
"""The part that holds what is known before training."""


def learn(session: Session, options: CreditOptions) -> None:
    """Ranks heads on the model as it is, trains it, and measures it on held-out questions before, during and after."""
    store, (train_set, test_set) = session.store, _questions(session, options)
    if not store.has_closing(FIRST):
        # Before any step, so that a resumed run credits the same heads.
        traces = _traces(session, options, train_set)
        ranked = rank_by_distance(session.lens, traces, options.ranking)
        measuring = _measuring(session, options, ranked)
        decide, ids = decisions_of(session), [traces[0].token_ids[i] for i in response_of(traces[0])]
        decisions = None if decide is None else decide(torch.tensor([ids]))[0]
        shown = credited_rows(session.lens, traces[0], options.rule, measuring, session.seed, decisions)
        oracle = options.strategy == Strategy.ORACLE
        about = measure_treatment(session, options, traces, train_set, measuring) if oracle else []
        store.write_closing(FIRST, head_sets=ranked, credited=shown, treatment=about)
    measuring = _measuring(session, options, records(store.table("head_sets")))
    timing = train(session, options, train_set, test_set, measuring)
    write_json(session.directory / TIMING, timing)  # not in a table or the summary: those are the same each time


def tell(session: Session, options: CreditOptions) -> Findings[CreditFacts]:
    """The findings, out of the run's tables."""
    train_set, test_set = _questions(session, options)
    headlines, lines = findings(session.store.table, read_json(session.directory / TIMING))
    grpo = grpo_config(session, options, session.directory)
    lines.insert(0, f"loss of GRPO: {grpo.loss_type}, importance ratios by {grpo.importance_sampling_level}")
    facts = CreditFacts(options.strategy, len(train_set), len(test_set))
    return Findings(headlines, facts, lines, f"credit: {options.strategy} on {session.model_options.label}")


def plan(session: Session, options: CreditOptions) -> Plan:
    """Trains for two steps, measures once, and scales up."""
    train_set, test_set = _questions(session, options)
    trial = options.model_copy(update={"steps": 2, "save_every": 10**9})
    ranked = rank_by_distance(session.lens, _traces(session, options, train_set), options.ranking)
    with TemporaryDirectory() as folder:
        trainer = make_trainer(session, trial, train_set, _measuring(session, options, ranked), Path(folder))
        with measured() as measuring:
            held_out_accuracy(session, options, test_set, 0)
        fit(trainer)
    # The first step pays for what later ones find ready.
    seconds = [log["step_time"] for log in trainer.state.log_history if "step_time" in log][-1]
    measurements = options.steps // options.eval_every + 1
    per_step = responses_a_step(trainer)
    lengths = [log["completions/mean_length"] for log in trainer.state.log_history if "step_time" in log]
    return Plan(
        options.steps * per_step + measurements * len(test_set) * options.test_samples,
        options.steps,
        round(options.steps * per_step * lengths[-1]),
        measuring.peak_bytes,
        seconds * options.steps + measuring.seconds * measurements,
        "two steps and one measurement; the memory is that of the measurement",
    )


def check(session: Session, options: CreditOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    layer_set(options.layers, session.shape.n_layers)
    options.rule.check()
    if session.given is not None:
        raise UserError("credit needs questions with right answers to train on: data=traces has none to ask")
    if options.test_samples > 1 and session.generation.temperature == 0:
        raise UserError("greedy answers are all the same: set generation.temperature or experiment.test_samples=1")
    if session.backend != Backend.HUGGING_FACE:
        raise UserError("held-out answers come from the model in training: use experiment.grpo.use_vllm for rollouts")
    grpo = grpo_config(session, options, session.directory)
    if grpo.importance_sampling_level == "sequence" and options.strategy != Strategy.UNIFORM:
        raise UserError(
            "experiment.grpo.importance_sampling_level=sequence weighs a response by one ratio, so that only the mean "
            "of its tokens' credit reaches the gradient: use token, or experiment.strategy=uniform"
        )
    if options.strategy == Strategy.ORACLE and session.cfg.data.kind != DECISIONS:
        raise UserError("experiment.strategy=oracle needs data that knows which tokens decide: use data=decisions")
    if options.rerank_every is not None and options.heads == ALL_HEADS:
        raise UserError("experiment.rerank_every ranks heads: use it with experiment.heads=targeted")
    fresh, held_out = _questions(session, options)
    for name, chosen in (("train", fresh), ("test", held_out)):
        if not chosen:
            raise UserError(f"no question is left: change experiment.{name}")
        if any(question.gold is None and question.task is None for question in chosen):
            raise UserError(f"experiment.{name}: a question has no right answer to reward")
    a_step = (grpo.generation_batch_size or 0) // (grpo.num_generations or 1)
    if len(fresh) < a_step:
        raise UserError(f"experiment.train has {len(fresh)} questions, and one step asks {a_step}: raise its limit")


def _questions(session: Session, options: CreditOptions) -> tuple[list[Question], list[Question]]:
    """The training and the held-out questions, none of which is in both."""
    if "questions" not in session.memo:
        held_out = questions(_changed(session, options.test, "test"))
        texts = {question.text for question in held_out}
        train_set = questions(_changed(session, options.train, "train"))
        fresh = [question for question in train_set if question.text not in texts]
        if len(fresh) < len(train_set):
            log.info("%d training questions are held out and left away", len(train_set) - len(fresh))
        session.memo["questions"] = fresh, held_out
    found: tuple[list[Question], list[Question]] = session.memo["questions"]
    return found


def _changed(session: Session, changes: dict[str, Any], where: str) -> DataOptions:
    data = OmegaConf.to_container(session.cfg.data, resolve=True)
    return typed(DataOptions, {**data, **changes}, f"experiment.{where}")  # type: ignore[dict-item]


def _traces(session: Session, options: CreditOptions, train_set: Sequence[Question]) -> list[Trace]:
    """Responses of the model as it is to the first training questions."""
    asked, size = list(train_set[: options.ranking_traces]), session.generation.batch
    items: list[Example] = []
    for first in range(0, len(asked), size):
        batch = asked[first : first + size]
        for question, response in zip(batch, respond(session, batch, first, Needs.RESPONSE), strict=True):
            items.append(from_response(session, len(items), question, response, Needs.RESPONSE))
    traces = [item.subject for item in items if item.subject is not None]
    if not traces:
        raise UserError(f"no response to rank heads on: {reasons(Counter(str(item.reason) for item in items))}")
    return traces


def _measuring(session: Session, options: CreditOptions, head_sets: Sequence[dict[str, Any]]) -> Measuring:
    """Which heads WAAD and FAI are averaged over."""
    if options.heads == ALL_HEADS:
        layers = layer_set(options.layers, session.lens.n_layers)
        every = tuple(Head(layer, head) for layer in layers for head in range(session.lens.n_heads))
        heads = CreditHeads(every, every)
    else:
        kinds = {
            kind: tuple(Head(int(row["layer"]), int(row["head"])) for row in head_sets if row["kind"] == kind)
            for kind in ("local", "global")
        }
        heads = CreditHeads(kinds["local"], kinds["global"])
    return Measuring(heads, options.ranking.settings, options.sinks)


def draw(table: Tables, facts: CreditFacts) -> Drawings:
    """The learning curve, and where the credit goes."""
    training, credited = table("training"), table("credited")
    title = f"{training['model'].iloc[0]}, {facts.strategy} credit"
    yield "credit_curve", partial(figures.learning_curve, training, title)
    yield "credit_tokens", partial(figures.credited_tokens, credited, title)


def draw_compared(table: Tables, runs: Mapping[str, Tables], subject: str) -> Drawings:
    """Many trainings of few arms: the study says more than run by run (Paper B, Fig. 4 and Table 3)."""
    study, curves = table("study"), table("study_curves")
    yield "b_fig4_curves", partial(figures.study_curves, curves, subject)
    yield "b_table3_accuracy", partial(figures.study_accuracy, study, subject)
    yield "b_table3_accuracy", partial(figures.study_table, study)


EXPERIMENT = Experiment(
    options=CreditOptions,
    about=About(
        title="Does credit from the rhythm make RL better?",
        question="One training with GRPO whose advantages are weighted by token, measured on held-out questions.",
        source="Paper B, section 5, Figs. 4 to 7",
        published=(
            "Paper B, section 5, Countdown, Qwen3-4B-Base: GRPO 52.6, random 55.0, entropy 57.7, local-chunk 59.9, "
            "global-anchor 60.4, coupled rhythm 63.1 %."
        ),
        figures={
            "credit_curve": "B-Fig-4. Learning curve of one training.",
            "credit_tokens": "Where the credit goes.",
        },
        beside={
            "held-out accuracy after": ".526 (GRPO) to .631 (coupled rhythm), Countdown, Qwen3-4B-Base",
        },
    ),
    unit=None,
    splits=False,
    changes_model=True,
    check=check,
    analyse=learn,
    findings=tell,
    facts=CreditFacts,
    draw=draw,
    plan=plan,
    tidy=lambda session, _: shutil.rmtree(session.own_folder(CHECKPOINTS)),
    in_paper=InPaper(
        unless_asked="A training takes longer than a report should: run experiment=credit study=strategies."
    ),
    compare=compare,
    has_arms=True,
    draw_compared=draw_compared,
    smallest=(
        "data=planted",
        "generation.max_new_tokens=24",
        *(f"experiment.{option}" for option in ("steps=2", "eval_every=1", "save_every=1", "ranking_traces=2")),
        *(f"experiment.{option}" for option in ("train.limit=4", "test.limit=3", "grpo.num_generations=4")),
        "experiment.grpo.per_device_train_batch_size=8",
    ),
)
