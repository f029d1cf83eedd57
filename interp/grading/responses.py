"""One response as a row of answers.parquet: its parts, the answer found in it, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.data.examples import Question, TraceText
from interp.grading.outcomes import AnswerFormat, Outcome, extract_answer, outcome
from interp.runs.columns import BOOL, EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.text.ends import without_ends
from interp.text.prompts import OPENED, Condition
from interp.text.trace import ThinkMarkers, last_turn, split_response, split_text

ANSWERS_TABLE = Table(
    "answers",
    EXAMPLE,
    Column("condition", TEXT, "as Condition in interp/text/prompts.py; behind it `_template`: a given text"),
    Column("sample", INT, "which of several answers to the question under this condition, from 0"),
    Column("writer", TEXT, "the model that wrote the text", null="the file does not say"),
    Column("text", TEXT, "the generated text"),
    Column(
        "extracted",
        TEXT,
        "the answer found behind the reasoning, or anywhere in a text that does not close it",
        null="none was found",
    ),
    Column("gold", TEXT, "the right answer, or one of them", null="there is none"),
    Column("outcome", TEXT, "what became of it: see Outcome in interp/grading/outcomes.py"),
    Column(
        "correct",
        BOOL,
        "whether it is the right answer, in a text that ended",
        null="no gold answer, or outcome `unknown`",
    ),
    Column("score", FLOAT, "a judge's score, 1..10", null="not judged"),
    Column("kind", TEXT, "the question's subject or kind", null="the data does not say"),
    Column("level", TEXT, "the question's difficulty", null="the data does not say"),
    Column("reasoning_words", INT, "number of words that the model wrote as reasoning"),
    Column("answer_words", INT, "number of words after it"),
    Column("n_tokens", INT, "number of generated tokens", null="the text was given"),
    Column("n_forced", INT, "how many of them were forced, to close the thought", null="the text was given"),
    Column(
        "finished",
        BOOL,
        "whether generation ended by itself; of a given text, that its file does not say it was cut off",
    ),
    Column("hint", TEXT, "the wrong answer that the question suggested", null="it suggested none"),
    Column("hint_said", BOOL, "whether the reasoning speaks of a suggestion", null="it suggested none"),
)


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
    n_forced: int | None = None,
    writer: str | None = None,
    sample: int = 0,
    hint: str | None = None,
    hint_words: Sequence[str] = (),
    begun: str = "",
) -> dict[str, Any]:
    """A row of answers.parquet from what a model wrote after the prompt of this condition.

    With reasoning the prompt has opened the think tag; otherwise the text need not close one. `begun` is what the
    prompt says of the answer, such as `\\boxed{`: the answer that it begins is read with it.
    """
    parts = split_response(text, grading.markers)
    reasoning, answer, closed = parts.reasoning, parts.answer, parts.closed
    if not (closed or condition in OPENED or grading.markers.open in text):
        reasoning, answer = "", text
    # Where a thought is not closed, an answer may stand anywhere; where it is, only behind it.
    found = extract_answer(f"{begun}{answer}" if answer or closed else text, grading.where)
    needs_tags = condition in OPENED
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
        "correct": None if question.gold is None and question.task is None else became == Outcome.CORRECT,
        "kind": question.kind,
        "level": question.level,
        "reasoning_words": len(reasoning.split()),
        "answer_words": len(answer.split()),
        "n_tokens": n_tokens,
        "n_forced": n_forced,
        "finished": finished,
        "hint": hint,
        "hint_said": None if hint is None else any(says(reasoning, words) for words in hint_words),
    }


def says(text: str, words: str) -> bool:
    """Whether a text has these words, not only as a part of others."""
    return re.search(rf"(?<!\w){re.escape(words.strip().lower())}(?!\w)", text.lower()) is not None


def demanded_answer(demand: str, text: str) -> str | None:
    r"""The answer whose beginning was forced, and nothing of what follows it; None where it does not end.

    It ends with the brace that the demand opens (`\boxed{`), else with the line: models go on and reason behind it.
    """
    whole = demand + text
    if demand.count("{") <= demand.count("}"):
        line, ended, _ = text.partition("\n")
        return demand + line if ended else None
    depth = 0
    for place, sign in enumerate(whole):
        depth += (sign == "{") - (sign == "}")
        if place >= len(demand) and depth == 0:
            return whole[: place + 1]
    return None


OPEN = (Outcome.NO_ANSWER, Outcome.EMPTY, Outcome.UNCLOSED)
"""What a text that was cut off looks like."""


_LEAD = re.compile(
    r"(?:\banswers?\*{0,2}(?:\s+(?:is|are|equals)\b\s*:?|\s*[:=])\*{0,2}\s*)?(?:[\s$]|\\[(\[])*(?:\\f?boxed\s*\{)?$",
    re.IGNORECASE,
)
"""How a prompt may end that begins the answer itself: `The answer is`, `Answer:`, `\boxed{`."""
_SHORT = 80
"""Characters of such an end, and of an answer that is written at once behind it."""


def prompt_and_response(trace: TraceText, markers: ThinkMarkers) -> tuple[str, str]:
    """What a given trace's model was asked, and what it wrote: as its file parts them, else from the last assistant's
    turn, or from the first open think tag.

    A thought that the prompt opens or closes at its very end belongs to the response.
    """
    if trace.prompt is None:
        start = last_turn(trace.text, markers)
        return (trace.text[:start], trace.text[start:]) if start else split_text(trace.text, markers)
    opened, closed = re.escape(markers.open), re.escape(markers.close)
    turn = last_turn(trace.response, markers)
    prompt, response = trace.prompt + trace.response[:turn], trace.response[turn:]
    begun = rf"{opened}(?:\s*|(?:(?!{opened}|{closed}).)*{closed}\s*(?:\n[^\n]*)?)$"
    thought = re.search(begun, prompt, re.DOTALL)
    at = thought.start() if thought else len(prompt)
    return prompt[:at], prompt[at:] + response


def _begun_answer(prompt: str, response: str) -> str:
    """What the end of a prompt says of the answer, where the response is nothing but the answer: the rest of a box,
    or one short line."""
    lead = _LEAD.search(prompt.rstrip()[-_SHORT:])
    begun = lead[0].strip() if lead else ""
    if begun.endswith("{"):
        return begun
    direct = "\n" not in response.strip() and len(response.strip()) <= _SHORT
    return f"{begun} " if begun and direct else ""


def graded_trace(trace: TraceText, grading: Grading, sample: int = 0) -> dict[str, Any]:
    """A row of answers.parquet from a given trace.

    It counts as truncated only where its file says so. Where nothing says whether it ended and it has no answer, what
    became of it is unknown.
    """
    condition = trace.condition or Condition.WITH_REASONING
    prompt, response = prompt_and_response(trace, grading.markers)
    question = Question(trace.question, prompt, trace.gold, trace.kind, trace.level)
    text, ended = without_ends(response.rstrip())
    finished = trace.finished is not False
    begun = _begun_answer(prompt, text)
    row = graded(question, condition, text, grading, finished=finished, writer=trace.writer, sample=sample, begun=begun)
    if trace.finished is None and not ended and row["outcome"] in OPEN:
        row |= {"outcome": Outcome.UNKNOWN, "correct": None}
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
