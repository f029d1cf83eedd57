"""TRL's GRPO with credit per token: the advantage of token t is multiplied by gamma[t] (Paper B, section 5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from interp.credit.gamma import NEEDS, CreditRule, Signals, gamma_of, token_advantages
from interp.credit.signals import BatchRhythm, CreditHeads, Measuring, measure_batch
from interp.runs.training_state import WithoutPickles
from interp.stats import seed_for

SECONDS, SHARE = "credit/seconds", "credit/amplified"


class CreditTrainer(WithoutPickles, GRPOTrainer):
    """GRPO whose advantages have the shape (batch, token). Prompts are texts with their special tokens in them.

    Sequences whose advantage is 0 are not measured: gamma would not change anything for them.
    """

    def __init__(self, *args: Any, rule: CreditRule, measuring: Measuring, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.model is not None
        self.model: torch.nn.Module = self.model
        self._rule, self._measuring = rule, measuring

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict]:
        # The texts are rendered: a tokenizer that adds a BOS by itself would double it.
        return self._tokenizer(prompts, add_special_tokens=False)["input_ids"], None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        needs = NEEDS[self._rule.strategy]
        if not self.model.training or not needs:
            return batch
        start = self._clock()
        mask = batch["completion_mask"]
        if batch.get("tool_mask") is not None:
            mask = mask * batch["tool_mask"]
        advantages = batch["advantages"]
        gamma = torch.ones(mask.shape, device=mask.device)
        # At least one sequence on every process: with sharded weights all must take part in a pass.
        rows = advantages.nonzero().flatten() if bool(advantages.any()) else torch.zeros(1, dtype=torch.long)
        for part in self._passes(rows.to(mask.device)):
            signals = self._signals({name: batch[name][part] for name in COLUMNS}, needs, part)
            gamma[part] = gamma_of(self._rule, signals, mask[part])
        batch["advantages"] = token_advantages(advantages, gamma, self._rule.signs)
        self._metrics["train"][SECONDS].append(self._clock() - start)
        changed = (batch["advantages"] != advantages[:, None]) & mask.bool()
        self._metrics["train"][SHARE].append((changed.sum() / mask.sum().clamp(min=1)).item())
        return batch

    def _passes(self, rows: Int[Tensor, " row"]) -> list[Int[Tensor, " row"]]:
        """The rows of each pass. With sharded weights a pass needs every process, so all make as many: those that have
        fewer to measure measure one again, and find the same."""
        passes = list(rows.split(self.args.per_device_train_batch_size))
        return passes + [rows[:1]] * (self._most(len(passes)) - len(passes))

    def _most(self, n: int) -> int:
        """The largest n of all processes."""
        return int(self.accelerator.gather(torch.tensor([n], device=self.accelerator.device)).max())

    def _signals(self, batch: dict[str, Tensor], needs: Sequence[str], rows: Tensor) -> Signals:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        n_tokens = batch["completion_ids"].shape[1]
        if needs == ("noise",):
            return Signals(noise=self._noise(batch["completion_ids"], rows))
        with self.accelerator.autocast():
            if needs == ("entropy",):
                return Signals(entropy=self._entropy(ids, mask, n_tokens))
            heads = self._measuring.heads
            heads = CreditHeads(heads.local if "waad" in needs else (), heads.far if "fai" in needs else ())
            rhythm = BatchRhythm(
                heads,
                self._measuring.settings,
                self._measuring.sinks,
                mask,
                ids.shape[1] - n_tokens,
                stop_early=self.accelerator.num_processes == 1,
            )
            measure_batch(self.model, self.accelerator.unwrap_model(self.model), ids, rhythm)
        return Signals(waad=rhythm.waad, fai=rhythm.fai)

    def _noise(self, ids: Int[Tensor, "batch token"], rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch token"]:
        """Numbers that depend on the run's seed, the step, the response and its place alone: TRL's count of batches
        begins anew where a training is resumed."""
        here = (self.args.seed, "credit", self.state.global_step, self.accelerator.process_index)
        noise = [
            torch.rand(ids.shape[1], generator=_generator(*here, int(row), *response.tolist()))
            for row, response in zip(rows, ids, strict=True)
        ]
        return torch.stack(noise).to(ids.device)

    @torch.no_grad()
    def _entropy(self, ids: Tensor, mask: Tensor, n_tokens: int) -> Float[Tensor, "batch token"]:
        _, entropy, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, n_tokens, compute_entropy=True)
        return entropy

    def _clock(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


COLUMNS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def _generator(seed: int, *labels: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, *labels))
