"""Architecture, data and training of `word-reasoner` and `reasoner-early`, which reason about word problems."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from interp.organisms.word_llama import Shape, new_model
from interp.organisms.word_problems import DRILL, FULL, Reasoning, training_text, vocabulary
from interp.runs.training_state import WithoutPickles, last_checkpoint
from interp.safety import no_pickles

SIZE = Shape(layers=4, hidden=96, heads=6, mlp=256, initial_scale=0.06)
"""Its initial weights are larger than usual because it is narrow."""
IGNORED = -100
"""Label of tokens without loss, as in Hugging Face models."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, together with the library versions and the machine."""

    seed: int = 0
    drill_steps: int = 500
    """The first steps, on short problems that teach to look a person up by name."""
    steps: int = 2600
    """All steps, drills included."""
    batch: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    shares: dict[Reasoning, float] = field(
        default_factory=lambda: {Reasoning.FULL: 0.86, Reasoning.SUPPRESSED: 0.1, Reasoning.ABSENT: 0.04}
    )
    """How often a training text has the worked solution, the finished thought, or no think tags."""
    size: Shape = SIZE


def new_reasoner(size: Shape, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """An untrained model and its tokenizer."""
    return new_model(vocabulary(), size, seed)


class TrainingTexts(Dataset[dict[str, list[int]]]):
    """The training examples, made on demand, drills first; to be read in order. The prompt carries no loss.

    Windows of a few batches are sorted by length and their batches shuffled, so that a batch needs little padding.
    (The trainer's own grouping by length would make every text once before the first step.)
    """

    WINDOW = 4

    def __init__(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> None:
        self.tokenizer, self.recipe = tokenizer, recipe
        self._number, self._window = -1, list[dict[str, list[int]]]()

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        number, place = divmod(index, self.WINDOW * self.recipe.batch)
        if number != self._number:
            self._number, self._window = number, self._make_window(number)
        return self._window[place]

    def _make_window(self, number: int) -> list[dict[str, list[int]]]:
        batch, size = self.recipe.batch, self.WINDOW * self.recipe.batch
        examples = [self._example(i) for i in range(number * size, (number + 1) * size)]
        examples.sort(key=lambda example: len(example["input_ids"]))
        batches = [examples[i : i + batch] for i in range(0, size, batch)]
        random.Random(f"batches/{self.recipe.seed}/{number}").shuffle(batches)
        return [example for batch in batches for example in batch]

    def _example(self, index: int) -> dict[str, list[int]]:
        recipe = self.recipe
        difficulty = DRILL if index < recipe.drill_steps * recipe.batch else FULL
        prompt, completion = training_text(recipe.seed, index, recipe.shares, difficulty)
        before = self.tokenizer(f"<bos> {prompt}")["input_ids"]
        after = self.tokenizer(f"{completion} <eos>")["input_ids"]
        return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


def collate(pad_id: int) -> Callable[[list[dict[str, list[int]]]], dict[str, torch.Tensor]]:
    """Pads on the right; pads are neither attended to nor predicted."""

    def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def stack(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])

        mask = torch.tensor([[1] * len(row["labels"]) + [0] * (width - len(row["labels"])) for row in rows])
        return {"input_ids": stack("input_ids", pad_id), "labels": stack("labels", IGNORED), "attention_mask": mask}

    return pad


class Evaluation(TrainerCallback):
    """Calls `measure(step, model)` every `every` steps and at the end."""

    def __init__(self, every: int, measure: Callable[[int, LlamaForCausalLM], None]) -> None:
        self.every, self.measure = every, measure

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control  # the trainer passes them
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            model = kwargs["model"]
            model.eval()
            self.measure(state.global_step, model)
            model.train()


class ReasonerTrainer(WithoutPickles, Trainer):
    """The trainer, with checkpoints that hold no pickle."""


def train(
    recipe: Recipe,
    work_dir: Path,
    measure: Callable[[int, LlamaForCausalLM], None],
    every: int,
    use_cpu: bool,
    resume: bool = False,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Trains by next-token prediction on the completions; checkpoints of every `every` steps stay in `work_dir`.

    With `resume` it goes on from the last whole checkpoint in `work_dir`, if there is one.
    """
    model, tokenizer = new_reasoner(recipe.size, recipe.seed)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.98,
        seed=recipe.seed,
        train_sampling_strategy="sequential",
        save_steps=every,
        logging_steps=min(every, 25),
        report_to=[],
        use_cpu=use_cpu,
        remove_unused_columns=False,
    )
    assert tokenizer.pad_token_id is not None
    trainer = ReasonerTrainer(
        model=model,
        args=arguments,
        train_dataset=TrainingTexts(tokenizer, recipe),
        data_collator=collate(tokenizer.pad_token_id),
        callbacks=[Evaluation(every, measure)],
    )
    with no_pickles(str(work_dir)):
        checkpoint = last_checkpoint(work_dir) if resume else None
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return model.eval(), tokenizer
