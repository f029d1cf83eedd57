"""Training with credit beside TRL's own trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from interp.credit.gamma import NEVER_1, CreditRule, End, Signs, Strategy
from interp.credit.signals import CreditHeads, Measuring
from interp.credit.trainer import CreditTrainer
from interp.heads.scores import Head
from interp.rhythm.waad_fai import Settings

PROMPTS = ["<bos> Tom 5 apples .", "<bos> Ann 3 apples . <think>", "<bos> Bob 7 apples . Tom 2", "<bos> Who ?"]
MEASURING = Measuring(CreditHeads([Head(0, 0), Head(1, 1)], [Head(0, 1), Head(1, 0)]), Settings(4, 2, 6))


def odd_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs within every group."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


def make(
    words: PreTrainedTokenizerBase, directory: Path, rule: CreditRule | None, extra_pass: bool = True, **changes: Any
) -> GRPOTrainer:
    """A trainer of a small random model; without a rule TRL's own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    options: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "learning_rate": 1e-2,
        "beta": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "seed": 3,
        **changes,
    }
    model = LlamaForCausalLM(config)
    if options["beta"]:  # TRL loads the reference from where the model came
        model.save_pretrained(directory / "start")
        model = LlamaForCausalLM.from_pretrained(directory / "start")
    about: dict[str, Any] = {
        "model": model,
        "reward_funcs": odd_tokens,
        "args": GRPOConfig(
            str(directory),
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            **options,
        ),
        "train_dataset": Dataset.from_list([{"prompt": text} for text in PROMPTS * 4]),
        "processing_class": words,
    }
    if rule is None:
        return GRPOTrainer(**about)
    return CreditTrainer(
        **about, rule=rule, measuring=MEASURING, extra_pass=extra_pass, decisions=lambda ids: ids % 3 == 0
    )


def losses(trainer: GRPOTrainer) -> list[float]:
    torch.manual_seed(0)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture(scope="module")
def stock(words: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], torch.Tensor]:
    trainer = make(words, tmp_path_factory.mktemp("stock"), None)
    return losses(trainer), weights(trainer)


@pytest.mark.parametrize(
    "rule",
    [CreditRule(Strategy.UNIFORM)]
    + [CreditRule(strategy, gamma_amp=1.0) for strategy in Strategy if strategy not in NEVER_1],
    ids=lambda rule: f"{rule.strategy}-{rule.gamma_amp}",
)
def test_credit_of_1_is_stock_grpo_step_by_step(
    words: PreTrainedTokenizerBase, tmp_path: Path, stock: tuple[list[float], torch.Tensor], rule: CreditRule
) -> None:
    trainer = make(words, tmp_path, rule)
    assert losses(trainer) == stock[0]
    assert any(loss != 0 for loss in stock[0])
    torch.testing.assert_close(weights(trainer), stock[1], atol=0, rtol=0)


def scored(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """One batch of responses with their advantages."""
    torch.manual_seed(5)
    trainer.model.train()
    return trainer._generate_and_score_completions([{"prompt": text} for text in PROMPTS[:2] for _ in range(4)])


@pytest.mark.parametrize("amount", [0.5, 2.0])
def test_a_constant_credit_multiplies_every_advantage(
    words: PreTrainedTokenizerBase, tmp_path: Path, amount: float
) -> None:
    plain = scored(make(words, tmp_path, None))
    found = scored(make(words, tmp_path, CreditRule(Strategy.ENTROPY, q=1.0, gamma_amp=amount)))
    torch.testing.assert_close(found["completion_ids"], plain["completion_ids"])
    mask = plain["completion_mask"].bool()
    wanted = (plain["advantages"] * amount)[:, None].expand(mask.shape)
    torch.testing.assert_close(found["advantages"][mask], wanted[mask])


@pytest.mark.parametrize("strategy", [s for s in Strategy if s not in (Strategy.UNIFORM, Strategy.ORACLE, *NEVER_1)])
def test_every_strategy_credits_its_share_of_both_signs(
    words: PreTrainedTokenizerBase, tmp_path: Path, strategy: Strategy
) -> None:
    plain = scored(make(words, tmp_path, None))
    rule = CreditRule(strategy, q=0.5, alpha=0.0)
    found = scored(make(words, tmp_path, rule))
    gamma = found["advantages"] / plain["advantages"][:, None]
    for row, real in zip(gamma, plain["completion_mask"].bool(), strict=True):
        n = int(real.sum())
        chosen = int((row[real] - 1.5).abs().lt(1e-5).sum())
        assert chosen <= n // 2 + 1
        assert chosen >= 1 or n <= MEASURING.settings.h_lo  # short ones have no token with a signal
        assert bool((row[~real] - 1).abs().lt(1e-5).all())


def test_oracle_credits_what_it_is_told(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    plain, found = (scored(make(words, tmp_path, rule)) for rule in (None, CreditRule(Strategy.ORACLE)))
    amplified = (plain["completion_ids"] % 3 == 0) & plain["completion_mask"].bool()
    wanted = plain["advantages"][:, None] * torch.where(amplified, 1.5, 1.0)
    torch.testing.assert_close(found["advantages"], wanted)
    assert amplified.any()


def test_signs_leave_the_others_alone(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    plain = scored(make(words, tmp_path, None))["advantages"]
    rule = CreditRule(Strategy.ENTROPY, q=1.0, signs=Signs.NEGATIVE, end=End.BOTTOM)
    found = scored(make(words, tmp_path, rule))["advantages"]
    above = plain > 0
    assert above.any()
    assert (plain < 0).any()
    torch.testing.assert_close(found[above], plain[above][:, None].expand_as(found[above]))
    torch.testing.assert_close(found[~above][:, 0], plain[~above] * 1.5)


def test_responses_without_advantage_are_not_measured(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    trainer = make(words, tmp_path, CreditRule(Strategy.COUPLED))
    trainer.reward_funcs = [lambda completion_ids, **_: [1.0] * len(completion_ids)]
    measured = []
    core = trainer._signals
    trainer._signals = lambda batch, needs: measured.append(len(batch["completion_ids"])) or core(batch, needs)  # type: ignore[method-assign]
    found = scored(trainer)
    assert measured == [1]
    assert not found["advantages"].any()


@pytest.mark.parametrize("strategy", [Strategy.COUPLED, Strategy.ENTROPY])
def test_processes_that_have_less_to_measure_make_as_many_passes(
    words: PreTrainedTokenizerBase, tmp_path: Path, strategy: Strategy
) -> None:
    alone = scored(make(words, tmp_path, CreditRule(strategy)))["advantages"]
    trainer = make(words, tmp_path, CreditRule(strategy))
    trainer._most = lambda n: n + 2  # type: ignore[method-assign]
    passes = []
    core = trainer._signals
    trainer._signals = lambda batch, needs: passes.append(len(batch["completion_ids"])) or core(batch, needs)  # type: ignore[method-assign]
    torch.testing.assert_close(scored(trainer)["advantages"], alone)
    assert passes == [8, 1, 1]


def test_random_credit_does_not_depend_on_where_a_training_was_resumed(
    words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    trainer, later = (make(words, tmp_path, CreditRule(Strategy.RANDOM)) for _ in range(2))
    later._step = 40  # TRL counts batches from 0 again after a resume, and not its steps
    first, same = scored(trainer)["advantages"], scored(later)["advantages"]
    torch.testing.assert_close(first, same)
    later.state.global_step = 3
    assert not torch.equal(scored(later)["advantages"], first)


def test_rewritten_prompts_get_no_second_bos(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    batch = scored(make(words, tmp_path, CreditRule(Strategy.UNIFORM)))
    counts = (batch["prompt_ids"] == words.bos_token_id).sum(1)
    assert counts.tolist() == [1] * 8


def test_several_passes_a_step_and_reused_responses_give_the_same_credit(
    words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = scored(make(words, tmp_path, CreditRule(Strategy.COUPLED)))
    parts = make(
        words,
        tmp_path,
        CreditRule(Strategy.COUPLED),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_generations=4,
        num_iterations=2,
    )
    torch.testing.assert_close(scored(parts)["advantages"], whole["advantages"])
