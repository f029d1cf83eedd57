"""The options of `patching`, and what they are in the library's terms."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from experiments.base.options import (
    AtLeastOne,
    Count,
    Lax,
    Layers,
    Megabytes,
    OneTraceScore,
    Options,
    Text,
    distinct,
    one_of,
)
from experiments.base.session import Session
from interp.errors import UserError
from interp.model.layers import layer_set
from interp.model.sites import Site
from interp.patching.attribution import Method
from interp.patching.nld import Direction
from interp.patching.pair import PatchOptions, roles_of

EXACT, AUTO = "exact", "auto"
"""A patch for every place of a map; or, of large maps, estimates and exact checks of a tenth."""
LONG = 10
"""`auto` estimates maps of at least so many times the places to verify. Checks of a tenth found nine or more of the ten
largest effects where it was measured (docs/results.md)."""


def _with_resid_pre(sites: list[Site]) -> list[Site]:
    if Site.RESID_PRE not in sites:
        raise UserError("experiment.sites must contain resid_pre: the figures are drawn from it")
    return sites


def _with_denoise(directions: list[Direction]) -> list[Direction]:
    if Direction.DENOISE not in directions:
        raise UserError("experiment.directions must contain denoise: the figures are drawn from it")
    return directions


def _known_roles(roles: list[str]) -> list[str]:
    roles_of(roles)
    return roles


class PatchingOptions(Options):
    """conf/experiment/patching.yaml"""

    name: Text
    directions: Annotated[list[Annotated[Direction, Lax]], AfterValidator(distinct), AfterValidator(_with_denoise)]
    sites: Annotated[list[Annotated[Site, Lax]], AfterValidator(distinct), AfterValidator(_with_resid_pre)]
    layers: Layers
    head_roles: Annotated[list[Text], AfterValidator(distinct), AfterValidator(_known_roles)]
    answer_tokens: Count
    random_positions: Count
    unrelated: bool
    attribution: bool
    random_sets: Count
    top_k: AtLeastOne | None
    score: OneTraceScore
    rfhs: (
        Annotated[
            list[Annotated[list[Count], Field(min_length=2, max_length=2)]],
            Field(min_length=1),
            AfterValidator(distinct),
        ]
        | None
    )
    maps: Count
    map_stride: AtLeastOne
    map_prompt: bool
    map_window: AtLeastOne
    map_method: Annotated[str, one_of((AUTO, EXACT, *(method for method in Method if method != Method.ATP_QK)))]
    verify: Annotated[int, Field(ge=20)]
    edges: Count
    budget_mb: Megabytes

    @model_validator(mode="after")
    def _heads_named_or_counted(self) -> PatchingOptions:
        if self.rfhs is not None and self.top_k is not None:
            raise UserError("experiment.rfhs names the heads, experiment.top_k counts them: set one of them to null")
        return self

    @model_validator(mode="after")
    def _windows_are_exact(self) -> PatchingOptions:
        if self.map_window > 1 and self.map_method not in (AUTO, EXACT):
            raise UserError("experiment.map_window above 1 is patched exactly: leave experiment.map_method=exact")
        return self


def method_of_map(options: PatchingOptions, places: int) -> Method | None:
    """How a map of so many layers times positions is estimated; None = every place is patched."""
    if options.map_method == AUTO:
        return Method.ATP if options.map_window == 1 and places >= LONG * options.verify else None
    return None if options.map_method == EXACT else Method(options.map_method)


def verified_of_map(options: PatchingOptions, places: int) -> int:
    """How many places of an estimated map are patched exactly."""
    return max(options.verify, -(-places // LONG)) if options.map_method == AUTO else options.verify


def patch_options_of(session: Session, options: PatchingOptions) -> PatchOptions:
    """The options in the library's terms."""
    return PatchOptions(
        options.sites,
        options.directions,
        None if options.layers == "all" else layer_set(options.layers, session.shape.n_layers),
        roles_of(options.head_roles),
        options.random_positions,
        options.answer_tokens,
        options.budget_mb * 2**20,
        options.map_prompt,
        options.map_window,
    )
