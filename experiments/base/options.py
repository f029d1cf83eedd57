"""Options as typed values: a wrong one is a UserError that names it.

Each experiment declares its options once, as a frozen pydantic model; defaults and comments stand in conf/ alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from interp.errors import UserError, nearest
from interp.heads.scores import HeadScore
from interp.model.layers import check_layer_name


class Options(BaseModel):
    """A group of options. Strict: true is no number, "3" neither, and what is not finite is refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )


MOST = 10**6
"""Of anything that is counted one by one: far beyond what a run could do, far below what a machine could not hold."""
Count = Annotated[int, Field(ge=0, le=MOST)]
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
Megabytes = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=100)]
Lax = Field(strict=False)
"""For enums: members are given by their values."""


def with_place(template: str) -> str:
    """A template with {} for what is put in."""
    if "{}" not in template:
        raise ValueError("needs {} where the text is put in")
    try:
        template.format("")
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"must hold no braces but {{}}: {error}") from error
    return template


def with_words(template: str) -> str:
    """A template with {} that says something of its own: the text alone would come out unchanged."""
    if not with_place(template).replace("{}", "").strip():
        raise ValueError("needs words around {}")
    return template


def _of_one_trace(score: HeadScore) -> HeadScore:
    if score == HeadScore.CONTENT:
        raise ValueError(
            "needs other traces' answers: only experiment=heads ranks by it (patching takes a list by experiment.rfhs)"
        )
    return score


OneTraceScore = Annotated[HeadScore, Lax, AfterValidator(_of_one_trace)]
"""A score of heads that one trace has by itself."""


def _as_text(value: Any) -> Any:
    """Hydra reads `model.revision=1234` as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _usable(text: str) -> str:
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise ValueError("holds characters that no file or model can hold")
    return text


Text = Annotated[str, BeforeValidator(_as_text), AfterValidator(_usable)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Words = Annotated[Text, AfterValidator(_not_blank)]
"""A text that says something."""


def _layer_name(text: str) -> str:
    try:
        return check_layer_name(text)
    except UserError as error:
        raise ValueError(str(error).partition(" ")[2]) from error


def one_of(names: Iterable[str]) -> AfterValidator:
    """For a text that must be one of some names."""
    known = [str(name) for name in names]

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"is not known: use {', '.join(known)}")
        return value

    return AfterValidator(check)


def distinct(values: list[Any]) -> list[Any]:
    """A validator for lists in which nothing may stand twice."""
    if any(values.count(value) > 1 for value in values):
        raise ValueError("must name each once")
    return values


Layers = Annotated[Text, AfterValidator(_layer_name)]
"""A set of layers by name: see interp/model/layers.py."""


def listed(value: Any) -> Any:
    """A validator for lists that may be given as their only member."""
    return value if isinstance(value, list) else [value]


Threads = Annotated[int, Field(ge=1, le=4096)]
Shards = Annotated[int, Field(ge=1, le=4096)]
LayerList = Annotated[list[Layers], BeforeValidator(listed), Field(min_length=1), AfterValidator(distinct)]


@dataclass(frozen=True)
class By:
    """Validated by an options model, then made into the annotated class of the library."""

    model: type[Options]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            lambda values: source(**dict(values)), handler.generate_schema(self.model)
        )


T = TypeVar("T", bound=BaseModel)


def typed(kind: type[T], node: DictConfig | dict[str, Any], where: str) -> T:
    """The options of a group. A missing, unknown or wrong one is a UserError that names it."""
    values = plain(node, where) if isinstance(node, DictConfig) else node
    try:
        return kind.model_validate(_given(values))
    except ValidationError as error:
        raise UserError(_message(error.errors()[0], kind, where)) from error


def plain(node: DictConfig, where: str) -> dict[str, Any]:
    """The values of a group. Raises UserError for one that refers to an option that does not exist."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        option = error.full_key or where
        raise UserError(f"{option}: {str(error).splitlines()[0]}") from error


def choice(kind: Any, value: str, option: str) -> Any:
    """A member of an enum by its value, or a UserError that lists them."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{option}={value} is not known: use {', '.join(kind)}") from error


def _given(values: Any) -> Any:
    """Without what still has to be set (??? in conf/), so that it counts as missing."""
    if not isinstance(values, dict):
        return values
    return {name: _given(value) for name, value in values.items() if value != "???"}


def _message(error: ErrorDetails, kind: type[BaseModel], where: str) -> str:
    """One line for one of pydantic's complaints."""
    path = [str(part) for part in error["loc"] if not isinstance(part, int)]
    option = ".".join(filter(None, (where, *path)))
    value, about = error["input"], error.get("ctx", {})
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    said = f"{option}={shown if len(shown) <= 80 else shown[:80] + '...'}"
    match error["type"]:
        case "missing":
            return f"{option} must be set"
        case "extra_forbidden":
            known = _fields(kind, path[:-1])
            return f"unknown option {option}: {_close(where, path, known)}"
        case "enum" | "literal_error":
            return f"{said} is not known: use {_alternatives(str(about['expected']))}"
        case "greater_than_equal" if about["ge"] == 0:
            return f"{said} must not be negative"
        case "greater_than_equal":
            return f"{said} must be at least {about['ge']}"
        case "value_error":
            return f"{said} {about['error']}"
        case _ if value is None:
            return f"{option} must not be null"
        case _:
            complaint = re.sub(r"^(Input|List|Value|String|Dictionary) should", "must", error["msg"])
            return f"{said} {re.sub(r' or instance of .*| after validation.*', '', complaint)}"


def _alternatives(expected: str) -> str:
    return expected.replace(" or ", ", ").replace("'", "")


def _close(where: str, path: list[str], known: list[str]) -> str:
    found = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    return f"did you mean {'.'.join(filter(None, (where, *path[:-1], *found)))}?" if found else nearest(path[-1], known)


def _fields(kind: Any, path: list[str]) -> list[str]:
    """The options of a group within a model."""
    for name in path:
        field = kind.model_fields.get(name) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        by = next((one.model for one in (field.metadata if field else ()) if isinstance(one, By)), None)
        kind = by or (field.annotation if field else None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
