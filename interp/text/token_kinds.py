"""What kind of token each token is, and which ones begin a sentence, a clause or a step."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Int

from interp.text.trace import Trace


class TokenType(StrEnum):
    """By the token's text."""

    WORD = "word"
    NUMBER = "number"
    PUNCTUATION = "punctuation"
    """Punctuation and other signs, operators included."""
    LINE_BREAK = "line_break"
    OTHER = "other"
    """Blanks, parts of characters, special tokens."""


class Boundary(StrEnum):
    """What a token may begin."""

    SENTENCE = "sentence"
    CLAUSE = "clause"
    """A sentence, or what stands after a comma, colon or semicolon."""
    STEP = "step"
    """A line."""


_STOP = r"[.!?…]+[\"'”’)\]*]*(?=\s)"
_ENDS = {
    Boundary.SENTENCE: re.compile(rf"{_STOP}|\n"),
    Boundary.CLAUSE: re.compile(rf"{_STOP}|[,;:](?=\s)|\n"),
    Boundary.STEP: re.compile(r"\n"),
}
_SURE = ("\n", ",", ";", ":")
"""Ends that are one wherever they stand; a stop may belong to an abbreviation."""
_VISIBLE = re.compile(r"\S")
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:e\.g|i\.e|cf|vs|Dr|Mr|Mrs|Ms|Prof|St|approx|ca|deg|Fig|Eq|Sec|Ch|resp|(?P<number>[Nn]o))\.$"
)
_ENUMERATOR = re.compile(r"\s*\d{1,3}\.")
"""All that stands before on its line: `2. Then`."""
_GOES_ON = re.compile(r"[^\S\n]+[a-z]{2}")
"""A word in small letters on the same line: `5 p.m. on Friday`, `n! ends in`."""


def token_type(text: str) -> TokenType:
    """The type of a token from its text, leading blanks ignored."""
    if "\n" in text:
        return TokenType.LINE_BREAK
    stripped = text.strip()
    if not stripped or "\ufffd" in stripped or re.fullmatch(r"<[^<>\s]+>", stripped):
        return TokenType.OTHER
    if any(c.isalpha() for c in stripped):
        return TokenType.WORD
    return TokenType.NUMBER if any(c.isdigit() for c in stripped) else TokenType.PUNCTUATION


def boundary_positions(trace: Trace, boundary: Boundary, response: range) -> Bool[np.ndarray, " token"]:
    """For each token of the response whether it has the first visible character of a sentence, clause or step.

    The response's own first token does not count: every measure begins there.
    """
    return starts_in(trace.text, trace.offsets, boundary, response)


def starts_in(
    text: str, offsets: Sequence[tuple[int, int]], boundary: Boundary, response: range
) -> Bool[np.ndarray, " token"]:
    """The same of a text whose token i stands for the characters `offsets[i]`."""
    starts = [start for start, _ in offsets]
    text_start = offsets[response.start][0]
    marks = np.zeros(len(response), dtype=bool)
    for end in _ends(text, boundary, text_start):
        first = _VISIBLE.search(text, end.end())
        if first is None:
            break
        # The last token that starts at or before the character and is not empty holds it.
        position = bisect_left(starts, first.start() + 1) - 1
        while position > 0 and offsets[position][1] <= first.start():
            position -= 1
        if position in response and position > response.start:
            marks[position - response.start] = True
    return marks


def sentence_ends(text: str) -> Iterator[re.Match[str]]:
    """What ends the sentences of a text: line breaks, and stops that belong to no abbreviation, to no number before a
    list's item, and to no sentence that goes on in small letters."""
    return _ends(text, Boundary.SENTENCE)


def _ends(text: str, boundary: Boundary, start: int = 0) -> Iterator[re.Match[str]]:
    found = list(_ENDS[boundary].finditer(text, start))
    stops = [end for end in found if end[0] not in _SURE]
    # Where most sentences begin in small letters these say nothing.
    capitals = 2 * sum(_GOES_ON.match(text, stop.end()) is not None for stop in stops) <= len(stops)
    inside = {stop.start() for stop in stops if _inside_a_sentence(text, stop, capitals)}
    return (end for end in found if end.start() not in inside)


def _inside_a_sentence(text: str, stop: re.Match[str], capitals: bool) -> bool:
    if capitals and _GOES_ON.match(text, stop.end()):
        return True
    line = text[text.rfind("\n", 0, stop.start()) + 1 : stop.end()]
    if _ENUMERATOR.fullmatch(line):
        return True
    short = _ABBREVIATION.search(line)
    return short is not None and (short["number"] is None or text[stop.end() :].lstrip(" ")[:1].isdigit())


def sentence_numbers(starts: Bool[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    """The number of each token's sentence, from 0."""
    return np.cumsum(starts)
