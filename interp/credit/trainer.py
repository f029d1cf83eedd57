"""The trainer of `experiment=credit`: prompts are rendered by the suite, and checkpoints hold no pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from interp.credit.gamma import CreditRule
from interp.credit.grpo import AttentionCreditGRPOTrainer
from interp.credit.signals import Measuring
from interp.runs.training_state import WithoutPickles


class InEpochs(Sampler[int]):
    """TRL's order of the questions, which draws anew in every epoch: of the epoch that begins, also where a training
    goes on in a later one. TRL's sampler by itself would begin with the first epoch's order again."""

    def __init__(self, questions: RepeatSampler, epoch: Callable[[], int]) -> None:
        self._questions, self._epoch = questions, epoch

    def __len__(self) -> int:
        return len(self._questions)

    def __iter__(self) -> Iterator[int]:
        order = self._questions
        if order.shuffle and order.seed is not None:
            order.generator.manual_seed(order.seed)
            for _ in range(self._epoch()):
                torch.randperm(order.num_samples, generator=order.generator)
        return iter(order)


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

    def _get_train_sampler(self, dataset: Any = None) -> InEpochs:
        questions = super()._get_train_sampler(dataset)
        assert isinstance(questions, RepeatSampler)
        return InEpochs(questions, lambda: int((self.state.epoch or 0.0) + 1e-6))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._heads.load(Path(checkpoint))
