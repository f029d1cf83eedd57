"""Credit in trainings of other people: the scripts of docs/credit_library.md, run with small random models."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from packaging.requirements import Requirement
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)
from trl import GRPOConfig, GRPOTrainer

from interp.credit import AttentionCreditGRPOTrainer, CreditHeads, CreditRule, Strategy
from interp.credit.hooks import HOOKS, STATE, check_hooks, check_state
from interp.credit.ranking import HEADS_FILE
from interp.errors import UserError
from tests.test_credit_pass import LAYOUTS
from tests.test_credit_trainer import odd_tokens, weights

ROOT = Path(__file__).resolve().parents[1]
TRL, FREE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "credit_library.md").read_text(), re.DOTALL)
OURS = "from interp.credit import AttentionCreditGRPOTrainer as GRPOTrainer  # was: from trl import GRPOTrainer"
TEXTS = [f"Tom finds {i} apples . How many ?" for i in range(8)]
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
HORIZON = (2, 6)


@pytest.fixture(scope="module")
def models(words: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random checkpoints, with a tokenizer that has a chat template."""
    folder = tmp_path_factory.mktemp("models")
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    configs = {
        "llama": LlamaConfig(**SIZE, **special, vocab_size=len(words)),
        "qwen2": Qwen2Config(**SIZE, **special, vocab_size=len(words)),
        "qwen3": Qwen3Config(**SIZE, **special, vocab_size=len(words), head_dim=8),
        "mistral": MistralConfig(**SIZE, **special, vocab_size=len(words), sliding_window=6),
    }
    for name, about in configs.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(about).save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return {name: folder / name for name in configs}


def data(conversational: bool) -> Dataset:
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": text}] if conversational else text} for text in TEXTS]
    )


def config(directory: Path, **changes: Any) -> GRPOConfig:
    options: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 16,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        **changes,
    }
    return GRPOConfig(str(directory), **options)


def swapped(script: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert script.count(old) == 1, f"{old} is no longer in the script"
        script = script.replace(old, new)
    return script


def quick_start(directory: Path, model: Path, conversational: bool, ours: bool, options: str = "") -> GRPOTrainer:
    """TRL's quick start on small things; `ours` changes one line of it, `options` are added to the call."""
    script = swapped(
        TRL,
        ('load_dataset("trl-lib/DeepMath-103K", split="train")', "given_data"),
        ('"Qwen/Qwen2.5-0.5B-Instruct"', "given_model"),
        ("reward_funcs=accuracy_reward", "reward_funcs=given_reward"),
        ("train_dataset=dataset,", f"train_dataset=dataset, args=given_args, {options}"),
    )
    if not ours:
        script = swapped(script, (OURS, "from trl import GRPOTrainer"))
    file = directory / "train.py"
    file.write_text(script)
    torch.manual_seed(0)
    given = {
        "given_data": data(conversational),
        "given_model": str(model),
        "given_reward": odd_tokens,
        "given_args": config(directory),
    }
    trainer: GRPOTrainer = runpy.run_path(str(file), init_globals=given)["trainer"]
    return trainer


@pytest.mark.parametrize(("name", "conversational"), [("qwen2", True), ("llama", False)])
def test_the_quick_start_of_trl_with_one_line_changed(
    models: dict[str, Path], tmp_path: Path, name: str, conversational: bool
) -> None:
    about = (tmp_path, models[name], conversational)
    stock = quick_start(*about, ours=False)
    assert type(stock) is GRPOTrainer
    flat = quick_start(*about, ours=True, options="amplification=1.0")
    assert torch.equal(weights(flat), weights(stock))
    more = quick_start(*about, ours=True, options=f"horizon={HORIZON}")
    assert isinstance(more, AttentionCreditGRPOTrainer)
    assert not torch.equal(weights(more), weights(stock))
    assert more.credit_heads is not None
    assert {head.layer for head in (*more.credit_heads.local, *more.credit_heads.far)} == {1}
    first = [next(entry["reward"] for entry in one.state.log_history if "reward" in entry) for one in (stock, more)]
    assert first[0] == first[1], "prompts, and so the first responses, are TRL's own"


def test_the_step_without_trl(models: dict[str, Path], tmp_path: Path) -> None:
    script = swapped(FREE, ('"Qwen/Qwen2.5-0.5B-Instruct"', f'"{models["llama"]}"'), ("lr=1e-6", "lr=1e-2"))
    file = tmp_path / "step.py"
    file.write_text(script)
    torch.manual_seed(0)
    found = runpy.run_path(str(file))
    gamma, mask = found["gamma"], found["completion_mask"].bool()
    assert gamma.dtype == torch.float32
    assert gamma.shape == mask.shape
    assert not gamma.requires_grad
    assert bool((gamma[~mask] == 1).all())
    assert bool((gamma[mask] > 1).any())
    start = AutoModelForCausalLM.from_pretrained(models["llama"])
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), found["model"].parameters(), strict=True))


def trainer_of(model: Path, directory: Path, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AttentionCreditGRPOTrainer(
        model=str(model),
        reward_funcs=odd_tokens,
        args=config(directory, **changes),
        train_dataset=data(False),
        **{"horizon": HORIZON, **(options or {})},
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_trls_own_pass_gives_every_architecture_the_credit_of_a_pass_of_its_own(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    found = []
    for extra_pass in (True, False):
        trainer = trainer_of(models[name], tmp_path, {"extra_pass": extra_pass, "amplification": 3.0})
        trainer.train()
        found.append((weights(trainer), trainer.credit_heads))
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-4)


def test_evaluation_has_no_credit(models: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for strategy in ("uniform", "coupled"):
        about = {"eval_dataset": data(True), "strategy": strategy}
        trainer = trainer_of(models["llama"], tmp_path, about, per_device_eval_batch_size=8)
        torch.manual_seed(1)
        found.append(trainer.evaluate())
    assert found[0]["eval_loss"] == found[1]["eval_loss"]
    assert not [name for name in found[1] if "credit" in name]


def test_a_resumed_training_keeps_its_heads_and_ends_with_the_same_weights(
    models: dict[str, Path], tmp_path: Path
) -> None:
    saved = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "learning_rate": 0.3}
    options = {"rerank_every": 2}
    whole = trainer_of(models["llama"], tmp_path / "whole", options, **saved)
    whole.train()
    kept = json.loads((tmp_path / "whole" / "checkpoint-1" / HEADS_FILE).read_text())
    resumed = trainer_of(models["llama"], tmp_path / "whole", options, **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert [list(head) for head in resumed._heads.first.local] == kept["now"]["local"]
    assert resumed.credit_heads == whole.credit_heads
    assert torch.equal(weights(resumed), weights(whole))


def test_given_heads_are_taken(models: dict[str, Path], tmp_path: Path) -> None:
    heads = CreditHeads.of(local=[(0, 1)], far=[(3, 2), (2, 0)])
    trainer = trainer_of(models["qwen2"], tmp_path, {"heads": heads}, max_steps=1)
    trainer.train()
    assert trainer.credit_heads == heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "copled"}, "strategy=copled"),
        ({"heads": "all"}, "heads=all"),
        ({"heads": CreditHeads.of([(9, 0)], [(0, 0)])}, r"\(9,0\).*4 layers of 4 heads"),
        ({"q": 0.0}, "q=0"),
        ({"layers": "9"}, "layer 9"),
        ({"share": 0.7}, "share=0.7"),
        ({"horizon": (100, 10)}, "H_lo <= H_hi"),
        ({"rerank_every": 0}, "rerank_every=0"),
        ({"cosine_every": 0}, "cosine_every=0"),
        ({"cosine_every": 1, "args": LAYOUTS["reentrant"]}, "cosine_every takes a gradient apart"),
        ({"args": {"importance_sampling_level": "sequence"}}, "importance_sampling_level"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(
    models: dict[str, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    changes = options.pop("args", {})
    with pytest.raises(UserError, match=message):
        trainer_of(models["llama"], tmp_path, options, **changes)


def test_an_adapter_of_peft_is_trained_with_credit(models: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    found = []
    for amplification in (None, 1.0, 2.0):
        adapter = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        options = {"peft_config": adapter, "amplification": amplification or 1.0}
        options |= {"strategy": "uniform"} if amplification is None else {}
        trainer = trainer_of(models["llama"], tmp_path, options, beta=0.05)
        trainer.train()
        found.append(weights(trainer))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_trl_is_of_the_range_that_is_asked_for_and_has_what_credit_builds_on() -> None:
    """Where this fails after an upgrade, look at what has become of these methods before anything else."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (trl,) = [one for one in map(Requirement, extras["rl"]) if one.name == "trl"]
    assert trl.specifier.contains(version("trl"))
    check_hooks(GRPOTrainer)


@pytest.mark.parametrize("name", HOOKS)
def test_a_trl_without_one_of_them_is_refused(name: str) -> None:
    class Later(GRPOTrainer):
        pass

    setattr(Later, name, lambda *_: None)
    with pytest.raises(UserError, match=rf"has no Later.{name}\({', '.join(HOOKS[name])}\)"):
        check_hooks(Later)


def test_a_trl_whose_state_has_other_names_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    trainer = trainer_of(models["llama"], tmp_path)
    check_state(trainer)
    for name in STATE:
        value = trainer.__dict__.pop(name)
        with pytest.raises(UserError, match=rf"has no AttentionCreditGRPOTrainer.{name}, which credit builds on"):
            check_state(trainer)
        setattr(trainer, name, value)


def test_the_whole_rule_can_be_given(models: dict[str, Path], tmp_path: Path) -> None:
    rule = CreditRule(Strategy.GLOBAL_ANCHOR, preserve_mass=True)
    assert trainer_of(models["llama"], tmp_path, {"rule": rule})._rule == rule
