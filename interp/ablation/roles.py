"""What each token of the answer is: a result restated from the reasoning, a name, a word of the prompt, the answer.

An intervention on what the answer reads in the reasoning should hurt what only the reasoning tells and spare what the
prompt tells as well, within one answer.
"""

from __future__ import annotations

import re
from enum import StrEnum

from interp.grading.extraction import answer_span
from interp.text.numbers import in_digits
from interp.text.trace import Segment, Trace

_WORD = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?")


class AnswerRole(StrEnum):
    """Where the word that an answer token belongs to is from."""

    FINAL = "final_answer"
    """The answer that is graded."""
    RESULT = "result"
    """A number of the reasoning that the prompt does not hold, in digits or spelt."""
    NAME = "name"
    """A capitalised word or a single capital letter of the prompt."""
    PROMPT = "prompt_word"
    """Another word or number of the prompt."""
    OTHER = "other"


def answer_roles(trace: Trace) -> list[AnswerRole]:
    """The role of each token of the answer segment, in order; a token without a word is OTHER."""
    span = trace[Segment.ANSWER]
    begin, end = trace.offsets[span.start][0], trace.offsets[span.end - 1][1]
    text = trace.text[begin:end]
    prompt = _words(trace.segment_text(Segment.PROMPT))
    reasoning = _words(trace.segment_text(Segment.REASONING))
    names = {word for word in prompt if word[:1].isupper() and (word[1:].islower() or len(word) == 1)}
    final = answer_span(text)
    known: list[tuple[int, int, AnswerRole]] = []
    for found in _WORD.finditer(text):
        word = in_digits(found.group())
        if final is not None and final[0] <= found.start() and found.end() <= final[1]:
            role = AnswerRole.FINAL
        elif word in names:
            role = AnswerRole.NAME
        elif word in prompt:
            role = AnswerRole.PROMPT
        elif word[0].isdigit() and word in reasoning:
            role = AnswerRole.RESULT
        else:
            role = AnswerRole.OTHER
        known.append((begin + found.start(), begin + found.end(), role))
    roles = []
    for start, stop in trace.offsets[span.start : span.end]:
        roles.append(next((role for a, b, role in known if a < stop and start < b), AnswerRole.OTHER))
    return roles


def _words(text: str) -> set[str]:
    return {in_digits(word) for word in _WORD.findall(text)}
