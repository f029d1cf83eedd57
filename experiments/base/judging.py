"""A language model that judges, as the command line names it: `experiment.judge`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from experiments.base.options import AtLeastOne, Options, Text
from interp.grading.judge import Judge, JudgeOptions


class AskedSettings(Options):
    """Who is asked; no `url` = nobody."""

    url: Annotated[Text, Field(pattern=r"^https?://[^\s/]+")] | None
    model: Text | None
    key_variable: Annotated[Text, Field(min_length=1)]
    timeout: Annotated[float, Field(gt=0, le=86400)]
    retries: Annotated[int, Field(ge=0, le=1000)]
    max_tokens: AtLeastOne


class JudgeSettings(AskedSettings):
    """Who judges many answers."""

    parallel: Annotated[int, Field(ge=1, le=1000)]


def judge_of(options: JudgeOptions) -> Judge | None:
    """Raises UserError where it cannot be asked."""
    return Judge(options) if options.url else None
