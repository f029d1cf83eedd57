"""Prompts under chat templates that open the think tag, and those that do not."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp.errors import UserError
from interp.text.prompts import Condition, PromptStyle, PromptTemplate, render
from interp.text.trace import ThinkMarkers

OPENS = "{{ bos_token }}{{ messages[-1]['content'] }}{% if add_generation_prompt %} <think>\n{% endif %}"
DOES_NOT = "{{ bos_token }}{{ messages[-1]['content'] }}{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
STYLE = PromptStyle(instruction="Think.")


CLOSES = DOES_NOT.replace("{{ '\\n' }}", "{{ '\\n</think>\\n' }}")
THINKS = DOES_NOT.replace("{{ '\\n' }}", "\n{% if not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}")


@pytest.mark.parametrize("template", [OPENS, DOES_NOT, CLOSES, THINKS, None])
def test_both_kinds_of_template(r1_style: PreTrainedTokenizerFast, template: str | None) -> None:
    r1_style.chat_template = template
    texts = {c: render("Why?", r1_style, ThinkMarkers(), STYLE, c) for c in Condition}
    r1_style.chat_template = None
    begin = "<｜begin▁of▁sentence｜>Why? Think."
    assert all(text.startswith(begin) for text in texts.values())
    own = " <think>\n" if template == OPENS else "\n<think>\n"
    assert texts[Condition.WITH_REASONING] == begin + own, "the template's own text is untouched"
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


def test_arguments_of_a_template(r1_style: PreTrainedTokenizerFast) -> None:
    r1_style.chat_template = "{{ messages[-1]['content'] }}{% if effort == 'low' %} briefly{% endif %}"
    said = [
        render("Why?", r1_style, ThinkMarkers(), PromptStyle(arguments=arguments), Condition.NO_TAGS)
        for arguments in ({}, {"effort": "low"})
    ]
    with pytest.raises(UserError, match=r"model\.prompt\.arguments\.tokenize is not"):
        render("Why?", r1_style, ThinkMarkers(), PromptStyle(arguments={"tokenize": True}), Condition.NO_TAGS)
    r1_style.chat_template = None
    assert said == ["Why?", "Why? briefly"]


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (
            "{{ raise_exception('System role not supported') }}",
            "Be brief.",
            "System role not supported; leave out model",
        ),
        ("{% if %}", None, "see model.prompt.arguments"),
        ("{{ messages[7].content.x }}", None, "refuses the messages"),
        ("{{ ''.__class__.__mro__ }}", None, "refuses the messages"),
    ],
)
def test_a_template_that_refuses(
    r1_style: PreTrainedTokenizerFast, template: str, system: str | None, message: str
) -> None:
    r1_style.chat_template = template
    with pytest.raises(UserError, match=message) as raised:
        render("Why?", r1_style, ThinkMarkers(), PromptStyle(system=system), Condition.NO_TAGS)
    r1_style.chat_template = None
    assert "\n" not in str(raised.value)


def test_a_question_about_the_tags_opens_none(r1_style: PreTrainedTokenizerFast) -> None:
    for template in (None, DOES_NOT):
        r1_style.chat_template = template
        text = render("What is <think>", r1_style, ThinkMarkers(), PromptStyle(), Condition.WITH_REASONING)
        r1_style.chat_template = None
        assert text.endswith("What is <think>\n<think>\n")


def test_a_raw_prompt_is_plain_text_as_the_authors_ran_it(r1_style: PreTrainedTokenizerFast) -> None:
    raw = PromptStyle(PromptTemplate.RAW, instruction="Think.")
    text = render("Why?", r1_style, ThinkMarkers(), raw, Condition.WITH_REASONING)
    assert text == f"{r1_style.bos_token or ''}Why? Think. <think>\n"
    suppressed = render("Why?", r1_style, ThinkMarkers(), raw, Condition.WITHOUT_REASONING)
    assert suppressed.endswith("<think>\nOkay, I think I have finished thinking.\n</think>\n")
    assert render("Why?", r1_style, ThinkMarkers(), raw, Condition.NO_TAGS).endswith("Why? Think. ")
