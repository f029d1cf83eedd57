"""Types of tokens and where sentences, clauses and lines begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from interp.text.sentence_roles import SentenceRole, sentence_role
from interp.text.sentences import reasoning_sentences, sentences_of
from interp.text.token_kinds import Boundary, TokenType, boundary_positions, sentence_numbers, token_type
from interp.text.trace import Segment, Span, Trace, parse_text


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


MARKED = Path(__file__).parent / "marked_sentences.txt"
HELD_OUT = MARKED.with_name("marked_sentences_held_out.txt")
ROLES = dict(zip("PLFCURSA", SentenceRole, strict=True))
"""In the order of its members."""


def marked_texts(file: Path = MARKED) -> list[tuple[str, list[tuple[str, SentenceRole]]]]:
    """Each text of the file as it reads, and its sentences with what they do."""
    found = []
    for block in file.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line[1:2] == " " and line[0] in ROLES]
        if lines:
            said = [(line[2:].replace("\\n", ""), ROLES[line[0]]) for line in lines]
            breaks = ["\n" * line.count("\\n") or " " for line in lines]
            text = "".join(one + after for (one, _), after in zip(said, breaks, strict=True)).strip()
            found.append((text, said))
    return found


def test_sentences_that_were_marked_by_hand_are_found() -> None:
    texts = marked_texts()
    assert sum(len(said) for _, said in texts) == 188
    for text, said in texts:
        assert sentences_of(text) == [one for one, _ in said]


def borders(sentences: list[str]) -> set[int]:
    """Visible characters before the end of each sentence."""
    return set(np.cumsum([len("".join(one.split())) for one in sentences]).tolist())


def test_sentences_of_texts_that_the_rule_was_not_made_on() -> None:
    """Of texts full of what is hard every border is found, and few others: initials, Thm., a stop in a quotation."""
    texts = [(sentences_of(text), [one.strip() for one, _ in said]) for text, said in marked_texts(HELD_OUT)]
    assert sum(len(said) for _, said in texts) == 64
    right = sum(len(borders(found) & borders(said)) for found, said in texts)
    assert right == 64
    assert right / sum(len(borders(found)) for found, _ in texts) == pytest.approx(0.914, abs=0.001)


def test_a_traces_sentences_are_those_of_its_text(r1_style: PreTrainedTokenizerFast) -> None:
    """The same rule over tokens and over text."""
    for text, said in marked_texts()[:6]:
        trace = parse_text(f"<think>{text}</think> The answer is 1.", r1_style)
        spans = reasoning_sentences(trace)
        found = [trace.text[trace.offsets[a][0] : trace.offsets[b - 1][1]].strip() for a, b in spans]
        assert [one.strip() for one in found] == [one for one, _ in said]


def test_roles_by_rule_agree_with_most_of_those_marked_by_hand() -> None:
    right = {
        file: [
            sentence_role(one, i / max(1, len(said) - 1)) is role
            for _, said in marked_texts(file)
            for i, (one, role) in enumerate(said)
        ]
        for file in (MARKED, HELD_OUT)
    }
    assert np.mean(right[MARKED]) == pytest.approx(0.835, abs=0.001)
    assert np.mean(right[HELD_OUT]) == pytest.approx(0.625, abs=0.001), "on texts that the rules were not made on"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It is 3.5, i.e. 7/2. Then 2 vs. 3.", ["It is 3.5, i.e. 7/2.", "Then 2 vs. 3."]),
        ("Wait, no. Wait! n! is 6.", ["Wait, no.", "Wait!", "n! is 6."]),
        ("Box no. 3 is empty. 4 are not.", ["Box no. 3 is empty.", "4 are not."]),
        ("1. Add 2.\n2. Stop.", ["1. Add 2.", "2. Stop."]),
        ("a + b = k. d + e = 2.", ["a + b = k.", "d + e = 2."]),
        ("so it ends.\nand goes on", ["so it ends.", "and goes on"]),
        ("okay, so we need x. then add 3. yes it is 15.", ["okay, so we need x.", "then add 3.", "yes it is 15."]),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert sentences_of(text) == sentences
