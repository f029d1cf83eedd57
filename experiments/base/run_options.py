"""The options of every run outside its experiment and data: the run itself, model, generation, grading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from experiments.base.options import (
    AtLeastOne,
    By,
    Lax,
    Options,
    Seed,
    Shards,
    Temperature,
    Text,
    Threads,
    listed,
    one_of,
)
from experiments.base.tracking import Tracker
from interp.errors import UserError
from interp.grading.outcomes import AnswerFormat
from interp.model.generate import Backend, Sampling
from interp.model.lens import ModelSource
from interp.model.thoughts import ThoughtRule
from interp.patching.sources import PairSource
from interp.runs.names import model_label
from interp.text.prompts import PromptStyle, PromptTemplate, WorkedExample
from interp.text.trace import ThinkMarkers


class MarkerOptions(Options):
    """The `markers` of a model."""

    open: Annotated[Text, Field(min_length=1)]
    close: Annotated[Text, Field(min_length=1)]

    @model_validator(mode="after")
    def _two(self) -> MarkerOptions:
        if self.open == self.close:
            raise ValueError("must be two different texts")
        return self


class ExampleOptions(Options):
    """A worked example in the prompt."""

    question: Text
    reasoning: Text
    answer: Text


class PromptOptions(Options):
    """The `prompt` of a model."""

    template: Annotated[PromptTemplate, Lax]
    instruction: Text
    system: Text | None
    finished_thought: Text | None
    demand: Text
    examples: list[Annotated[WorkedExample, By(ExampleOptions)]]
    separator: Text
    arguments: dict[str, Any]


def _pattern(value: str) -> str:
    """A regular expression, or a ValueError that says what is wrong with it."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


class ThoughtOptions(Options):
    """The `thought` of a model: when one that is open is closed by force."""

    tokens: AtLeastOne | None
    end: Annotated[Text, AfterValidator(_pattern)] | None


READ = {
    ModelSource.EMBEDDED: ("path",),
    ModelSource.PLANTED: (),
    ModelSource.DECIDER: (),
    ModelSource.PRETRAINED: ("path", "revision"),
    ModelSource.GGUF: ("path", "package"),
}
"""Which of the options that say where weights lie are read, by their source."""


class ModelOptions(Options):
    """One file of conf/model/: see conf/model/base.yaml."""

    name: Annotated[Text, Field(min_length=1)]
    source: Annotated[ModelSource, Lax]
    path: Text | None
    package: Text | None
    revision: Text | None
    dtype: Annotated[str, one_of(("auto", "float32", "bfloat16", "float16", "float64"))]
    device: Annotated[Text, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,4})?)$")]
    device_map: Annotated[str, one_of(("auto", "balanced", "balanced_low_0", "sequential"))] | None
    trust_remote_code: bool
    untrained: Seed | None
    markers: Annotated[ThinkMarkers, By(MarkerOptions)]
    prompt: Annotated[PromptStyle, By(PromptOptions)]
    thought: ThoughtOptions
    pairs: Annotated[PairSource, Lax]
    threads: Threads | None
    max_new_tokens: AtLeastOne
    reasons: bool

    @model_validator(mode="after")
    def _source_reads_them(self) -> ModelOptions:
        for option in ("path", "package", "revision"):
            if getattr(self, option) is not None and option not in READ[self.source]:
                raise UserError(
                    f"model.{option}={getattr(self, option)} is not read by {self.source} models: "
                    "any other checkpoint is model=huggingface model.path=..."
                )
        if self.path is not None and self.package is not None:
            raise UserError(f"model.path={self.path} is not read beside model.package={self.package}: set one to null")
        return self

    @property
    def label(self) -> str:
        """What tables, summaries and reports call the model."""
        return model_label(self.name, self.untrained)

    def thought_rule(self) -> ThoughtRule | None:
        """When thoughts are closed by force; None = never."""
        if self.thought.tokens is None:
            return None
        separator, opened, closed = self.prompt.separator, self.markers.open, self.markers.close
        text = f"{separator}{closed}{separator * 2}"
        return ThoughtRule(self.thought.tokens, self.thought.end, opened, closed, text)


class RunOptions(Options):
    """The options of conf/config.yaml outside its groups."""

    seed: Seed
    dry_run: bool
    resume: Text | None
    go_on: bool
    run: Text | None
    runs: Annotated[list[Text], BeforeValidator(listed)] | None
    progress: bool
    figures: bool
    track: Annotated[Tracker, Lax] | None
    project: Annotated[Text, Field(min_length=1)]
    generated: Annotated[Text, Field(min_length=1)] | None
    shards: Shards
    threads: Threads | None


class SamplingOptions(Options):
    """The `generation` group."""

    temperature: Temperature
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: AtLeastOne
    batch: AtLeastOne
    backend: Annotated[Backend, Lax]


@dataclass(frozen=True)
class GenerationOptions(Sampling):
    """How prompts are continued, how many at a time, and by what."""

    batch: int = 16
    backend: Backend = Backend.HUGGING_FACE


class GradingOptions(Options):
    """The `grading` part of conf/config.yaml."""

    where: Annotated[AnswerFormat, Lax]
    seconds: Annotated[float, Field(gt=0, le=3600)]
