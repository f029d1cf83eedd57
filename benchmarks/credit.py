"""What credit costs of a GRPO step, from TRL's own pass and from one of its own (the paper's Table 8: 2.0 to 3.3 %).

    python benchmarks/credit.py --strategy coupled --steps 14
    python benchmarks/credit.py --layers 24 --hidden 896 --heads 14 --kv 2 --mlp 4864 --completion 512 --batch 16

Without --layers it trains `reasoner-early` as in the study, where a response is measured only if its advantage is not
0; with it a random Qwen3-architecture model whose responses all have the same length and random rewards, so that all
are measured. One trainer takes steps both ways by turns, so that they share the machine's moods. Prints seconds a step,
seconds for credit, and their ratio, for both.
"""

from __future__ import annotations

import argparse
import random
import warnings
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Qwen3Config,
    TrainerCallback,
    TrainerState,
)
from trl.trainer.grpo_config import GRPOConfig

from interp.credit.checks import SECONDS
from interp.credit.gamma import CreditRule, Strategy
from interp.credit.signals import CreditHeads, Measuring
from interp.credit.trainer import CreditTrainer
from interp.data.datasets import word_problem_questions
from interp.heads.scores import Head
from interp.model.layers import layer_set
from interp.model.lens import ModelSource, ModelSpec, load_lens
from interp.organisms.word_problems import Split
from interp.rhythm.waad_fai import Settings
from interp.text.prompts import Condition, PromptStyle, render

SHORT = {"people": [2], "steps": [2, 3], "asked": [1]}


def random_model(options: argparse.Namespace, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=max(vocabulary, options.vocabulary),
        hidden_size=options.hidden,
        intermediate_size=options.mlp,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv,
        head_dim=options.hidden // options.heads,
    )
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def middle_heads(model: PreTrainedModel, share: float = 0.3) -> CreditHeads:
    """As many heads of the middle layers as the experiment would choose; which ones does not change the cost."""
    layers = layer_set("five", model.config.num_hidden_layers)
    heads = [Head(layer, head) for layer in layers for head in range(model.config.num_attention_heads)]
    n = max(1, round(share * len(heads)))
    drawn = random.Random(0).sample(heads, min(len(heads), 2 * n))
    return CreditHeads(tuple(drawn[:n]), tuple(drawn[n:]))


class ByTurns(TrainerCallback):
    """Odd steps take attention from TRL's own pass, even ones make a pass of their own."""

    def __init__(self, trainer: CreditTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        del args, control, kwargs
        self._trainer._where = self._trainer._place(extra_pass=state.global_step % 2 == 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", choices=list(Strategy), default=Strategy.COUPLED)
    numbers = {"steps": 14, "batch": 128, "group": 8, "completion": 64, "threads": 1, "layers": 0, "hidden": 896}
    for name, default in {**numbers, "heads": 14, "kv": 2, "mlp": 4864, "vocabulary": 151936}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", FutureWarning)
    lens = load_lens(ModelSpec("reasoner-early", ModelSource.EMBEDDED, "reasoner-early"))
    model = random_model(options, len(lens.tokenizer)) if options.layers else lens.hf.requires_grad_(True)
    questions = word_problem_questions(1000, Split.TRAIN, 4000, SHORT)
    prompts = [
        render(q.text, lens.tokenizer, lens.markers, PromptStyle(separator=" "), Condition.WITH_REASONING)
        for q in questions
    ]
    rewards = random.Random(0)

    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float]:
        if options.layers:
            return [rewards.random() for _ in completions]
        return [float(f"answer is {right}" in text) for text, right in zip(completions, gold, strict=True)]

    exact = {"min_new_tokens": options.completion} if options.layers else {}
    with TemporaryDirectory() as directory:
        trainer = CreditTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                directory,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch,
                num_generations=options.group,
                max_completion_length=options.completion,
                generation_kwargs=exact,
                learning_rate=1e-6,
                gradient_checkpointing=False,
                bf16=bool(options.layers) and torch.cuda.is_available(),
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": text, "gold": q.gold} for text, q in zip(prompts, questions, strict=True)]
            ),
            processing_class=lens.tokenizer,
            rule=CreditRule(Strategy(options.strategy)),
            measuring=Measuring(middle_heads(model), Settings()),
        )
        trainer.add_callback(ByTurns(trainer))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    # The first step of each way pays for what later ones find ready.
    steps = [entry for entry in trainer.state.log_history if "step_time" in entry][2:]
    size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    print(f"{size}, {options.batch} responses of up to {options.completion} tokens, {options.strategy}")
    ways = {"TRL's own pass": steps[::2], "a pass of its own": steps[1::2]}
    spent = {}
    for way, entries in ways.items():
        step = sum(entry["step_time"] for entry in entries) / len(entries)
        spent[way] = sum(entry.get(SECONDS) or 0.0 for entry in entries) / len(entries)
        share = f"{100 * spent[way] / step:.1f} %"
        print(f"{way}: {step:.2f} s a step, {spent[way]:.3f} s of it for credit: {share} (n = {len(entries)} steps)")
    shared, apart = spent.values()
    print(f"ratio of the seconds for credit: {apart / shared:.2f}; the paper's extra pass: 2.0 to 3.3 % of a step")


if __name__ == "__main__":
    main()
