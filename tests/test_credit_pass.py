"""Credit from the pass that TRL makes anyway, beside credit from a pass of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer

from interp.credit.batches import GAMMA, PLAIN
from interp.credit.checks import (
    ADVANTAGE,
    COSINE,
    EFFECTIVE,
    ENTROPY,
    GLOBAL_KEPT,
    LOCAL_KEPT,
    POSITION,
    SECONDS,
    SHARE,
)
from interp.credit.gamma import NEVER_1, CreditRule, Signs, Strategy
from tests.test_credit_trainer import losses, make, weights

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro_batches": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "twice": {"num_iterations": 2, "max_steps": 4},
    "stale": {"per_device_train_batch_size": 4, "steps_per_generation": 2, "max_steps": 4},
    "stale_twice": {"per_device_train_batch_size": 2, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    | {"num_iterations": 2, "max_steps": 4},
    "reused": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_iterations": 2}
    | {"steps_per_generation": 4, "max_steps": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "kl": {"beta": 0.1},
    "bf16": {"bf16": True},
}
"""How responses are cut into losses, and how often they are used."""


def watched(trainer: GRPOTrainer) -> tuple[list[torch.Tensor], list[int]]:
    """Gamma of every loss of a training as it runs, and how many sequences went through the first layer."""
    gammas, rows = [], []
    compute = trainer._compute_loss

    def keep(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = compute(model, inputs)
        gammas.append(inputs.get(GAMMA, torch.ones(inputs["completion_mask"].shape)))
        return loss

    trainer._compute_loss = keep  # type: ignore[method-assign]
    layer = trainer.accelerator.unwrap_model(trainer.model).base_model.layers[0]
    layer.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])) if inputs[0].shape[1] > 1 else None)
    return gammas, rows


@pytest.mark.parametrize(
    ("layout", "strategy"),
    [
        *((layout, Strategy.COUPLED) for layout in LAYOUTS),
        *((layout, Strategy.ENTROPY) for layout in ("micro_batches", "stale")),
        *((layout, Strategy.MATCHED_RANDOM) for layout in ("micro_batches", "stale_twice")),
    ],
)
def test_credit_from_trls_own_pass_is_that_of_a_pass_of_its_own(
    words: PreTrainedTokenizerBase, tmp_path: Path, layout: str, strategy: Strategy
) -> None:
    found = []
    for extra in (True, False):
        trainer = make(words, tmp_path, CreditRule(strategy), extra_pass=extra, **LAYOUTS[layout])
        gammas, rows = watched(trainer)
        found.append((losses(trainer), weights(trainer), gammas, sum(rows)))
    (plain, ours, gammas, rows), (shared_plain, theirs, shared, fewer) = found
    assert any(bool((gamma != 1).any()) for gamma in gammas)
    assert len(gammas) == len(shared)
    for one, other in zip(gammas, shared, strict=True):
        torch.testing.assert_close(other, one)
    assert plain == pytest.approx(shared_plain, abs=1e-5)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    assert fewer < rows


@pytest.mark.parametrize("layout", ["plain", "micro_batches", "stale_twice", "reentrant", "kl"])
def test_no_sequence_goes_through_the_model_more_often_than_in_plain_grpo(
    words: PreTrainedTokenizerBase, tmp_path: Path, layout: str
) -> None:
    passes = []
    for rule in (None, CreditRule(gamma_amp=1.0)):
        trainer = make(words, tmp_path, rule, extra_pass=False, **LAYOUTS[layout])
        _, rows = watched(trainer)
        passes.append((losses(trainer), rows, weights(trainer)))
    (plain, ours, stock), (credited, theirs, found) = passes
    assert credited == plain
    assert theirs == ours
    assert torch.equal(found, stock)


@pytest.mark.parametrize("strategy", [strategy for strategy in Strategy if strategy is not Strategy.UNIFORM])
def test_every_strategy_trains_in_the_shared_pass(
    words: PreTrainedTokenizerBase, tmp_path: Path, strategy: Strategy
) -> None:
    trainer = make(words, tmp_path, CreditRule(strategy), extra_pass=False, max_steps=1)
    gammas, _ = watched(trainer)
    losses(trainer)
    assert any(bool((gamma != 1).any()) for gamma in gammas)
    least = min(float(gamma.min()) for gamma in gammas)
    assert (least < 1) == (strategy in NEVER_1)


def test_other_attention_than_sdpa_falls_back_and_says_so(
    words: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def eager(extra_pass: bool) -> torch.Tensor:
        trainer = make(words, tmp_path, CreditRule(), extra_pass=extra_pass, max_steps=2)
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.set_attn_implementation("eager")
        with caplog.at_level(logging.WARNING):
            trainer._where = trainer._place(extra_pass)
        losses(trainer)
        assert model.config._attn_implementation == "eager"
        return weights(trainer)

    asked = eager(True)
    assert not caplog.records
    assert torch.equal(eager(False), asked)
    assert "a forward pass of its own: attention runs as eager" in caplog.text


def logged(trainer: GRPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if entry.get(name) is not None]


@pytest.mark.parametrize("layout", ["micro_batches", "checkpointed", "kl"])
def test_the_cosine_is_that_of_two_gradients_computed_apart(
    words: PreTrainedTokenizerBase, tmp_path: Path, layout: str
) -> None:
    gradients = []
    for rule in (None, CreditRule(gamma_amp=4.0)):
        options = {**LAYOUTS[layout], "max_steps": 3, "optim": "sgd", "max_grad_norm": 0.0}
        trainer = make(words, tmp_path, rule, extra_pass=False, **options)
        trainer._cosine_every = 2
        gathered: list[torch.Tensor] = []
        step = trainer.training_step

        def keep(*about: Any, step: Any = step, trainer: Any = trainer, gathered: Any = gathered) -> torch.Tensor:
            loss = step(*about)
            if trainer.accelerator.sync_gradients:
                gathered.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
            return loss

        trainer.training_step = keep
        losses(trainer)
        gradients.append(gathered)
    found = [(entry["step"], entry[COSINE]) for entry in trainer.state.log_history if COSINE in entry]
    assert [step for step, _ in found] == [1, 3]
    wanted = torch.cosine_similarity(gradients[0][0], gradients[1][0], dim=0).item()
    assert found[0][1] == pytest.approx(wanted, abs=1e-5)
    assert 0 < wanted < 0.9999


def test_a_measured_cosine_changes_neither_the_training_nor_its_log(
    words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    runs = []
    for every in (None, 1):
        trainer = make(words, tmp_path, CreditRule(), extra_pass=False)
        trainer._cosine_every = every
        losses(trainer)
        kept = [
            {name: value for name, value in entry.items() if name not in (COSINE, SECONDS) and "time" not in name}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        runs.append((kept, weights(trainer)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_uniform_credit_has_cosine_1_and_treats_no_token(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    trainer = make(words, tmp_path, CreditRule(Strategy.FIRST, q=1.0, gamma_amp=3.0), extra_pass=False)
    trainer._cosine_every = 1
    losses(trainer)
    assert logged(trainer, COSINE) == pytest.approx([1.0] * 3)
    assert logged(trainer, EFFECTIVE) == pytest.approx([1.0] * 3)
    assert logged(trainer, POSITION) == []
    assert logged(trainer, ENTROPY) == [0.0] * 3


def test_the_log_says_where_credit_went(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    parts = LAYOUTS["micro_batches"]
    trainer = make(words, tmp_path, CreditRule(Strategy.FIRST, q=0.5, gamma_amp=2.0), extra_pass=False, **parts)
    rows: list[tuple[torch.Tensor, ...]] = []
    compute = trainer._compute_loss

    def keep(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = compute(model, inputs)
        for plain, gamma, mask in zip(inputs[PLAIN], inputs[GAMMA], inputs["completion_mask"].bool(), strict=True):
            rows.append((plain, gamma[mask]))
        return loss

    trainer._compute_loss = keep
    trainer.args.max_steps = 1
    losses(trainer)
    signed = [(plain, gamma) for plain, gamma in rows if plain != 0]
    flat = torch.cat([gamma for _, gamma in signed])
    assert logged(trainer, SHARE) == pytest.approx(
        [int((flat == 2).sum()) / sum(len(gamma) for _, gamma in rows)], abs=1e-6
    )
    assert logged(trainer, EFFECTIVE) == pytest.approx([float(flat.sum() ** 2 / (flat**2).sum()) / len(flat)], abs=1e-6)
    weight = torch.cat([plain.abs() * gamma for plain, gamma in signed])
    assert logged(trainer, ADVANTAGE) == pytest.approx([float(weight[flat == 2].sum() / weight.sum())], abs=1e-6)
    places = torch.cat([(torch.arange(len(gamma)) + 0.5) / len(gamma) for _, gamma in signed])
    assert logged(trainer, POSITION) == pytest.approx([float(places[flat == 2].mean())], abs=1e-6)
    (entropy,) = logged(trainer, ENTROPY)
    assert 0 < entropy < 1
    assert logged(trainer, SECONDS)[0] > 0


def test_heads_ranked_again_are_compared_with_the_first(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    trainer = make(words, tmp_path, CreditRule(signs=Signs.BOTH), extra_pass=False, learning_rate=0.5, max_steps=4)
    trainer._heads.every = 2
    losses(trainer)
    entries = [entry for entry in trainer.state.log_history if LOCAL_KEPT in entry]
    assert [entry["step"] for entry in entries] == [3]
    assert all(0 <= entry[name] <= 1 for entry in entries for name in (LOCAL_KEPT, GLOBAL_KEPT))
