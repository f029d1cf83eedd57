r"""Which answer a text gives, and whether it is the right one.

Three steps, each of which can fail and says so: is there a text that ends by itself (`Outcome`), is there an answer in
it (`extract_answer`), does it equal the gold answer (`equals`, or the scorer of the question's own generator)?
"""

from __future__ import annotations

import logging
import re
from enum import StrEnum
from typing import Any

from interp.data.examples import Task
from interp.grading.admission import Admits, admitted
from interp.grading.equality import equal_as_text
from interp.grading.extraction import AnswerFormat, extract_answer
from interp.grading.scorers import rule_of
from interp.grading.time_limit import TimeLimitError, WorkerError, call_with_time_limit
from interp.grading.units import same_unit, without_unit

__all__ = ["AnswerFormat", "Outcome", "equals", "extract_answer", "is_correct", "outcome", "score_task"]

log = logging.getLogger(__name__)

_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:can(?:'|no)t|can not|won't|will not) "
    r"(?:help|assist|answer|provide|do|comply|fulfil)|as an AI\b)",
    re.IGNORECASE,
)


class Outcome(StrEnum):
    """What became of one response. All but `correct`, `unknown` and `ungraded` count as not right."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """There is a text but no answer in it."""
    REFUSED = "refused"
    """There is no answer in it, and it says that it will not or cannot answer."""
    EMPTY = "empty"
    """There is no text after the reasoning."""
    UNCLOSED = "unclosed"
    """The think tags are missing or never closed."""
    TRUNCATED = "truncated"
    """It was cut off at the limit of new tokens."""
    UNKNOWN = "unknown"
    """A given text that gives no answer, or does not close its thought, and nothing says whether it was cut off."""
    TIMED_OUT = "timed_out"
    """Comparing the answer with the gold answer took longer than the time limit."""
    UNGRADED = "ungraded"
    """There is no gold answer to compare with."""


def is_correct(extracted: str | None, gold: str, seconds: float = 5.0) -> bool:
    """Equal as text, or as mathematics by math-verify. An answer that takes longer than `seconds` is not."""
    try:
        return extracted is not None and equals(extracted, gold, seconds)
    except TimeLimitError:
        return False


def equals(extracted: str, gold: str, seconds: float) -> bool:
    """Equal as text or number (equality.py), or as mathematics by math-verify, which sees only what
    `Admits.MATHEMATICS` lets through.

    Raises TimeLimitError after `seconds`.
    """
    known = equal_as_text(extracted, gold)
    if known is not None:
        return known
    (ours, our_unit), (theirs, their_unit) = without_unit(extracted), without_unit(gold)
    if not same_unit(our_unit, their_unit):
        return False
    if not all(admitted(text, Admits.MATHEMATICS) for text in (ours, theirs)):
        return False
    return _limited("interp.grading.comparisons:math_equal", theirs, ours, seconds=seconds, imports=("math_verify",))


def score_task(extracted: str, task: Task, seconds: float) -> bool:
    """Whether the question's own generator gives the answer full marks.

    A generator that evaluates answers sees only what its rule lets through (`scorers.py`); UserError if it evaluates
    them and has no rule, TimeLimitError after `seconds`.
    """
    rule = rule_of(task.name)
    if rule is not None and not admitted(extracted, rule):
        return False
    arguments = (extracted, task.name, task.entry, task.options)
    return _limited("interp.grading.comparisons:task_score", *arguments, seconds=seconds, imports=("reasoning_gym",))


def is_refusal(text: str) -> bool:
    """Whether a text says that its writer will not or cannot answer."""
    return bool(_REFUSAL.search(text))


def outcome(
    answer: str,
    extracted: str | None,
    gold: str | None,
    *,
    finished: bool,
    closed: bool,
    task: Task | None = None,
    seconds: float = 5.0,
) -> Outcome:
    """What became of a response: its text after the reasoning, what was extracted from it, and the gold answer."""
    if not finished:
        return Outcome.TRUNCATED
    if not closed:
        return Outcome.UNCLOSED
    if not answer.strip():
        return Outcome.EMPTY
    if extracted is None and is_refusal(answer):
        return Outcome.REFUSED
    if gold is None and task is None:
        return Outcome.UNGRADED
    if extracted is None:
        return Outcome.NO_ANSWER
    try:
        right = score_task(extracted, task, seconds) if task else equals(extracted, str(gold), seconds)
    except TimeLimitError:
        return Outcome.TIMED_OUT
    return Outcome.CORRECT if right else Outcome.WRONG


def _limited(function: str, *arguments: Any, seconds: float, imports: tuple[str, ...]) -> bool:
    try:
        return bool(call_with_time_limit(function, *arguments, seconds=seconds, imports=imports))
    except WorkerError as error:
        log.warning("a comparison failed and counts as wrong: %s", error)
        return False
