"""TRL's GRPO with credit per token: the advantage of token t is multiplied by gamma[t] (Paper B, section 5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from interp.credit.batches import (
    COLUMNS,
    GAMMA,
    GIVEN,
    PLAIN,
    Decisions,
    Where,
    credited_mask,
    give,
    member,
    nothing_logged,
    put,
    signals_of,
    whole,
    with_given,
)
from interp.credit.checks import COSINE, GLOBAL_KEPT, LOCAL_KEPT, SECONDS, Stopwatch, Treatment, sums_of
from interp.credit.function import ATTENTION, core_of, needed
from interp.credit.gamma import CreditRule, Signals, Signs, Strategy, gamma_of
from interp.credit.hooks import check_hooks, check_state
from interp.credit.ranking import BatchRanking, RankedHeads, rank_heads, shape_of
from interp.credit.signals import BatchRhythm, CreditHeads, measure_batch
from interp.errors import UserError
from interp.model.attention import LayerAttention, attending
from interp.model.layers import layer_set
from interp.rhythm.waad_fai import Settings, Sinks

log = logging.getLogger(__name__)

AUTO = "auto"
Found = tuple[Tensor, Tensor | None, Tensor | None]


class AttentionCreditGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with credit per token: takes all of its arguments, and makes no additional forward pass.

    Heads are ranked on the first training batch (`heads="auto"`), again every `rerank_every` optimizer steps where that
    is given, in a pass of up to 16 responses; or they are given as `CreditHeads`. `rule` replaces `strategy`,
    `amplification`, `q` and `signs`. `cosine_every` = n logs the cosine of the credited gradient to plain GRPO's at the
    first of every n steps, for a second backward pass. `extra_pass` measures in a pass of its own. `decisions` says
    which tokens decide (`oracle`). Raises UserError for values out of range, models with images, and importance ratios
    of whole responses.
    """

    def __init__(
        self,
        *args: Any,
        strategy: Strategy | str = Strategy.COUPLED,
        amplification: float = 1.5,
        q: float = 0.4,
        signs: Signs | str = Signs.BOTH,
        heads: CreditHeads | str = AUTO,
        layers: str = "five",
        share: float = 0.3,
        sinks: Sinks | str = Sinks.KEPT,
        window: int = 10,
        horizon: tuple[int, int] = (10, 100),
        rerank_every: int | None = None,
        rule: CreditRule | None = None,
        cosine_every: int | None = None,
        extra_pass: bool = False,
        decisions: Decisions | None = None,
        **kwargs: Any,
    ) -> None:
        check_hooks(GRPOTrainer)
        self._rule = rule or CreditRule(
            member(Strategy, strategy, "strategy"), q=q, gamma_amp=amplification, signs=member(Signs, signs, "signs")
        )
        self._rule.check()
        if decisions is None and "decisions" in self._needs:
            raise UserError("strategy=oracle credits the tokens that decide: give decisions=, a function of their ids")
        self._decisions = decisions
        self._settings = Settings(window, *horizon)
        if isinstance(heads, str) and heads != AUTO:
            raise UserError(f"heads={heads}: give {AUTO!r} or CreditHeads.of(local, far)")
        ranking = BatchRanking(layers, share, member(Sinks, sinks, "sinks"))
        ranking.check()
        self._settings.check()
        for name, steps in (("rerank_every", rerank_every), ("cosine_every", cosine_every)):
            if steps is not None and steps < 1:
                raise UserError(f"{name}={steps}: give a number of steps, at least 1, or None")
        self._heads = RankedHeads(None if isinstance(heads, str) else heads, ranking, rerank_every)
        self._cosine_every = cosine_every
        super().__init__(*args, **kwargs)
        check_state(self)
        assert self.model is not None
        self.model: torch.nn.Module = self.model
        self._check_model()
        self._where = self._place(extra_pass)
        self._tap: Callable[..., Found] | None = None
        self._kept: Signals | None = None
        self._found: Found | None = None
        self._watch, self._treatment, self._steps = Stopwatch(), Treatment(), 0

    @property
    def credit_heads(self) -> CreditHeads | None:
        """The heads that credit is measured on; None before they are ranked."""
        return self._heads.now

    def _check_model(self) -> None:
        if self._is_vlm:
            raise UserError("credit is measured on texts: give a model without images")
        if self.importance_sampling_level == "sequence" and self._credits:
            raise UserError(
                "importance_sampling_level=sequence weighs a response by one ratio, so that only the mean of its "
                "tokens' credit reaches the gradient: use token"
            )
        how = self.args.gradient_checkpointing_kwargs
        reentrant = self.args.gradient_checkpointing and isinstance(how, dict) and how.get("use_reentrant", False)
        if (
            self._credits
            and self._cosine_every is not None
            and (reentrant or self.is_deepspeed_enabled or self.is_fsdp_enabled)
        ):
            raise UserError(
                "cosine_every takes a gradient apart, which DeepSpeed, FSDP and use_reentrant=True do not allow: "
                "set it to None (experiment.cosine_every=null)"
            )
        n_layers, n_heads = shape_of(core_of(self.model))
        given = self._heads.now
        if given is None or self._heads.every is not None:
            layer_set(self._heads.ranking.layers, n_layers)
        for head in (*given.local, *given.far) if given else ():
            if not (0 <= head.layer < n_layers and 0 <= head.head < n_heads):
                raise UserError(f"head {head}: the model has {n_layers} layers of {n_heads} heads, from 0")

    @property
    def _credits(self) -> bool:
        return self._rule.strategy != Strategy.UNIFORM

    @property
    def _needs(self) -> tuple[str, ...]:
        return self._rule.needs

    def _place(self, extra_pass: bool) -> Where:
        """Where the signals are taken; says so where that is not the pass that TRL makes."""
        if not (ATTENTION | {"entropy"}) & {*self._needs}:
            return Where.NOWHERE
        attention = core_of(self.model).config._attn_implementation
        reasons = {
            f"attention runs as {attention}, and only that of sdpa can be looked into unchanged": attention != "sdpa",
            "a compiled model cannot be looked into": self.args.torch_compile,
            "several GPUs share one process": self.args.n_gpu > 1,
        }
        why = [reason for reason, holds in reasons.items() if holds]
        if why and not extra_pass:
            log.warning("credit is measured in a forward pass of its own: %s", why[0])
        if why or extra_pass:
            return Where.EXTRA
        # As TRL decides whether the weights change between the responses and their loss.
        assert isinstance(self.args, GRPOConfig)
        changes = (
            self.args.gradient_accumulation_steps % ((self.args.steps_per_generation or 1) * self.num_iterations) != 0
        )
        return Where.OLD if changes else Where.LOSS

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        credited = self._credits and self.model.training
        self._kept = None
        self._tap = self._in_old_pass if credited and self._where is Where.OLD else None
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._tap = None
        if not credited:
            return batch
        # TRL's count of batches begins anew where a training is resumed; that of optimizer steps does not.
        here = (self.state.global_step, self.accelerator.process_index)
        give(batch, self._needs, self._decisions, self._tokenizer, self.args.seed, *here)
        if self._where is Where.LOSS:
            self._rank_if_due(*whole(batch))
        elif self._where is Where.NOWHERE:
            self._credit(batch, Signals())
        elif self._kept is not None:
            self._credit(batch, self._kept)
        else:
            self._credit_by_extra_pass(batch)
        return batch

    def _credit(self, batch: dict[str, Any], signals: Signals) -> None:
        """Multiplies a batch's advantages by gamma."""
        with self._watch:
            put(batch, gamma_of(self._rule, with_given(signals, batch), credited_mask(batch)), self._rule)

    def _credit_by_extra_pass(self, batch: dict[str, Any]) -> None:
        """Sequences whose advantage is 0 are not measured: gamma would not change anything for them."""
        self._rank_if_due(*whole(batch))
        advantages, mask = batch["advantages"], credited_mask(batch)
        with self._watch:
            gamma = torch.ones(mask.shape, device=mask.device)
            # At least one sequence on every process: with sharded weights all must take part in a pass.
            rows = advantages.nonzero().flatten() if bool(advantages.any()) else torch.zeros(1, dtype=torch.long)
            for part in self._passes(rows.to(mask.device)):
                signals = self._signals({name: batch[name][part] for name in COLUMNS}, self._needs)
                gamma[part] = gamma_of(self._rule, with_given(signals, batch, part), mask[part])
            put(batch, gamma, self._rule)

    def _passes(self, rows: Int[Tensor, " row"]) -> list[Int[Tensor, " row"]]:
        """The rows of each pass. With sharded weights a pass needs every process, so all make as many: those that have
        fewer to measure measure one again, and find the same."""
        passes = list(rows.split(self.args.per_device_train_batch_size))
        return passes + [rows[:1]] * (self._most(len(passes)) - len(passes))

    def _most(self, n: int) -> int:
        """The largest n of all processes."""
        return int(self.accelerator.gather(torch.tensor([n], device=self.accelerator.device)).max())

    def _signals(self, batch: dict[str, Tensor], needs: Sequence[str]) -> Signals:
        """The signals of some responses, from a pass of their own."""
        ids, mask, n_tokens = whole(batch)
        with self.accelerator.autocast():
            if "entropy" in needs:
                predict = self._get_per_token_logps_and_entropies
                with torch.no_grad():
                    return signals_of(None, predict(self.model, ids, mask, n_tokens, compute_entropy=True)[1])
            rhythm = self._rhythm(mask, n_tokens, None)
            measure_batch(self.model, core_of(self.model), ids, rhythm)
        return Signals(waad=rhythm.waad, fai=rhythm.fai)

    def _rhythm(self, mask: Tensor, n_tokens: int, rows: Tensor | None) -> BatchRhythm:
        assert self._heads.now is not None
        return BatchRhythm(
            needed(self._heads.now, self._needs),
            self._settings,
            self._heads.ranking.sinks,
            mask if rows is None else mask[rows],
            mask.shape[1] - n_tokens,
            stop_early=self.accelerator.num_processes == 1,
            rows=rows,
        )

    def _rank_if_due(self, ids: Tensor, mask: Tensor, n_tokens: int) -> None:
        """Ranks heads on the first responses of a batch, the same on all processes, where they are wanted."""
        step = self.state.global_step
        if not ATTENTION & {*self._needs} or not self._heads.due(step):
            return
        about = (self.model, core_of(self.model), ids, mask, n_tokens, self._heads.ranking, self._total)
        with self._watch, self.accelerator.autocast():
            heads = rank_heads(*about, stop_early=self.accelerator.num_processes == 1)
        kept = self._heads.replace(heads, step)
        for name, value in zip((LOCAL_KEPT, GLOBAL_KEPT), kept or (), strict=False):
            self._metrics["train"][name].append(value)

    def _total(self, sums: Tensor) -> Tensor:
        """The sum over processes."""
        total: Tensor = self.accelerator.reduce(sums, reduction="sum") if self.accelerator.num_processes > 1 else sums
        return total

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:  # before the rest: a checkpoint that is whole has its heads
            self._heads.save(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:  # a training that goes on credits the heads that it had
            self._heads.load(Path(checkpoint))

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Found:
        tap, self._tap = self._tap, None  # the first pass alone: the next may be that of the reference model
        compute = tap or super()._get_per_token_logps_and_entropies
        found: Found = compute(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        return found

    @contextmanager
    def _watched(self, model: torch.nn.Module, mask: Tensor, n_tokens: int, rows: Tensor | None) -> Iterator[Any]:
        """While open, the model's attention is taken in; gives the rhythm, or None where none is needed."""
        if not ATTENTION & {*self._needs}:
            yield None
            return
        rhythm = self._rhythm(mask, n_tokens, rows)

        def attend(call: LayerAttention) -> Tensor:
            with self._watch:
                rhythm.take_in(call)
            return call.output(call.mask)

        with attending(core_of(model), attend):
            yield rhythm
        rhythm.require_all_seen()

    def _in_old_pass(
        self,
        model: torch.nn.Module,
        ids: Tensor,
        mask: Tensor,
        n_tokens: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> Found:
        """The old log-probabilities, batch by batch as TRL computes them, and the signals of all responses."""
        self._rank_if_due(ids, mask, n_tokens)
        options["compute_entropy"] = "entropy" in self._needs or options.get("compute_entropy", False)
        found: list[Found] = []
        signals: list[Signals] = []
        for rows in torch.arange(len(ids)).split(batch_size or len(ids)):
            with self._watched(model, mask[rows], n_tokens, None) as rhythm:
                part = super()._get_per_token_logps_and_entropies(model, ids[rows], mask[rows], n_tokens, **options)
            found.append(part)
            signals.append(signals_of(rhythm, part[1]))
        names = [name for name in self._needs if name not in GIVEN]
        self._kept = Signals(**{name: torch.cat([getattr(one, name) for one in signals]) for name in names})
        entropies = torch.cat([part[1] for part in found if part[1] is not None]) if found[0][1] is not None else None
        return torch.cat([part[0] for part in found]), entropies, None

    def _in_loss_pass(
        self, inputs: dict[str, Any], model: torch.nn.Module, ids: Tensor, mask: Tensor, n_tokens: int, **options: Any
    ) -> Found:
        """The log-probabilities of a micro-batch, whose advantages are multiplied by gamma unless they have been.

        Sequences whose advantage is 0 are not measured: gamma would not change anything for them.
        """
        todo = self._where is Where.LOSS and PLAIN not in inputs and bool(inputs["advantages"].any())
        rows = inputs["advantages"].nonzero().flatten() if todo else None
        with self._watched(model, mask, n_tokens, rows) if todo else nullcontext() as rhythm:
            found: Found = super()._get_per_token_logps_and_entropies(model, ids, mask, n_tokens, **options)
        if rows is not None:
            with self._watch:
                signals = with_given(signals_of(rhythm, found[1], rows), inputs, rows)
                here = credited_mask(inputs)
                gamma = torch.ones(here.shape, device=here.device)
                gamma[rows] = gamma_of(self._rule, signals, here[rows])
                put(inputs, gamma, self._rule)
        self._found = found
        return found

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        if not (self._credits and self.model.training):
            plain: Tensor = super()._compute_loss(model, inputs)
            return plain
        self._tap = partial(self._in_loss_pass, inputs)
        loss: Tensor = super()._compute_loss(model, inputs)
        found, self._found = self._found, None
        assert found is not None
        self._treatment.add(self._total(self._sums(inputs, found[1])))
        if self._cosine_every is not None and self.state.global_step % self._cosine_every == 0:
            self._treatment.add_plain(self._plain_gradient(model, inputs, found))
        return loss

    @torch.no_grad()
    def _sums(self, inputs: dict[str, Any], entropy: Tensor | None) -> Tensor:
        mask = credited_mask(inputs)
        ones = torch.ones(mask.shape, device=mask.device)
        floor = 1.0 if self._rule.strategy == Strategy.SOFT else None
        plain = inputs.get(PLAIN, inputs["advantages"])
        return sums_of(plain, inputs.get(GAMMA, ones), mask, ones if entropy is None else entropy.detach(), floor)

    def _plain_gradient(self, model: torch.nn.Module, inputs: dict[str, Any], found: Found) -> list[Tensor | None]:
        """The gradient of the loss without credit, through the same forward pass."""
        self._tap = lambda *_, **__: found
        with nothing_logged(self):
            loss = super()._compute_loss(model, {**inputs, "advantages": inputs.get(PLAIN, inputs["advantages"])})
        gradient = torch.autograd.grad(loss, self._weights(), retain_graph=True, allow_unused=True)
        return [None if one is None else self._total(one) for one in gradient]

    def _weights(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # all micro-batches of the step have added theirs
            self._steps += 1
            found = self._treatment.take_cosine([weight.grad for weight in self._weights()])
            if found is not None:
                self._metrics["train"][COSINE].append(found)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._credits and self.model.training and self._steps:
            for name, value in {**self._treatment.take(), SECONDS: self._watch.take() / self._steps}.items():
                self._metrics["train"][name] = [value]
            self._steps = 0
        super().log(logs, start_time)
