"""Where in a text, and at which token of a trace, the answer stands; what the answer's tokens are."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from interp.ablation.effects import answer_position
from interp.ablation.roles import AnswerRole, answer_roles
from interp.grading.extraction import answer_span
from interp.text.trace import Segment, parse_text


def test_where_the_answer_stands(words: PreTrainedTokenizerBase) -> None:
    trace = parse_text("Tom 3. <think> 3 + 4 = 7. </think> Tom 7 pens. The answer is 7.", words)
    position = answer_position(trace)
    assert position is not None
    assert trace.token_text(position) == "7"
    assert position == trace[Segment.ANSWER].end - 2
    assert answer_position(parse_text("Tom 3. <think> 3. </think> Tom 7 pens.", words)) is None
    later = parse_text("Tom 3. <think> 3. </think> The answer is 5. Tom 5 pens, Mia 15 pens.", words)
    position = answer_position(later)
    assert position == later[Segment.ANSWER].start + 3, "where it is said, not where its digits stand again"


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("The answer is 5. Yes, 15.", "5"),
        ("12 apples: \\boxed{2}. So 2 of 12.", "2"),
        ("\\boxed{ 3 } and \\boxed{4}, not 34.", "3 } and \\boxed{4"),
        ("The answer is:\n\n\\[ 12 \\]\nnot 121.", "12"),
        ("The answer is $x = 5$.", "x = 5"),
        ("No.", None),
        ("\\boxed{}", None),
    ],
)
def test_the_span_of_an_answer_in_a_text(text: str, stands: str | None) -> None:
    span = answer_span(text)
    assert (None if span is None else text[slice(*span)]) == stands


@pytest.mark.parametrize("letter", ["x", "b", "e", "d", "ed", "o"])
@pytest.mark.parametrize("box", ["\\boxed{%s}", "\\fbox{%s}", "\\boxed %s"])
def test_letters_are_not_found_in_the_command_itself(letter: str, box: str) -> None:
    text = f"So it is {box % letter}."
    assert answer_span(text) == (text.rindex(letter), text.rindex(letter) + len(letter))


def test_roles_of_answer_tokens_by_hand(words: PreTrainedTokenizerBase) -> None:
    text = "<bos> Tom has 3 apples . <think> 3 + 4 = 7 . </think> Tom has 7 apples . The answer is 9 ."
    trace = parse_text(text, words)
    answer = trace[Segment.ANSWER]
    found = {}
    for place, role in zip(range(answer.start, answer.end), answer_roles(trace), strict=True):
        found.setdefault(trace.token_text(place).strip(), role)
    assert found["7"] is AnswerRole.RESULT
    assert found["Tom"] is AnswerRole.NAME
    assert found["apples"] is AnswerRole.PROMPT
    assert found["9"] is AnswerRole.FINAL
    assert found["The"] is AnswerRole.OTHER
