"""Does reasoning improve the answer? (Paper A, section 3)"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.options import AtLeastOne, By, Lax, Options, Text, choice, distinct, typed
from experiments.base.plan import Plan, measured
from experiments.base.session import Session
from interp.data.examples import Question
from interp.errors import UserError
from interp.grading.findings import findings
from interp.grading.judge import Judge, JudgeOptions
from interp.grading.outcomes import Outcome
from interp.grading.reasoning_effect import accuracy_rows, filter_rows, paired_rows
from interp.grading.responses import graded, graded_trace, samples_of
from interp.model.generate import Backend
from interp.runs.headlines import Findings, summary
from interp.text.prompts import Condition, render
from interp.text.trace import ThinkMarkers, after_reasoning, decode_response, split_text

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""About what statistics and figures take."""


class JudgeSettings(Options):
    """Who judges; no `url` = nobody."""

    url: Annotated[Text, Field(pattern=r"^https?://[^\s/]+")] | None
    model: Text | None
    key_variable: Annotated[Text, Field(min_length=1)]
    parallel: Annotated[int, Field(ge=1, le=1000)]
    timeout: Annotated[float, Field(gt=0, le=86400)]
    retries: Annotated[int, Field(ge=0, le=1000)]
    max_tokens: AtLeastOne


class EvaluateOptions(Options):
    """conf/experiment/evaluate.yaml"""

    name: Text
    conditions: Annotated[list[Annotated[Condition, Lax]], Field(min_length=1), AfterValidator(distinct)] | None
    samples: AtLeastOne
    judge: Annotated[JudgeOptions, By(JudgeSettings)]


OPTIONS = EvaluateOptions


def run(session: Session) -> Findings:
    """Answers and grades every question, or grades given traces; then filters, tests and draws."""
    options = typed(EvaluateOptions, session.cfg.experiment, "experiment")
    conditions, judge = check(session, options)
    store = session.store
    given = session.given
    # Given texts need no model, and vLLM has its own copy.
    session.describe_environment(with_model=given is None and session.backend is Backend.HUGGING_FACE)
    if given is not None:
        for index, rows in session.bar(_grade_given(session, judge), "traces", total=session.n_examples):
            store.write(index, given[index].id, answers=rows)
    else:
        for index, rows in session.bar(_answer(session, options, conditions, judge), "questions", session.n_examples):
            store.write(index, session.questions[index].id, answers=rows)
    answers = store.table("answers")
    answers["writer"] = answers["writer"].fillna("unknown")
    if answers["correct"].isna().all() and answers["score"].isna().all():
        raise UserError("nothing can be graded: the data has no gold answers; set experiment.judge.url for a judge")
    if not store.has_closing("a-statistics"):
        store.write_closing(
            "a-statistics",
            filters=filter_rows(answers),
            accuracy=accuracy_rows(answers, session.seed),
            paired=paired_rows(answers, session.seed),
        )
    headlines, more, lines = findings(store.table, answers)
    more |= {"skipped": store.skipped()}
    facts = summary(headlines, lines=lines, **more)
    session.finish(facts)
    title = f"evaluate on given traces: {', '.join(answers['writer'].unique())}" if given is not None else None
    return Findings(headlines, lines, title)


def _answer(
    session: Session, options: EvaluateOptions, conditions: list[Condition], judge: Judge | None
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Each question with its rows of answers.parquet. A batch is always made whole: resuming changes nothing."""
    questions, size = session.questions, session.generation.batch
    for first in range(0, len(questions), size):
        batch = questions[first : first + size]
        if all(session.store.has(first + i) for i in range(len(batch))):
            continue
        rows: list[list[dict[str, Any]]] = [[] for _ in batch]
        for condition in conditions:
            for sample in range(options.samples):
                for i, row in enumerate(_respond(session, batch, first, condition, sample)):
                    rows[i].append(row)
        for i, question in enumerate(batch):
            if not session.store.has(first + i):
                yield first + i, _judged(judge, question, rows[i], session.grading.markers)


def _respond(
    session: Session, batch: list[Question], first: int, condition: Condition, sample: int
) -> list[dict[str, Any]]:
    """One answer to each question of a batch."""
    tokenizer, markers = session.tokenizer, session.model_options.markers
    prompts = [render(q.text, tokenizer, markers, session.prompt_style, condition, q.earlier) for q in batch]
    responses = session.generator(prompts, session.generation, session.seed, "evaluate", condition, sample, first)
    return [
        graded(
            question,
            condition,
            decode_response(tokenizer, response.ids),
            session.grading,
            finished=response.finished,
            n_tokens=len(response.ids),
            writer=session.model_options.name,
            sample=sample,
        )
        for question, response in zip(batch, responses, strict=True)
    ]


def _grade_given(session: Session, judge: Judge | None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    traces = (session.given or [])[: session.data_options.limit]
    for index, (trace, sample) in enumerate(zip(traces, samples_of(traces), strict=True)):
        if not session.store.has(index):
            question = Question(trace.question, split_text(trace.text, session.grading.markers)[0])
            rows = [graded_trace(trace, session.grading, sample)]
            yield index, _judged(judge, question, rows, session.grading.markers)


def _judged(
    judge: Judge | None, question: Question, rows: list[dict[str, Any]], markers: ThinkMarkers
) -> list[dict[str, Any]]:
    """The rows with the judge's scores for those with an answer to judge."""
    if judge is None:
        return rows
    there = [row for row in rows if row["outcome"] not in (Outcome.TRUNCATED, Outcome.UNCLOSED, Outcome.EMPTY)]
    texts = [after_reasoning(row["text"], markers) for row in there]
    for row, score in zip(there, judge.scores([question] * len(texts), texts), strict=True):
        row["score"] = score
    return rows


def check(session: Session, options: EvaluateOptions) -> tuple[list[Condition], Judge | None]:
    """Everything that can be wrong is said before anything runs."""
    thinks = Condition.WITH_REASONING if session.model_options.reasons else Condition.NO_TAGS
    conditions = options.conditions or [thinks, Condition.WITHOUT_REASONING]
    if options.samples > 1 and session.generation.temperature == 0:
        raise UserError("greedy answers are all the same: set generation.temperature or experiment.samples=1")
    if session.data_options.max_tokens is not None:
        raise UserError("data.max_tokens does not apply to evaluate: generation.max_new_tokens limits the answers")
    for trace in session.given or []:
        if trace.condition is not None:
            choice(Condition, trace.condition, f"trace {trace.id}: condition")
    judge = Judge(options.judge) if options.judge.url else None
    known = session.given if session.given is not None else session.questions
    if judge is None and all(item.gold is None and getattr(item, "task", None) is None for item in known):
        raise UserError("the data has no gold answers: set experiment.judge.url and experiment.judge.model for a judge")
    return conditions, judge


def plan(session: Session) -> Plan:
    """Answers one batch under one condition, or grades a few traces, and scales up."""
    options = typed(EvaluateOptions, session.cfg.experiment, "experiment")
    conditions, _ = check(session, options)
    if session.given is not None:
        traces = session.given[: session.data_options.limit]
        part = traces[:10]
        with measured() as meter:
            for trace in part:
                graded_trace(trace, session.grading)
        seconds = meter.seconds * len(traces) / len(part)
        return Plan(len(traces), 0, 0, meter.peak_bytes, seconds + CLOSING_SECONDS, f"{len(part)} traces")
    questions, size = session.questions, session.generation.batch
    batch = questions[:size]
    rows: list[dict[str, Any]] = []
    respond = partial(_respond, session, batch, 0)
    respond(conditions[0], 0)  # the first pass pays for loading and for what later ones find ready
    with measured() as meter:
        for condition in conditions:
            rows += respond(condition, 0)
    share = options.samples * len(questions) / len(batch)
    return Plan(
        len(questions),
        0,
        round(sum(row["n_tokens"] for row in rows) * share),
        meter.peak_bytes,
        meter.seconds * share + CLOSING_SECONDS,
        f"the first {len(batch)} questions under each condition",
    )
