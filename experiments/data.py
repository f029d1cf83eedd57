"""The `data` group: which questions or traces an experiment runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.options import choice
from interp.datasets import (
    Fields,
    Question,
    TraceText,
    planted_questions,
    read_questions,
    read_traces,
    reasoning_gym_questions,
    word_problem_questions,
)
from interp.errors import UserError
from interp.files import Malformed
from interp.organisms.word_problems import Split
from interp.trace import DEFAULT_MARKERS, ThinkMarkers


@dataclass(frozen=True)
class DataOptions:
    """One file of conf/data/; which fields matter depends on `kind`."""

    name: str
    kind: str
    path: str | None = None
    subset: str | None = None
    fields: Fields = field(default_factory=Fields)
    malformed: str = Malformed.ERROR.value
    where: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    split: str = Split.HELD_OUT.value
    seed: int = 0
    limit: int | None = None
    max_tokens: int | None = None

    def require(self, name: str) -> Any:
        """The value of an option that this kind of data needs."""
        value = getattr(self, name)
        if value is None:
            raise UserError(f"data.{name} must be set for data.kind={self.kind}")
        return value

    @property
    def on_malformed(self) -> Malformed:
        return Malformed(choice(Malformed, self.malformed, "data.malformed"))


def given_traces(options: DataOptions, markers: ThinkMarkers = DEFAULT_MARKERS) -> list[TraceText] | None:
    """The given traces; None if the data is questions. `markers` go round the reasoning of messages."""
    if options.kind != "traces":
        return None
    path = Path(options.require("path")).expanduser()
    traces = list(read_traces(path, options.where, options.on_malformed, markers))
    if not traces:
        raise UserError(f"{options.path} has no trace with {options.where or 'text'}: change data.where")
    return traces


def questions(options: DataOptions) -> list[Question]:
    """What the model is asked."""
    if options.kind not in QUESTIONS:
        known = ", ".join([*QUESTIONS, "traces"])
        raise UserError(f"unknown data.kind {options.kind!r}; known: {known}")
    return QUESTIONS[options.kind](options)


def _from_file_or_hub(options: DataOptions) -> list[Question]:
    path, malformed = options.require("path"), options.on_malformed
    return read_questions(path, options.limit, options.fields, malformed, options.subset, options.split)


def _word_problems(options: DataOptions) -> list[Question]:
    split = choice(Split, options.split, "data.split")
    return word_problem_questions(options.seed, split, options.require("limit"), options.options)


QUESTIONS: dict[str, Callable[[DataOptions], list[Question]]] = {
    "word_problems": lambda o: word_problem_questions(
        o.seed, choice(Split, o.split, "data.split"), o.require("limit"), o.options
    ),
    "planted": lambda o: planted_questions(o.seed, o.require("limit")),
    "reasoning_gym": lambda o: reasoning_gym_questions(o.require("task"), o.seed, o.require("limit"), o.options),
    "questions": _from_file_or_hub,
}
