"""A language model that judges, as the command line names it: `experiment.judge`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from experiments.base.options import AtLeastOne, Options, Text
from interp.errors import UserError
from interp.grading.judge import Judge, JudgeOptions


class AskedSettings(Options):
    """Who is asked; no `url` = nobody."""

    url: Annotated[Text, Field(pattern=r"^https?://[^\s/]+")] | None
    model: Text | None
    key_variable: Annotated[Text, Field(min_length=1)]
    timeout: Annotated[float, Field(gt=0, le=86400)]
    retries: Annotated[int, Field(ge=0, le=1000)]
    max_tokens: AtLeastOne

    @model_validator(mode="after")
    def _asked_somewhere(self) -> AskedSettings:
        if self.model is not None and self.url is None:
            raise UserError(f"experiment.judge.model={self.model} is asked nowhere: set experiment.judge.url")
        return self


class JudgeSettings(AskedSettings):
    """Who judges many answers."""

    parallel: Annotated[int, Field(ge=1, le=1000)]


def judge_of(options: JudgeOptions) -> Judge | None:
    """Raises UserError where it cannot be asked."""
    return Judge(options) if options.url else None
