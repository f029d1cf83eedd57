"""`credit` and TRL: the configuration, the reward, measuring during training, and what is kept of a training."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import Enum
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import torch
from datasets import Dataset
from pydantic import ConfigDict, TypeAdapter, ValidationError
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.grpo_config import GRPOConfig

from experiments.base.collect import Needs, condition_for
from experiments.base.credit_options import CreditOptions
from experiments.base.data import DECISIONS
from experiments.base.session import Session
from interp.credit import checks
from interp.credit.batches import Decisions
from interp.credit.checks import SECONDS
from interp.credit.signals import Measuring
from interp.credit.trainer import CreditTrainer
from interp.data.examples import Question
from interp.errors import UserError, nearest
from interp.grading.reasoning_effect import accuracy
from interp.grading.responses import graded
from interp.model.decoding import plain_decoding
from interp.model.generate import ends_of
from interp.model.lens import device_of, without_progress_bars
from interp.organisms.decisions import decision_mask
from interp.runs.training_state import last_checkpoint
from interp.safety import no_pickles
from interp.stats import rng_for
from interp.text.prompts import render
from interp.text.trace import decode_response

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
OURS = (
    *("output_dir", "max_steps", "save_steps", "save_strategy", "save_total_limit", "logging_steps", "seed"),
    *("report_to", "use_cpu", "disable_tqdm", "remove_unused_columns"),
)
"""Options of TRL that follow from others here."""
LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"), 1),
    **dict.fromkeys(("num_iterations", "steps_per_generation", "generation_batch_size", "max_completion_length"), 1),
    **dict.fromkeys(("learning_rate", "beta", "weight_decay", "warmup_steps", "max_grad_norm"), 0),
    "temperature": 1e-6,
    "top_p": 1e-6,
}
"""The least values of numbers that TRL would take as they are, and fail on in the middle of a training."""
LOGGED = {
    "reward": "reward",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "frac_reward_zero_std": "groups_without_signal",
    "grad_norm": "gradient_norm",
    **checks.MEASURES,
}
"""What training.parquet keeps of TRL's log, and its name there."""


def grpo_config(session: Session, options: CreditOptions, directory: Path) -> GRPOConfig:
    """TRL's configuration from experiment.grpo. Raises UserError for what TRL refuses or what is set elsewhere."""
    for name, value in options.grpo.items():
        if name in OURS:
            raise UserError(f"experiment.grpo.{name}: set it by the experiment's own options")
        _check_grpo(name, value)
    chosen = {"max_completion_length": session.generation.max_new_tokens, **options.grpo}
    with _one_line():
        made = GRPOConfig(
            output_dir=str(directory),
            max_steps=options.steps,
            save_steps=options.save_every,
            save_strategy="steps",
            save_total_limit=1,
            logging_steps=1,
            seed=session.seed,
            report_to=[],
            use_cpu=device_of(session.model_spec.device).type == "cpu",
            disable_tqdm=True,
            remove_unused_columns=False,
            **chosen,
        )
    _check_saved(made)
    return made


def _check_grpo(name: str, value: Any) -> None:
    """Raises UserError for an option that TRL does not have, or a value that is not of its type or range."""
    known = [f.name for f in fields(GRPOConfig) if f.name not in OURS]
    option = f"experiment.grpo.{name}"
    if name not in known:
        raise UserError(f"unknown option {option} of TRL's GRPOConfig; {nearest(name, known)}")
    hint = get_type_hints(GRPOConfig)[name]
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].replace("Input should", "must")
        if not (isinstance(value, str) and _takes_names(hint)):  # an enum by its value: TRL looks it up
            raise UserError(f"{option}={value} {message}") from error
    if isinstance(value, int | float) and not isinstance(value, bool) and value < (least := LEAST.get(name, -math.inf)):
        raise UserError(f"{option}={value} must be at least {least:g}")


def _takes_names(hint: Any) -> bool:
    return any(isinstance(one, type) and issubclass(one, Enum) for one in (hint, *get_args(hint)))


@contextmanager
def _one_line() -> Iterator[None]:
    """What TRL refuses, as a UserError."""
    try:
        with _without_future_warnings():
            yield
    except (ValueError, TypeError, ImportError, AttributeError, KeyError) as error:
        raise UserError(f"experiment.grpo: {' '.join(str(error).split()) or type(error).__name__}") from error


def make_trainer(
    session: Session,
    options: CreditOptions,
    train_set: Sequence[Question],
    measuring: Measuring,
    directory: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> CreditTrainer:
    """A trainer of the session's own model: what is measured later through the session is the trained one."""
    model = session.lens.hf.requires_grad_(True)
    with _one_line():
        trainer = CreditTrainer(
            model=model,
            reward_funcs=reward(session, train_set),
            args=grpo_config(session, options, directory),
            train_dataset=Dataset.from_list(
                [{"prompt": _prompt(session, question), "index": i} for i, question in enumerate(train_set)]
            ),
            processing_class=session.lens.tokenizer,
            callbacks=list(callbacks),
            rule=options.rule,
            measuring=measuring,
            layers=options.layers,
            share=options.share,
            rerank_every=options.rerank_every,
            cosine_every=options.cosine_every,
            decisions=decisions_of(session),
        )
        trainer.create_optimizer()  # optimizers that need a package which is missing say so here
    trainer.remove_callback(PrinterCallback)  # the log and the progress bar are ours
    return trainer


def _check_saved(args: GRPOConfig) -> None:
    """Raises UserError where a checkpoint would fall between optimizer steps that share their responses: TRL does not
    keep these, and a training that goes on from there would draw others."""
    passes = (args.steps_per_generation or 1) * args.num_iterations
    apart = passes // math.gcd(passes, args.gradient_accumulation_steps)
    if args.save_steps < args.max_steps and args.save_steps % apart:
        raise UserError(
            f"experiment.save_every={args.save_steps:g} would save between steps that share their responses: "
            f"set it to a multiple of {apart}"
        )


def fit(trainer: CreditTrainer, checkpoint: Path | None = None) -> None:
    """Trains to the end, from a checkpoint where there is one."""
    with (
        without_progress_bars(),
        _without_future_warnings(),
        no_pickles(str(trainer.args.output_dir)),
        plain_decoding(trainer.accelerator.unwrap_model(trainer.model)),
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """TRL still uses names that transformers is about to change: nothing that a user can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def responses_a_step(trainer: CreditTrainer) -> int:
    """How many responses are generated at a time."""
    assert isinstance(trainer.args, GRPOConfig)
    return int(trainer.args.generation_batch_size or 0)


def reward(session: Session, asked: Sequence[Question]) -> Callable[..., list[float]]:
    """1 for a finished response whose answer is right, else 0."""
    ends = ends_of(session.lens)
    condition = condition_for(session, Needs.RESPONSE)

    def correct(completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        tokenizer, grading = session.lens.tokenizer, session.grading
        rows = [
            graded(
                asked[i], condition, decode_response(tokenizer, ids), grading, finished=bool(ids) and ids[-1] in ends
            )
            for ids, i in zip(completion_ids, index, strict=True)
        ]
        return [float(bool(row["correct"])) for row in rows]

    return correct


def decisions_of(session: Session) -> Decisions | None:
    """Which tokens of responses decide, where the data knows; else None."""
    known = session.cfg.data.kind == DECISIONS
    return partial(decision_mask, tokenizer=session.lens.tokenizer) if known else None


def _prompt(session: Session, question: Question) -> str:
    lens = session.lens
    condition = condition_for(session, Needs.RESPONSE)
    return render(question.text, lens.tokenizer, lens.markers, session.prompt_style, condition, question.earlier)


def held_out_accuracy(
    session: Session, options: CreditOptions, asked: Sequence[Question], step: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of training.parquet for a step, and the answers behind it: `test_samples` to each question."""
    lens, condition = session.lens, condition_for(session, Needs.RESPONSE)
    was_training = lens.hf.training
    lens.hf.eval()
    rows: list[dict[str, Any]] = []
    for sample, first in product(range(options.test_samples), range(0, len(asked), options.eval_batch)):
        batch = asked[first : first + options.eval_batch]
        prompts = [_prompt(session, question) for question in batch]
        drawn = (first, sample) if sample else (first,)
        responses = session.generator(prompts, session.generation, session.seed, "held out", *drawn)
        for question, response in zip(batch, responses, strict=True):
            text = decode_response(lens.tokenizer, response.ids)
            row = graded(question, condition, text, session.grading, finished=response.finished, sample=sample)
            rows.append({**row, "n_tokens": len(response.ids), "writer": f"{lens.name} step {step}"})
    lens.hf.train(was_training)
    right = pd.DataFrame([{"example": row["example"], "correct": bool(row["correct"])} for row in rows])
    estimate = accuracy(right, rng_for(session.seed, "held-out accuracy", step))
    return {"step": step, "measure": "accuracy", **asdict(estimate)}, rows


class _Measure(TrainerCallback):
    """Held-out accuracy before the first step, every few steps and at the end, each written at once."""

    def __init__(self, session: Session, options: CreditOptions, asked: Sequence[Question]) -> None:
        self._session, self._options, self._asked = session, options, asked
        self._bar = tqdm(desc="training", total=options.steps, disable=not session.cfg.progress, leave=False)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, control, kwargs
        self._bar.update(state.global_step)
        if state.global_step == 0:  # a training that goes on has no row that one without a break lacks
            self._at(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control, kwargs
        self._bar.update()
        if state.global_step % self._options.eval_every == 0 or state.global_step == self._options.steps:
            self._at(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, state, control, kwargs
        self._bar.close()

    def _at(self, step: int) -> None:
        store = self._session.store
        if store.has(step):
            return
        row, answers = held_out_accuracy(self._session, self._options, self._asked, step)
        ends = step in (0, self._options.steps)
        store.write(step, f"step-{step}", training=[row], answers=answers if ends else [])
        log.info("step %d: held-out accuracy %.3f", step, row["value"])


def train(
    session: Session,
    options: CreditOptions,
    train_set: Sequence[Question],
    test_set: Sequence[Question],
    measuring: Measuring,
) -> dict[str, float]:
    """Trains to the end, from the last checkpoint if the run is resumed. Returns seconds a step and for credit."""
    store, directory = session.store, session.own_folder(CHECKPOINTS)
    trainer = make_trainer(session, options, train_set, measuring, directory, [_Measure(session, options, test_set)])
    torch.manual_seed(session.seed)
    fit(trainer, last_checkpoint(directory))
    # Of every optimizer step, also of those that use responses again, which have no reward of their own.
    history = [entry for entry in trainer.state.log_history if "step_time" in entry]
    if not store.has_closing("b-log"):
        n = responses_a_step(trainer)
        rows = [
            {"step": entry["step"], "measure": name, "value": float(entry[key]), "n": n}
            for entry in history
            for key, name in LOGGED.items()
            if entry.get(key) is not None
        ]
        store.write_closing("b-log", training=rows)
    model = session.directory / "model"
    with without_progress_bars():
        trainer.save_model(str(model))
    later = history[1:] or history  # the first step pays for what later ones find ready
    seconds = sum(entry["step_time"] for entry in later)
    credit = sum(entry.get(SECONDS) or 0.0 for entry in later)
    return {
        "seconds_a_step": seconds / len(later),
        "credit_seconds_a_step": credit / len(later),
        "share": credit / seconds,
    }
