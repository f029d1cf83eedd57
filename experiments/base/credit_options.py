"""The options of `credit`, and how they name heads and questions."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.options import AtLeastOne, Lax, Layers, Options, Share, Text, one_of
from experiments.base.ranking import HeadShare, Horizon, ranking_of
from interp.credit.gamma import CreditRule, End, Signs, Strategy, Unit
from interp.rhythm.head_sets import Ranking
from interp.rhythm.waad_fai import Sinks

TARGETED, ALL_HEADS = "targeted", "all"


def _some(q: float) -> float:
    if q == 0:
        raise ValueError("chooses no token: use strategy=uniform for plain GRPO")
    return q


class CreditOptions(Options):
    """conf/experiment/credit.yaml"""

    name: Text
    strategy: Annotated[Strategy, Lax]
    q: Annotated[Share, AfterValidator(_some)]
    end: Annotated[End, Lax]
    gamma_amp: Annotated[float, Field(ge=0, le=10**6)]
    alpha: Share
    k: AtLeastOne
    tau_waad: Share
    tau_delta: Share
    unit: Annotated[Unit, Lax]
    first_q: Annotated[Share, AfterValidator(_some)] | None
    once: bool
    signs: Annotated[Signs, Lax]
    preserve_mass: bool
    heads: Annotated[str, one_of((TARGETED, ALL_HEADS))]
    layers: Layers
    share: HeadShare
    sinks: Annotated[Sinks, Lax]
    window: AtLeastOne
    horizon: Horizon
    ranking_traces: AtLeastOne
    rerank_every: AtLeastOne | None
    cosine_every: AtLeastOne | None
    steps: AtLeastOne
    eval_every: AtLeastOne
    eval_batch: AtLeastOne
    save_every: AtLeastOne
    train: dict[str, Any]
    test: dict[str, Any]
    test_samples: AtLeastOne
    grpo: dict[str, Any]

    @property
    def rule(self) -> CreditRule:
        return CreditRule(**{field.name: getattr(self, field.name) for field in fields(CreditRule)})

    @property
    def ranking(self) -> Ranking:
        """How heads are ranked: as in the rhythm experiment."""
        return ranking_of(self, [self.layers], [self.sinks], None, None)
