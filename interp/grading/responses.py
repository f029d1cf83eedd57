"""One response as a row of answers.parquet: its parts, the answer found in it, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.data.examples import Question, TraceText
from interp.grading.outcomes import AnswerFormat, Outcome, extract_answer, outcome
from interp.text.prompts import Condition
from interp.text.trace import EOS_TEXTS, ThinkMarkers, split_response, split_text


@dataclass(frozen=True)
class Grading:
    """How answers are found and compared."""

    markers: ThinkMarkers
    where: AnswerFormat = AnswerFormat.STATED
    seconds: float = 5.0
    """Time limit of one comparison."""


def graded(
    question: Question,
    condition: str,
    text: str,
    grading: Grading,
    *,
    finished: bool,
    n_tokens: int | None = None,
    writer: str | None = None,
    sample: int = 0,
) -> dict[str, Any]:
    """A row of answers.parquet from what a model wrote after the prompt of this condition.

    With reasoning the prompt has opened the think tag; otherwise the text need not close one.
    """
    parts = split_response(text, grading.markers)
    reasoning, answer, closed = parts.reasoning, parts.answer, parts.closed
    if not (closed or condition == Condition.WITH_REASONING or grading.markers.open in text):
        reasoning, answer = "", text
    # Without tags to close, an answer may stand anywhere.
    found = extract_answer(answer if answer else text, grading.where)
    needs_tags = condition == Condition.WITH_REASONING
    became = outcome(
        answer,
        found,
        question.gold,
        finished=finished,
        closed=closed or not needs_tags,
        task=question.task,
        seconds=grading.seconds,
    )
    return {
        "example": question.id,
        "condition": condition,
        "sample": sample,
        "writer": writer,
        "text": text,
        "extracted": found,
        "gold": question.gold,
        "outcome": became,
        "correct": None if question.gold is None and question.task is None else became is Outcome.CORRECT,
        "kind": question.kind,
        "level": question.level,
        "reasoning_words": len(reasoning.split()),
        "answer_words": len(answer.split()),
        "n_tokens": n_tokens,
        "finished": finished,
    }


def graded_trace(trace: TraceText, grading: Grading, sample: int = 0) -> dict[str, Any]:
    """A row of answers.parquet from a given trace. It counts as truncated only where its file says so."""
    condition = trace.condition or Condition.WITH_REASONING
    prompt, response = split_text(trace.text, grading.markers)
    question = Question(trace.question, prompt, trace.gold, trace.kind, trace.level)
    stripped = response.rstrip()
    ended = next((eos for eos in EOS_TEXTS if stripped.endswith(eos)), "")
    text, finished = stripped.removesuffix(ended), trace.finished is not False
    row = graded(question, condition, text, grading, finished=finished, writer=trace.writer, sample=sample)
    if condition == Condition.WITHOUT_REASONING:
        row["reasoning_words"] = 0  # the finished thought was put there
    return row


def samples_of(traces: Sequence[TraceText]) -> list[int]:
    """For each trace, how many of the same question, writer and condition come before it."""
    seen: dict[tuple[Any, ...], int] = {}
    numbers = []
    for trace in traces:
        key = (trace.writer, trace.question, trace.condition)
        numbers.append(seen.get(key, 0))
        seen[key] = numbers[-1] + 1
    return numbers
