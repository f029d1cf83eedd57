"""Prompts under chat templates that open the think tag, and those that do not."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp.prompts import Condition, PromptStyle, render
from interp.trace import ThinkMarkers

OPENS = "{{ bos_token }}{{ messages[-1]['content'] }}{% if add_generation_prompt %} <think>\n{% endif %}"
DOES_NOT = "{{ bos_token }}{{ messages[-1]['content'] }}{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
STYLE = PromptStyle(instruction="Think.")


@pytest.mark.parametrize("template", [OPENS, DOES_NOT, None])
def test_both_kinds_of_template(r1_style: PreTrainedTokenizerFast, template: str | None) -> None:
    r1_style.chat_template = template
    texts = {c: render("Why?", r1_style, ThinkMarkers(), STYLE, c) for c in Condition}
    r1_style.chat_template = None
    begin = "<｜begin▁of▁sentence｜>Why? Think."
    assert all(text.startswith(begin) for text in texts.values())
    own = {OPENS: " <think>\n", DOES_NOT: "\n<think>\n", None: "\n<think>\n"}
    assert texts[Condition.WITH_REASONING] == begin + own[template], "the template's own text is untouched"
    rest = {c: text.removeprefix(begin).lstrip() for c, text in texts.items()}
    assert rest[Condition.WITH_REASONING] == "<think>\n"
    assert rest[Condition.WITHOUT_REASONING] == "<think>\nOkay, I think I have finished thinking.\n</think>\n"
    assert rest[Condition.NO_TAGS] == ""


def test_the_embedded_models_format(words: PreTrainedTokenizerBase) -> None:
    style = PromptStyle(separator=" ")
    text = render("Who has more?", words, ThinkMarkers(), style, Condition.WITHOUT_REASONING)
    assert words.tokenize(text) == (
        [
            "<bos>",
            "Who",
            "has",
            "more",
            "?",
            "<think>",
            "Okay",
            ",",
            "I",
            "think",
            "I",
            "have",
            "finished",
            "thinking",
            ".",
            "</think>",
        ]
    )


def test_a_system_message_without_a_template(r1_style: PreTrainedTokenizerFast) -> None:
    text = render("Why?", r1_style, ThinkMarkers(), PromptStyle(system="Be brief."), Condition.NO_TAGS)
    assert text == "<｜begin▁of▁sentence｜>Be brief.\nWhy?\n"
