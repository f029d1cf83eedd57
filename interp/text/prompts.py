"""Prompts: a question in the model's own chat format, with the reasoning opened, finished or absent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle
from typing import Any

from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.text.trace import ThinkMarkers


class Condition(StrEnum):
    """What the prompt does with the reasoning (Paper A, section 3)."""

    WITH_REASONING = "with_reasoning"
    """The think tag is opened."""
    WITHOUT_REASONING = "without_reasoning"
    """A short finished thought stands in closed think tags."""
    NO_TAGS = "no_tags"
    """There are no think tags."""
    HALF_REASONING = "half_reasoning"
    """The first half of the model's own reasoning, closed: an early answer."""
    FILLER = "filler"
    """A text without content of the own reasoning's length between the tags."""
    OTHERS_REASONING = "others_reasoning"
    """The model's reasoning on another question between the tags, cut to the own one's length."""
    HINTED = "hinted"
    """The think tag is opened, and the question suggests a wrong answer."""


OPENED = (Condition.WITH_REASONING, Condition.HINTED)
"""The model writes its reasoning."""
EDITED = (Condition.HALF_REASONING, Condition.FILLER, Condition.OTHERS_REASONING)
"""What stands between the tags is made from the model's own reasoning, so that must be there first."""


class PromptTemplate(StrEnum):
    """In what format a question is put."""

    CHAT = "chat"
    """The model's own chat format."""
    RAW = "raw"
    """The question, the instruction and the think tag as plain text: how Paper A's authors ran their models."""


@dataclass(frozen=True)
class WorkedExample:
    """A question with its reasoning and answer, as an earlier turn."""

    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class PromptStyle:
    """How a model is asked."""

    template: PromptTemplate = PromptTemplate.CHAT

    instruction: str = ""
    """Appended to the question."""
    system: str | None = None
    finished_thought: str | None = "Okay, I think I have finished thinking."
    """The reasoning where it is suppressed; None = no think tags there."""
    demand: str = ""
    """How an answer without reasoning begins: forced, such as the start of a box, so that none is written before."""
    examples: tuple[WorkedExample, ...] = ()
    """Earlier turns with the reasoning between the tags, for models that do not write them by themselves."""
    separator: str = "\n"
    """Between a think tag and what stands beside it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the chat template asks for by name, such as enable_thinking."""


OURS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors")
"""Arguments of a chat template that are set here."""


def render(
    question: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    style: PromptStyle,
    condition: Condition,
    earlier: Sequence[str] = (),
    thought: str = "",
) -> str:
    """The prompt's text, special tokens included, up to where the model goes on.

    `earlier` are earlier turns of the conversation: user, assistant, user, ... Chat templates differ in whether they
    open the think tag themselves, or close a thought of their own; what they put there is replaced where the condition
    asks for something else. `thought` is what stands between the tags where it is EDITED. Raises UserError for a
    template that refuses the messages.
    """
    content = f"{question} {style.instruction}".strip()
    messages = [{"role": "system", "content": style.system}] if style.system else []
    for example in style.examples if condition in OPENED or condition in EDITED else ():
        messages.append({"role": "user", "content": f"{example.question} {style.instruction}".strip()})
        worked = style.separator.join((markers.open, example.reasoning, markers.close))
        messages.append({"role": "assistant", "content": f"{worked}{style.separator * 2}{example.answer}"})
    messages += [{"role": role, "content": turn} for role, turn in zip(cycle(("user", "assistant")), earlier)]
    messages.append({"role": "user", "content": content})
    if style.template == PromptTemplate.RAW:
        asked, begun = (tokenizer.bos_token or "") + "\n".join(one["content"] for one in messages) + " ", ""
    else:
        asked, begun = conversation(messages, tokenizer, style.arguments)
    # Where the template opens the think tag itself, its own text stays untouched.
    opens = begun.rstrip().endswith(markers.open)
    if opens and condition in OPENED:
        return asked + begun
    before = asked + re.sub(_tags(markers), "", begun)
    match condition:
        case Condition.WITH_REASONING | Condition.HINTED:
            return f"{before}{markers.open}{style.separator}"
        case Condition.HALF_REASONING | Condition.FILLER | Condition.OTHERS_REASONING:
            closed = style.separator.join((markers.open, thought, markers.close))
            return f"{before}{closed}{style.separator}{style.demand}"
        case Condition.WITHOUT_REASONING:
            if style.finished_thought is None:
                return before + style.demand
            thought = style.separator.join((markers.open, style.finished_thought, markers.close))
            return f"{before}{thought}{style.separator}{style.demand}"
        case Condition.NO_TAGS:
            return before


def with_response(
    turns: Sequence[tuple[str, str]],
    response: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    arguments: dict[str, Any],
) -> str:
    """A conversation of (role, content) with the response that a model gave, in another model's chat format."""
    asked, begun = conversation([{"role": role, "content": content} for role, content in turns], tokenizer, arguments)
    return asked + (re.sub(_tags(markers), "", begun) if markers.open in response else begun) + response


def _tags(markers: ThinkMarkers) -> str:
    """A pattern for what a template itself says of thinking where the response begins."""
    opened, closed = re.escape(markers.open), re.escape(markers.close)
    return rf"(?:{opened}|(?:{opened}\s*)?{closed})\s*$"


def conversation(
    messages: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]
) -> tuple[str, str]:
    """Messages in the model's chat format, and what begins the assistant's turn behind them.

    Without a chat template the messages stand on lines of their own and nothing begins the turn.
    """
    if not tokenizer.chat_template:
        return f"{tokenizer.bos_token or ''}" + "".join(f"{message['content']}\n" for message in messages), ""
    wrong = [name for name in arguments if name in OURS]
    if wrong:
        raise UserError(f"model.prompt.arguments.{wrong[0]} is not an argument of a chat template: leave it out")
    try:
        asked, whole = (
            str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begin, **arguments))
            for begin in (False, True)
        )
    except Exception as error:  # a template is a program that came with the weights
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        system = any(message["role"] == "system" for message in messages)
        remedy = "leave out model.prompt.system" if system else "see model.prompt.arguments"
        raise UserError(f"the model's chat template refuses the messages: {first}; {remedy}") from error
    # Some templates end the last turn otherwise when nobody is to answer: then all may be what begins the answer.
    return (asked, whole.removeprefix(asked)) if whole.startswith(asked) else ("", whole)
