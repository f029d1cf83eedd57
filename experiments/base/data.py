"""The `data` group: which questions or traces an experiment runs on."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.options import AtLeastOne, By, Lax, Options, Seed, Text, choice, one_of
from interp.data.datasets import (
    Fields,
    decision_questions,
    lookup_questions,
    planted_questions,
    read_questions,
    read_traces,
    reasoning_gym_questions,
    word_problem_questions,
)
from interp.data.examples import Question, TraceText
from interp.data.files import Malformed
from interp.data.formats import TraceFormat
from interp.errors import UserError
from interp.grading.responses import samples_of
from interp.grading.scorers import rule_of
from interp.organisms.word_problems import Split
from interp.patching.align import AnswerTokens, Pads, Scenario
from interp.patching.sources import PairSource, Template, known_phrase
from interp.text.trace import DEFAULT_MARKERS, ThinkMarkers

CONTRAST, DECISIONS, TRACES = "contrast", "decisions", "traces"


class FieldOptions(Options):
    """The `fields` of questions and traces; what a file leaves out is called as usual."""

    question: Text = Fields.question
    conversation: Text | None = Fields.conversation
    id: Text = Fields.id
    gold: Text | None = Fields.gold
    gold_after: Text | None = Fields.gold_after
    kind: Text = Fields.kind
    level: Text = Fields.level
    checklist: Text = Fields.checklist
    text: Text | None = Fields.text
    prompt: Text | None = Fields.prompt
    response: Text | None = Fields.response
    messages: Text | None = Fields.messages
    model: Text = Fields.model
    condition: Text = Fields.condition


def _known_kind(kind: str) -> str:
    known = [*QUESTIONS, TRACES]
    if kind not in known:
        raise UserError(f"unknown data.kind {kind!r}; known: {', '.join(known)}")
    return kind


class DataOptions(Options):
    """One file of conf/data/. Which fields matter depends on `kind`, and its file has no others: hence the defaults."""

    name: Text
    kind: Annotated[Text, AfterValidator(_known_kind)]
    path: Text | None = None
    subset: Text | None = None
    fields_: Annotated[Fields, By(FieldOptions)] = Field(default=Fields(), alias="fields")
    format: Annotated[TraceFormat, Lax] = TraceFormat.AUTO
    malformed: Annotated[Malformed, Lax] = Malformed.ERROR
    where: dict[str, Any] = Field(default_factory=dict)
    task: Text | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    split: Text | None = Split.HELD_OUT.value
    seed: Seed = 0
    limit: AtLeastOne | None = None
    samples: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None
    scrambled: Seed | None = None

    def require(self, name: str) -> Any:
        """The value of an option that this kind of data needs."""
        value = getattr(self, name)
        if value is None:
            raise UserError(f"data.{name} must be set for data.kind={self.kind}")
        return value


class ResponseFrom(StrEnum):
    """Who wrote the reasoning of contrast pairs."""

    GENERATE = "generate"
    TEMPLATE = "template"


class TemplateOptions(Options):
    """A given reasoning and answer."""

    reasoning: Text = Template.reasoning
    answer: Text = Template.answer


class ContrastOptions(Options):
    """conf/data/contrast.yaml"""

    name: Text
    kind: Text
    source: Annotated[str, one_of(("auto", *PairSource))]
    path: Text | None
    seed: Seed
    limit: AtLeastOne | None
    response: Annotated[str, one_of(("auto", *ResponseFrom))]
    template: Annotated[Template, By(TemplateOptions)]
    instruction: Text | None
    scenario: Annotated[Scenario, Lax]
    answers: Annotated[AnswerTokens, Lax]
    phrase: Annotated[Text, AfterValidator(known_phrase)] | None
    pads: Annotated[Pads, Lax]
    min_ld: float


def given_traces(options: DataOptions, markers: ThinkMarkers = DEFAULT_MARKERS) -> list[TraceText] | None:
    """The given traces; None if the data is questions. `markers` go round the reasoning of messages."""
    if options.kind != TRACES:
        return None
    traces = list(
        read_traces(
            options.require("path"),
            options.where,
            options.malformed,
            markers,
            kind=options.format,
            fields=options.fields_,
            subset=options.subset,
            split=options.split,
        )
    )
    if not traces:
        raise UserError(f"{options.path} has no trace with {options.where or 'text'}: change data.where")
    if options.samples is not None:
        return [trace for trace, before in zip(traces, samples_of(traces), strict=True) if before < options.samples]
    return traces


def questions(options: DataOptions) -> list[Question]:
    """What the model is asked."""
    return QUESTIONS[options.kind](options)


def _from_file_or_hub(options: DataOptions) -> list[Question]:
    path, malformed = options.require("path"), options.malformed
    return read_questions(path, options.limit, options.fields_, malformed, options.subset, options.split)


def _reasoning_gym(options: DataOptions) -> list[Question]:
    task = options.require("task")
    made = reasoning_gym_questions(task, options.seed, options.require("limit"), options.options)
    rule_of(task)  # tasks whose answers cannot be scored safely are refused before anything is generated
    return made


QUESTIONS: dict[str, Callable[[DataOptions], list[Question]]] = {
    "lookups": lambda o: lookup_questions(
        o.seed, choice(Split, o.require("split"), "data.split"), o.require("limit"), o.options
    ),
    "word_problems": lambda o: word_problem_questions(
        o.seed, choice(Split, o.require("split"), "data.split"), o.require("limit"), o.options
    ),
    "planted": lambda o: planted_questions(o.seed, o.require("limit")),
    DECISIONS: lambda o: decision_questions(o.seed, o.require("limit")),
    "reasoning_gym": _reasoning_gym,
    "questions": _from_file_or_hub,
}
