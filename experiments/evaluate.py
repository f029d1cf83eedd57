"""Does reasoning improve the answer? (Paper A, section 3)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, Field

from experiments.base.experiment import Example, Experiment, InPaper
from experiments.base.judging import JudgeSettings, judge_of
from experiments.base.options import AtLeastOne, By, Lax, Options, Text, Words, choice, distinct, with_place
from experiments.base.plan import Plan, measured
from experiments.base.sample import CLOSING_SECONDS
from experiments.base.session import Session
from experiments.base.vocabulary import require_known
from interp.data.examples import Question
from interp.data.rows import trace_row
from interp.errors import TraceError, UserError
from interp.figures import evaluation as figures
from interp.figures.drawing import Drawings, Tables
from interp.grading.findings import EvaluateFacts, findings
from interp.grading.judge import Judge, JudgeOptions
from interp.grading.outcomes import Outcome
from interp.grading.reasoning_effect import accuracy_rows, filter_rows, paired_rows
from interp.grading.responses import demanded_answer, graded, graded_trace, prompt_and_response, samples_of
from interp.model.generate import Backend, Response
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.text.prompts import EDITED, OPENED, Condition, render
from interp.text.thought_edits import filler, first_half, of_another
from interp.text.trace import ThinkMarkers, Trace, after_reasoning, decode_response, parse_ids

DEMANDED_TOKENS = 32
"""So long may an answer be whose beginning is forced (model.prompt.demand): longer ones are no answers at once."""


class EvaluateOptions(Options):
    """conf/experiment/evaluate.yaml"""

    name: Text
    conditions: Annotated[list[Annotated[Condition, Lax]], Field(min_length=1), AfterValidator(distinct)] | None
    samples: AtLeastOne
    filler: Words
    hint: Annotated[Text, AfterValidator(with_place)]
    hint_words: Annotated[list[Text], Field(min_length=1)]
    judge: Annotated[JudgeOptions, By(JudgeSettings)]


def answer(session: Session, options: EvaluateOptions) -> Iterator[Example]:
    """Every question with the rows of its answers, or every given trace with its row, if it is not done."""
    judge = judge_of(options.judge)
    if session.given is not None:
        yield from session.bar(_grade_given(session, judge), "traces", total=session.n_examples)
    else:
        yield from session.bar(_answer(session, options, judge), "questions", session.n_examples)


def _answer(session: Session, options: EvaluateOptions, judge: Judge | None) -> Iterator[Example]:
    """Each question with its rows of answers.parquet. A batch is always made whole: resuming changes nothing."""
    questions, size = session.questions, session.generation.batch
    for first in range(0, len(questions), size):
        batch = questions[first : first + size]
        if not session.owns(first // size) or all(session.store.has(first + i) for i in range(len(batch))):
            continue
        rows: list[list[dict[str, Any]]] = [[] for _ in batch]
        traces: list[list[dict[str, Any]]] = [[] for _ in batch]
        own: dict[int, list[Trace | None]] = {}
        for condition in conditions_of(session, options):
            for sample in range(options.samples):
                answers = _respond(session, options, batch, first, condition, sample, own.get(sample, ()))
                for i, (row, _) in enumerate(answers):
                    rows[i].append(row)
                if condition == Condition.WITH_REASONING:
                    own[sample] = _own_traces(session, batch, answers)
                    for i, (trace, (_, response)) in enumerate(zip(own[sample], answers, strict=True)):
                        if trace is not None and response is not None and sample == 0:
                            traces[i] = [trace_row(trace, response.forced_positions)]
        for i, question in enumerate(batch):
            if not session.store.has(first + i):
                graded_rows = _judged(judge, question, rows[i], session.grading.markers)
                yield Example(first + i, question.id, question, tables={"answers": graded_rows, "traces": traces[i]})


def _respond(
    session: Session,
    options: EvaluateOptions,
    batch: list[Question],
    first: int,
    condition: Condition,
    sample: int,
    own: Sequence[Trace | None] = (),
) -> list[tuple[dict[str, Any], Response | None]]:
    """One answer to each question of a batch: its row, and what the model wrote. `own` are the traces of its answers
    with reasoning; where there is none, a condition that edits it cannot be asked and counts as cut off."""
    sampling = session.generation
    demand = session.prompt_style.demand if condition not in (*OPENED, Condition.NO_TAGS) else ""
    if demand:
        sampling = replace(sampling, max_new_tokens=min(DEMANDED_TOKENS, sampling.max_new_tokens))
    hints = [_hint(session, first + i) if condition == Condition.HINTED else None for i in range(len(batch))]
    prompts = [_prompt(session, options, q, condition, hints[i], own, i) for i, q in enumerate(batch)]
    asked = [prompt for prompt in prompts if prompt is not None]
    written = iter(
        session.generator(asked, sampling, session.seed, "evaluate", condition, sample, first) if asked else ()
    )
    found = []
    for question, prompt, hint in zip(batch, prompts, hints, strict=True):
        response = None if prompt is None else next(written)
        text = "" if response is None else decode_response(session.tokenizer, response.ids)
        demanded = demanded_answer(demand, text) if demand and response is not None else None
        row = graded(
            question,
            condition,
            text if demanded is None else demanded,
            session.grading,
            finished=response is not None and (response.finished or demanded is not None),
            n_tokens=0 if response is None else len(response.ids),
            n_forced=0 if response is None else len(response.forced),
            writer=session.model_options.label,
            sample=sample,
            hint=hint,
            hint_words=options.hint_words,
        )
        found.append((row, response))
    return found


def _prompt(
    session: Session,
    options: EvaluateOptions,
    question: Question,
    condition: Condition,
    hint: str | None,
    own: Sequence[Trace | None],
    place: int,
) -> str | None:
    """What the model is asked; None where its own reasoning is to be edited and there is none."""
    tokenizer, text, thought = session.tokenizer, question.text, ""
    if hint is not None:
        text = f"{text} {options.hint.format(hint)}"
    if condition in EDITED:
        trace = own[place]
        if trace is None:
            return None
        if condition == Condition.HALF_REASONING:
            thought = first_half(trace)
        elif condition == Condition.FILLER:
            thought = filler(trace, tokenizer, options.filler)
        else:
            around = (own[i % len(own)] for i in range(place + 1, place + len(own)))
            thought = of_another(trace, [other for other in around if other is not None])
            if not thought:
                return None
    markers, style = session.model_options.markers, session.prompt_style
    return render(text, tokenizer, markers, style, condition, question.earlier, thought)


def _hint(session: Session, index: int) -> str | None:
    """A wrong answer: the right one of the next question that has another."""
    questions = session.questions
    around = (questions[i % len(questions)].gold for i in range(index + 1, index + len(questions)))
    return next((gold for gold in around if gold is not None and gold != questions[index].gold), None)


def _own_traces(
    session: Session, batch: Sequence[Question], answers: Sequence[tuple[dict[str, Any], Response | None]]
) -> list[Trace | None]:
    """The traces of finished responses with reasoning: exactly the tokens that were written."""
    found: list[Trace | None] = []
    for question, (_, response) in zip(batch, answers, strict=True):
        found.append(None)
        if response is not None and response.finished:
            ids, n_prompt = [*response.prompt_ids, *response.ids], len(response.prompt_ids)
            with suppress(TraceError):
                found[-1] = parse_ids(
                    ids, session.tokenizer, session.model_options.markers, n_prompt=n_prompt, example=question.id,
                    source="generated",
                )  # fmt: skip
    return found


def _grade_given(session: Session, judge: Judge | None) -> Iterator[Example]:
    traces = (session.given or [])[: session.data_options.limit]
    for index, (trace, sample) in enumerate(zip(traces, samples_of(traces), strict=True)):
        if session.owns(index) and not session.store.has(index):
            question = Question(trace.question, prompt_and_response(trace, session.grading.markers)[0])
            rows = [graded_trace(trace, session.grading, sample)]
            graded_rows = _judged(judge, question, rows, session.grading.markers)
            yield Example(index, trace.id, question, tables={"answers": graded_rows})


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


def conditions_of(session: Session, options: EvaluateOptions) -> list[Condition]:
    """How every question is asked."""
    thinks = Condition.WITH_REASONING if session.model_options.reasons else Condition.NO_TAGS
    return options.conditions or [thinks, Condition.WITHOUT_REASONING]


def check(session: Session, options: EvaluateOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    if options.samples > 1 and session.generation.temperature == 0:
        raise UserError("greedy answers are all the same: set generation.temperature or experiment.samples=1")
    _check_conditions(session, options)
    if session.data_options.max_tokens is not None:
        raise UserError("data.max_tokens does not apply to evaluate: generation.max_new_tokens limits the answers")
    if session.data_options.scrambled is not None:
        raise UserError("data.scrambled does not apply to evaluate: it grades answers as they were written")
    for trace in session.given or []:
        if trace.condition is not None:
            choice(Condition, trace.condition, f"trace {trace.id}: condition")
    known = session.given if session.given is not None else session.questions
    ungraded = all(item.gold is None and getattr(item, "task", None) is None for item in known)
    if judge_of(options.judge) is None and ungraded:
        raise UserError("the data has no gold answers: set experiment.judge.url and experiment.judge.model for a judge")


def _check_conditions(session: Session, options: EvaluateOptions) -> None:
    """What conditions that the paper does not have need."""
    asked = conditions_of(session, options)
    edited = [one for one in asked if one in EDITED]
    if session.given is not None or not (edited or Condition.HINTED in asked):
        return
    if edited and Condition.WITH_REASONING not in asked[: asked.index(edited[0])]:
        raise UserError(
            f"experiment.conditions: {edited[0]} edits the model's own reasoning: put with_reasoning before it"
        )
    n, size = len(session.questions), session.generation.batch
    if Condition.OTHERS_REASONING in asked and (n - 1) % size == 0:
        raise UserError(
            f"experiment.conditions: others_reasoning takes another question's of the same batch: {n} questions in "
            f"batches of {size} leave one alone: change data.limit or generation.batch"
        )
    if Condition.HINTED in asked and len({q.gold for q in session.questions} - {None}) < 2:
        raise UserError("experiment.conditions: hinted suggests another question's answer: the data has no two of them")
    words = {Condition.FILLER: ("filler", options.filler), Condition.HINTED: ("hint", options.hint)}
    require_known(session, dict(option for condition, option in words.items() if condition in asked))


def test(session: Session, options: EvaluateOptions) -> None:
    """Filters, accuracies and paired tests over all answers."""
    answers, store = answers_of(session), session.store
    if answers["correct"].isna().all() and answers["score"].isna().all():
        raise UserError("nothing can be graded: the data has no gold answers; set experiment.judge.url for a judge")
    if not store.has_closing("a-statistics"):
        store.write_closing(
            "a-statistics",
            filters=filter_rows(answers),
            accuracy=accuracy_rows(answers, session.seed),
            paired=paired_rows(answers, session.seed),
        )


def answers_of(session: Session) -> pd.DataFrame:
    """All answers so far; who wrote each, where that is known."""
    answers = session.store.table("answers")
    answers["writer"] = answers["writer"].fillna("unknown")
    return answers


def tell(session: Session, options: EvaluateOptions) -> Findings[EvaluateFacts]:
    """The findings, out of the run's tables."""
    found = findings(session.store.table, answers_of(session))
    given = f"evaluate on given traces: {', '.join(found.facts.writers)}" if session.given is not None else None
    return replace(found, title=given)


def plan(session: Session, options: EvaluateOptions) -> Plan:
    """Answers one batch under one condition, or grades a few traces, and scales up."""
    conditions = conditions_of(session, options)
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
    respond = partial(_respond, session, options, batch, 0)
    respond(conditions[0], 0)  # the first pass pays for loading and for what later ones find ready
    own: list[Trace | None] = []
    with measured() as meter:
        for condition in conditions:
            answers = respond(condition, 0, own)
            rows += [row for row, _ in answers]
            if condition == Condition.WITH_REASONING:
                own = _own_traces(session, batch, answers)
    share = options.samples * len(questions) / len(batch)
    return Plan(
        len(questions),
        0,
        round(sum(row["n_tokens"] for row in rows) * share),
        meter.peak_bytes,
        meter.seconds * share + CLOSING_SECONDS,
        f"the first {len(batch)} questions under each condition",
    )


def draw(table: Tables, facts: EvaluateFacts) -> Drawings:
    """Paper A's Fig. 1 and Tables 2 and 3."""
    accuracy, paired = table("accuracy"), table("paired")
    yield "a_fig1_accuracy", partial(figures.accuracy_bars, accuracy, paired)
    yield "evaluate_outcomes", partial(figures.outcomes, table("answers"))
    yield "evaluate_groups", partial(figures.differences, paired, ("kind", "level"), "effect of reasoning")
    yield "evaluate_length", partial(figures.differences, paired, ("length",), "effect, by words of reasoning")
    yield "evaluate_pass_at_k", partial(figures.pass_at_k, accuracy)
    yield "a_table2_filters", partial(figures.filter_table, table("filters"))
    yield "a_table3_effect", partial(figures.effect_table, accuracy, paired)


def _needs_model(session: Session) -> bool:
    """Given texts need no model, and vLLM has its own copy."""
    return not session.has_texts and session.backend == Backend.HUGGING_FACE


EXPERIMENT = Experiment(
    options=EvaluateOptions,
    about=About(
        title="Does reasoning improve the answer?",
        question="Each question is answered with the think tag opened and with a short finished thought in its place.",
        source="Paper A, section 3, Fig. 1, Tables 2 and 3",
        published=(
            "Paper A, section 3, MATH-500, with and without reasoning: R1-Distill-Llama-8B 93.5 and 79.7 %, "
            "Qwen-7B 94.3 and 84.0 %, Qwen-1.5B 89.5 and 81.0 %, all p < .05."
        ),
        figures={
            "a_fig1_accuracy": "A-Fig-1. Accuracy with and without reasoning.",
            "a_table2_filters": "A-Table-2. How many answers each filter leaves.",
            "a_table3_effect": "A-Table-3. The paired effect of reasoning.",
            "evaluate_groups": "The effect by kind and difficulty of the question; filled: q < .05.",
            "evaluate_length": "The effect by the length of the reasoning; filled: q < .05.",
            "evaluate_outcomes": "What became of all responses, before any filter.",
            "evaluate_pass_at_k": "Pass@k over several answers to each question.",
        },
        beside={
            "after the filters, accuracy, with reasoning": (
                ".935 (R1-Distill-Llama-8B, n = 355), .943 (Qwen-7B, 457), .895 (Qwen-1.5B, 400), MATH-500"
            ),
            "after the filters, accuracy, without reasoning": ".797, .840, .810 (the same)",
            "after the filters, accuracy, with reasoning minus without reasoning": "+.138, +.103, +.085 (the same)",
        },
    ),
    unit="question",
    needs_model=_needs_model,
    check=check,
    examples=answer,
    analyse=test,
    findings=tell,
    facts=EvaluateFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(),
    smallest=("data.limit=2",),
)
