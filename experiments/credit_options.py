"""The options of `credit`, and how they name heads and questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from experiments.options import choice
from experiments.rhythm import RhythmOptions
from interp.credit import CreditRule, End, Signs, Strategy
from interp.errors import UserError
from interp.rhythm_measure import Sinks

TARGETED, ALL_HEADS = "targeted", "all"


@dataclass(frozen=True)
class CreditOptions:
    """conf/experiment/credit.yaml"""

    name: str = "credit"
    strategy: str = Strategy.COUPLED.value
    q: float = 0.4
    end: str = End.TOP.value
    gamma_amp: float = 1.5
    alpha: float = 0.5
    k: int = 3
    tau_waad: float = 0.5
    tau_delta: float = 0.5
    signs: str = Signs.BOTH.value
    preserve_mass: bool = False
    heads: str = TARGETED
    layers: str = "five"
    share: float = 0.3
    sinks: str = Sinks.KEPT.value
    window: int = 10
    horizon: list[int] = field(default_factory=lambda: [10, 100])
    ranking_traces: int = 16
    steps: int = 60
    eval_every: int = 10
    eval_batch: int = 100
    save_every: int = 20
    train: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)

    @property
    def rule(self) -> CreditRule:
        """Raises UserError for values out of range."""
        rule = CreditRule(
            strategy=choice(Strategy, self.strategy, "experiment.strategy"),
            end=choice(End, self.end, "experiment.end"),
            signs=choice(Signs, self.signs, "experiment.signs"),
            **{name: getattr(self, name) for name in ("q", "gamma_amp", "alpha", "k", "tau_waad", "tau_delta")},
            preserve_mass=self.preserve_mass,
        )
        rule.check()
        return rule

    @property
    def ranking(self) -> RhythmOptions:
        """How heads are ranked: as in the rhythm experiment."""
        return RhythmOptions(
            layers=[self.layers],
            sinks=[self.sinks],
            share=self.share,
            ranking_traces=self.ranking_traces,
            window=self.window,
            horizon=self.horizon,
        )

    def check(self) -> None:
        """Raises UserError for values out of range."""
        _ = self.rule
        self.ranking.check()
        if self.heads not in (TARGETED, ALL_HEADS):
            raise UserError(f"experiment.heads={self.heads} is not known: use {TARGETED} or {ALL_HEADS}")
        for name in ("steps", "eval_every", "eval_batch", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"experiment.{name}={getattr(self, name)} must be at least 1")
