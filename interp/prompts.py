"""Prompts: a question in the model's own chat format, with the reasoning opened, finished or absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle

from transformers import PreTrainedTokenizerBase

from interp.trace import ThinkMarkers


class Condition(StrEnum):
    """What the prompt does with the reasoning (Paper A, section 3)."""

    WITH_REASONING = "with_reasoning"
    """The think tag is opened."""
    WITHOUT_REASONING = "without_reasoning"
    """A short finished thought stands in closed think tags."""
    NO_TAGS = "no_tags"
    """There are no think tags."""


@dataclass(frozen=True)
class PromptStyle:
    """How a model is asked."""

    instruction: str = ""
    """Appended to the question."""
    system: str | None = None
    finished_thought: str = "Okay, I think I have finished thinking."
    separator: str = "\n"
    """Between a think tag and what stands beside it."""


def render(
    question: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    style: PromptStyle,
    condition: Condition,
    earlier: Sequence[str] = (),
) -> str:
    """The prompt's text, special tokens included, up to where the model goes on.

    `earlier` are earlier turns of the conversation: user, assistant, user, ... Chat templates differ in whether they
    open the think tag themselves; both kinds are understood.
    """
    content = f"{question} {style.instruction}".strip()
    messages = [{"role": "system", "content": style.system}] if style.system else []
    messages += [{"role": role, "content": turn} for role, turn in zip(cycle(("user", "assistant")), earlier)]
    messages.append({"role": "user", "content": content})
    if tokenizer.chat_template:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    else:
        turns = "".join(f"{message['content']}\n" for message in messages)
        text = f"{tokenizer.bos_token or ''}{turns}"
    # Where the template opens the think tag itself, its own text stays untouched.
    before = text.rstrip()
    opens = before.endswith(markers.open)
    before = before.removesuffix(markers.open) if opens else text
    match condition:
        case Condition.WITH_REASONING:
            return text if opens else f"{before}{markers.open}{style.separator}"
        case Condition.WITHOUT_REASONING:
            thought = style.separator.join((markers.open, style.finished_thought, markers.close))
            return f"{before}{thought}{style.separator}"
        case Condition.NO_TAGS:
            return before
