"""Prompts under chat templates that open the think tag, and those that do not."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp.errors import UserError
from interp.text.prompts import (
    EDITED,
    Condition,
    PromptStyle,
    PromptTemplate,
    WorkedExample,
    render,
    with_response,
)
from interp.text.thought_edits import filler, first_half, of_another
from interp.text.trace import Segment, ThinkMarkers, parse_text

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


TURNS = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
STRIPPED = (
    "{% for m in messages %}{% set c = m['content'].split('</think>')[-1] %}"
    "{{ '<|' + m['role'] + '|>' + c + '<|end|>' }}{% endfor %}"
)
BEGIN = "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
END = "{% endif %}"
EMPTY = "{{ '<think>\\n\\n</think>\\n\\n' }}"
OPENED = "{{ '<think>\\n' }}"
LIKE: dict[str, tuple[str, dict[str, object], ThinkMarkers]] = {
    "R1: opens the thought": (STRIPPED + BEGIN + OPENED + END, {}, ThinkMarkers()),
    "Qwen3: an empty thought on demand": (
        STRIPPED + BEGIN + "{% if enable_thinking is false %}" + EMPTY + END + END,
        {"enable_thinking": False},
        ThinkMarkers(),
    ),
    "Qwen3.5: opens, or an empty thought": (
        TURNS + BEGIN + "{% if enable_thinking is false %}" + EMPTY + "{% else %}" + OPENED + END + END,
        {"enable_thinking": False},
        ThinkMarkers(),
    ),
    "DeepSeek-V3.1: opens, or closes alone": (
        TURNS + BEGIN + "{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}" + END + END,
        {},
        ThinkMarkers(),
    ),
    "Magistral: markers of its own": (f"{TURNS}{BEGIN}{{% endif %}}", {}, ThinkMarkers("[THINK]", "[/THINK]")),
    "Phi-4-reasoning: its system prompt speaks of the tags": (
        f"{{{{ '<|system|>Use <think> {{Thought}} </think> {{Answer}}.<|end|>' }}}}{TURNS}{BEGIN}{{% endif %}}",
        {},
        ThinkMarkers(),
    ),
    "Gemma: no system role": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        f"{TURNS}{BEGIN}{{% endif %}}",
        {},
        ThinkMarkers(),
    ),
    "gpt-oss: channels": (
        f"{TURNS}{BEGIN}{{% endif %}}",
        {},
        ThinkMarkers("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ),
}


@pytest.mark.parametrize("name", LIKE)
def test_templates_that_behave_as_those_of_real_models(name: str, r1_style: PreTrainedTokenizerFast) -> None:
    """Whatever the template puts there itself: one thought opened, one finished, or none; and traces are read back."""
    template, arguments, markers = LIKE[name]
    r1_style.chat_template = template
    try:
        style = PromptStyle(arguments=arguments)
        texts = {c: render("Why?", r1_style, markers, style, c) for c in Condition}
        earlier = (("user", "And?"), ("assistant", f"{markers.open}a{markers.close}b"), ("user", "Why?"))
        response = f"{markers.open}the thought{markers.close}the answer"
        whole = with_response(earlier, response, r1_style, markers, arguments)
    finally:
        r1_style.chat_template = None
    begun = {c: text[text.rindex("<|assistant|>") :].removeprefix("<|assistant|>") for c, text in texts.items()}
    assert begun[Condition.WITH_REASONING].strip() == markers.open
    finished = begun[Condition.WITHOUT_REASONING]
    assert (finished.count(markers.open), finished.count(markers.close)) == (1, 1)
    assert finished.rstrip().endswith(markers.close)
    assert begun[Condition.NO_TAGS].strip() == ""
    trace = parse_text(whole, r1_style, markers)
    assert trace.segment_text(Segment.REASONING).strip() == "the thought"
    assert trace.segment_text(Segment.ANSWER).strip() == "the answer"


def test_edited_thoughts_by_hand(words: PreTrainedTokenizerBase) -> None:
    prompt = "Tom 3 pens. Who has most pens, Tom or Mia? "
    first = parse_text(f"{prompt}<think> First, Tom 3. 3 + 4 = 7. So Tom 7. </think> Tom 7 pens.", words, example="a")
    other = parse_text(f"{prompt}<think> Next, Mia 5. 5 + 1 = 6. </think> Mia 6 pens.", words, example="b")
    assert first_half(first) == "First, Tom 3."
    assert first_half(other) == "Next, Mia 5."
    n = len(first[Segment.REASONING])
    assert filler(first, words, ".") == " ".join("." * n)
    with pytest.raises(UserError, match="does not know"):
        filler(first, words, "xyzzy")
    assert of_another(first, [first, other]) == "Next, Mia 5. 5 + 1 = 6."
    short = of_another(other, [first])
    assert first.segment_text(Segment.REASONING).strip().startswith(short)
    assert len(words(short, add_special_tokens=False)["input_ids"]) == len(other[Segment.REASONING])
    assert of_another(first, [first]) == ""
    style = PromptStyle(separator=" ", demand="box")
    asked = render("Tom?", words, ThinkMarkers(), style, Condition.HALF_REASONING, thought="So Tom 7.")
    assert asked.endswith("Tom? <think> So Tom 7. </think> box")


def test_edited_thoughts_stand_behind_worked_examples(words: PreTrainedTokenizerBase) -> None:
    example = WorkedExample("Mia?", "So Mia 5.", "Mia 5 pens.")
    style = PromptStyle(separator=" ", examples=(example,), demand="box")
    for condition in EDITED:
        asked = render("Tom?", words, ThinkMarkers(), style, condition, thought="So Tom 7.")
        assert asked.endswith("Tom? <think> So Tom 7. </think> box")
        assert "Mia? <think> So Mia 5. </think>  Mia 5 pens." in asked.replace("\n", " ")
