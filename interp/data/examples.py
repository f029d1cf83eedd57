"""What a question and a given trace are, whatever file or generator they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """Where a question has several right answers: the reasoning-gym task that scores them, and the question's entry."""

    name: str
    entry: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """The options that the entry was made with: some scorers look at them."""


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what is known of the right answer."""

    id: str
    text: str
    gold: str | None = None
    kind: str | None = None
    """What sort of question it is: the group that accuracies are also told by."""
    level: str | None = None
    """How difficult it is said to be."""
    task: Task | None = None
    """Who scores the answer, where there is more than one right one."""
    earlier: tuple[str, ...] = ()
    """Earlier turns of the conversation: user, assistant, user, ..."""
    checklist: tuple[str, ...] = ()
    """What a judge is to look at."""


@dataclass(frozen=True)
class TraceText:
    """A trace that somebody generated: its whole text with special tokens, and what else the file says of it."""

    id: str
    text: str
    gold: str | None = None
    question: str = ""
    """Id of the question: the same in both conditions."""
    condition: str | None = None
    writer: str | None = None
    """The model that wrote it."""
    kind: str | None = None
    level: str | None = None
    finished: bool | None = None
    turns: tuple[tuple[str, str], ...] = ()
    """(role, content) of the turns before the last, where the file holds messages: the chat format is the reader's."""
    response: str = ""
    """What was written, where `prompt` is known."""
    token_ids: tuple[int, ...] = ()
    """The tokens that were written, where the file has them: they are measured if the text is theirs."""
    prompt: str | None = None
    """What stood before the response, earlier turns included; None where the file holds a whole text alone."""
