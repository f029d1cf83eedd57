"""Types of tokens and where sentences, clauses and lines begin."""

from __future__ import annotations

import pytest

from interp.text.token_kinds import Boundary, TokenType, boundary_positions, sentence_numbers, token_type
from interp.text.trace import Segment, Span, Trace


def trace_of(*tokens: str, prompt: int = 0) -> Trace:
    """A trace whose tokens are exactly these pieces of text."""
    ends, offsets = 0, []
    for token in tokens:
        offsets.append((ends, ends + len(token)))
        ends += len(token)
    borders = [0, 0, prompt, prompt, prompt, prompt, len(tokens)]
    spans = tuple(Span(s, borders[i], borders[i + 1]) for i, s in enumerate(Segment))
    return Trace("t", "".join(tokens), tuple(range(len(tokens))), tuple(offsets), spans, "test")


def begun(trace: Trace, boundary: Boundary, prompt: int = 0) -> list[str]:
    response = range(prompt, len(trace.token_ids))
    marks = boundary_positions(trace, boundary, response)
    return [trace.token_text(position).strip() for position, mark in zip(response, marks, strict=True) if mark]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" so", TokenType.WORD),
        ("x2", TokenType.WORD),
        (" 12", TokenType.NUMBER),
        ("3.5", TokenType.NUMBER),
        (".", TokenType.PUNCTUATION),
        (" =", TokenType.PUNCTUATION),
        ("\\(", TokenType.PUNCTUATION),
        (".\n\n", TokenType.LINE_BREAK),
        ("\n", TokenType.LINE_BREAK),
        (" ", TokenType.OTHER),
        ("", TokenType.OTHER),
        ("</think>", TokenType.OTHER),
        ("\ufffd", TokenType.OTHER),
        ("é", TokenType.WORD),
    ],
)
def test_types(text: str, expected: TokenType) -> None:
    assert token_type(text) is expected


def test_sentences_clauses_and_lines() -> None:
    trace = trace_of(
        "So", " it", " is", " 3", ".", "5", ",", " not", " 4", ".", " Wait", "!", "\n\n", "Then", ":", " 7"
    )
    assert begun(trace, Boundary.SENTENCE) == ["Wait", "Then"]  # 3.5 is one number
    assert begun(trace, Boundary.CLAUSE) == ["not", "Wait", "Then", "7"]
    assert begun(trace, Boundary.STEP) == ["Then"]


def test_tokens_that_hold_more_than_their_beginning() -> None:
    assert begun(trace_of("A", ".\n", "  ", "B", " c."), Boundary.STEP) == ["B"]
    assert begun(trace_of("A", ". B", " c"), Boundary.SENTENCE) == ["B".join([". ", ""]).strip()]
    assert begun(trace_of("A", ".", "", " B"), Boundary.SENTENCE) == ["B"]
    assert begun(trace_of("A", "."), Boundary.SENTENCE) == []


def test_the_prompt_and_the_first_token_do_not_count() -> None:
    trace = trace_of("Q", ".", " R", " s", ".", " T", prompt=2)
    assert begun(trace, Boundary.SENTENCE, prompt=2) == ["T"]


def test_sentence_numbers() -> None:
    trace = trace_of("A", ".", " B", " c", ".", " D")
    starts = boundary_positions(trace, Boundary.SENTENCE, range(6))
    assert sentence_numbers(starts).tolist() == [0, 0, 1, 1, 1, 2]
