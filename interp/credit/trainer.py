"""The trainer of `experiment=credit`: prompts are rendered by the suite, and checkpoints hold no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.credit.gamma import CreditRule
from interp.credit.grpo import AttentionCreditGRPOTrainer
from interp.credit.signals import Measuring
from interp.runs.training_state import WithoutPickles


class CreditTrainer(WithoutPickles, AttentionCreditGRPOTrainer):
    """The same for prompts that are texts with their special tokens in them, with checkpoints that hold no pickle."""

    def __init__(self, *args: Any, rule: CreditRule, measuring: Measuring, **kwargs: Any) -> None:
        settings = measuring.settings
        super().__init__(
            *args,
            rule=rule,
            heads=measuring.heads,
            window=settings.window,
            horizon=(settings.h_lo, settings.h_hi),
            sinks=measuring.sinks,
            **kwargs,
        )

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict]:
        # The texts are rendered: a tokenizer that adds a BOS by itself would double it.
        return self._tokenizer(prompts, add_special_tokens=False)["input_ids"], None, {}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._heads.load(Path(checkpoint))
