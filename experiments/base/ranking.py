"""How heads are ranked by distance and tokens measured: what `rhythm`, `perturb` and `credit` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from interp.rhythm.waad_fai import Settings, Sinks


def _ordered(horizon: list[int]) -> list[int]:
    if horizon[0] > horizon[1]:
        raise ValueError("must be [H_lo, H_hi] with 0 <= H_lo <= H_hi")
    return horizon


Horizon = Annotated[
    list[Annotated[int, Field(ge=0, le=10**9)]], Field(min_length=2, max_length=2), AfterValidator(_ordered)
]
"""H_lo and H_hi of FAI."""
HeadShare = Annotated[float, Field(gt=0, le=0.5)]
"""Of the heads, so that none is local and global at once."""
Portion = Annotated[float, Field(gt=0, lt=1)]
"""Of the tokens: some, and not all."""


@dataclass(frozen=True)
class Ranking:
    """By what heads are ranked."""

    layers: Sequence[str]
    sinks: Sequence[Sinks]
    share: float
    receivers: int | None
    ranking_traces: int
    settings: Settings
    block_bytes: int | None


def ranking_of(
    options: Any, layers: Sequence[str], sinks: Sequence[Sinks], receivers: int | None, block_mb: int | None
) -> Ranking:
    """The ranking that an experiment's options ask for."""
    settings = Settings(options.window, *options.horizon)
    block = None if block_mb is None else block_mb * 2**20
    return Ranking(layers, sinks, options.share, receivers, options.ranking_traces, settings, block)
