"""Trains `word-reasoner` from nothing, and keeps an early checkpoint of the same training for the RL experiments."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field, model_validator
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase

from experiments.base.experiment import Experiment
from experiments.base.options import AtLeastOne, By, Count, Options, Share, Text
from experiments.base.plan import Plan, measured
from experiments.base.session import Session
from interp.data.examples import Question
from interp.errors import UserError
from interp.figures.drawing import Drawings, Tables
from interp.figures.training import training_curve
from interp.grading.responses import Grading, graded
from interp.model.generate import Sampling, generate
from interp.model.lens import Lens, from_memory
from interp.organisms.word_llama import Shape
from interp.organisms.word_problems import Split, WordProblem, make_problem
from interp.organisms.word_reasoner import Recipe, new_reasoner, train
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.stats import Estimate, binomial_estimate
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import decode_response

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
STYLE = PromptStyle(separator=" ")
MAX_NEW_TOKENS = 200
PROBLEM_SEED = 1
"""Of the held-out problems; training uses the run's seed."""
EVALUATION_BATCH = 100


class SizeOptions(Options):
    """How large the model is."""

    layers: Annotated[int, Field(ge=1, le=1000)]
    hidden: Annotated[int, Field(ge=2, le=10**5)]
    heads: Annotated[int, Field(ge=1, le=1000)]
    mlp: Annotated[int, Field(ge=1, le=10**6)]
    positions: AtLeastOne
    rope_base: Annotated[float, Field(gt=0)]
    initial_scale: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _heads_of_even_width(self) -> SizeOptions:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden={self.hidden} must be a multiple of twice heads={self.heads}")
        return self


class TrainOptions(Options):
    """conf/experiment/train_word_reasoner.yaml"""

    name: Text
    steps: AtLeastOne
    drill_steps: Count
    batch: AtLeastOne
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    warmup_steps: Count
    every: AtLeastOne
    eval_problems: AtLeastOne
    final_problems: AtLeastOne
    early_accuracy: Annotated[list[Share], Field(min_length=2, max_length=2)]
    size: Annotated[Shape, By(SizeOptions)]


@dataclass(frozen=True)
class Arm:
    """One way to ask: the name of its measure, what the prompt does with the reasoning, and the temperature."""

    measure: str
    condition: Condition
    temperature: float


ARMS = (
    Arm("accuracy_greedy", Condition.WITH_REASONING, 0.0),
    Arm("accuracy_sampled", Condition.WITH_REASONING, 1.0),
    Arm("accuracy_without_reasoning", Condition.WITHOUT_REASONING, 0.0),
    Arm("accuracy_no_tags", Condition.NO_TAGS, 0.0),
)


@dataclass(frozen=True)
class TrainFacts:
    """How the model was trained, and which step the early checkpoint is of."""

    recipe: dict[str, Any]
    early_step: int | None


def learn(session: Session, options: TrainOptions) -> None:
    """Trains, measures during and after, and writes two checkpoint directories with model cards."""
    recipe = _recipe(options, session.seed)
    store = session.store
    work = session.own_folder(CHECKPOINTS)

    def measure_step(step: int, model: LlamaForCausalLM) -> None:
        if not store.has(step):
            lens = _lens(model, new_reasoner(recipe.size, recipe.seed)[1])
            rows = [
                _row(step, arm.measure, estimate) for arm, estimate, _ in _measure(lens, options.eval_problems, step)
            ]
            store.write(step, f"step-{step}", training=rows)
            log.info("step %d: %s", step, ", ".join(f"{row['measure'][9:]} {row['value']:.2f}" for row in rows))

    resume = session.cfg.resume is not None
    model, tokenizer = train(recipe, work, measure_step, options.every, use_cpu=_on_cpu(session), resume=resume)

    early_step = _early_step(session, options)
    headlines = _keep(session, options, recipe, "word-reasoner", recipe.steps, model, tokenizer)
    if early_step is None:
        log.warning("no checkpoint had a sampled accuracy in %s: there is no early checkpoint", options.early_accuracy)
    else:
        early = AutoModelForCausalLM.from_pretrained(work / f"checkpoint-{early_step}").eval()
        headlines += _keep(session, options, recipe, "reasoner-early", early_step, early, tokenizer)
    session.memo["headlines"] = headlines


def tell(session: Session, options: TrainOptions) -> Findings[TrainFacts]:
    """What was measured of the two checkpoints."""
    kept = sorted(str(path) for path in session.directory.glob("*reasoner*"))
    facts = TrainFacts(asdict(_recipe(options, session.seed)), _early_step(session, options))
    return Findings(session.memo["headlines"], facts, [f"checkpoints: {', '.join(kept)}"])


def plan(session: Session, options: TrainOptions) -> Plan:
    """Trains for a few steps, measures once, and scales up."""
    trial = 6
    model, tokenizer = new_reasoner(options.size, session.seed)
    few = replace(_recipe(options, session.seed), steps=trial, drill_steps=0)
    with measured() as training, TemporaryDirectory() as folder:
        train(few, Path(folder), lambda *_: None, trial, use_cpu=_on_cpu(session))
    with measured() as measuring:
        list(_measure(_lens(model, tokenizer), options.eval_problems, 0))
    measurements = options.steps // options.every + 2 * options.final_problems / options.eval_problems
    return Plan(
        options.steps * options.batch,
        options.steps,
        round(measurements * options.eval_problems * len(ARMS) * MAX_NEW_TOKENS),
        max(training.peak_bytes, measuring.peak_bytes),
        training.seconds / trial * options.steps + measuring.seconds * measurements,
        f"{trial} steps and one measurement of an untrained model, which never stops early",
    )


def _recipe(options: TrainOptions, seed: int) -> Recipe:
    if options.every > options.steps:
        raise UserError(f"experiment.every={options.every} must lie between 1 and experiment.steps={options.steps}")
    return Recipe(
        seed=seed,
        steps=options.steps,
        drill_steps=options.drill_steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        size=options.size,
    )


def _on_cpu(session: Session) -> bool:
    import torch

    return str(session.cfg.model.device) == "cpu" or not torch.cuda.is_available()


def _lens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Lens:
    frozen = {p for p in model.parameters() if not p.requires_grad}
    lens = from_memory("word-reasoner", model, tokenizer)
    for parameter in model.parameters():  # a lens freezes its model, and this one goes on learning
        parameter.requires_grad_(parameter not in frozen)
    return lens


def _measure(lens: Lens, n: int, *labels: object) -> Iterator[tuple[Arm, Estimate, list[dict[str, Any]]]]:
    """Accuracy on the first n held-out problems under each arm, with the rows of answers.parquet."""
    problems = [make_problem(PROBLEM_SEED, Split.HELD_OUT, i) for i in range(n)]
    for arm in ARMS:
        rows = [row for first in range(0, n, EVALUATION_BATCH) for row in _answers(lens, arm, problems, first, *labels)]
        yield arm, binomial_estimate(sum(row["correct"] for row in rows), n), rows


def _answers(
    lens: Lens, arm: Arm, problems: list[WordProblem], first: int, *labels: object
) -> Iterator[dict[str, Any]]:
    batch = problems[first : first + EVALUATION_BATCH]
    prompts = [render(p.question, lens.tokenizer, lens.markers, STYLE, arm.condition) for p in batch]
    sampling = Sampling(arm.temperature, MAX_NEW_TOKENS)
    responses = generate(lens, prompts, sampling, PROBLEM_SEED, arm.measure, first, *labels)
    for i, (problem, response) in enumerate(zip(batch, responses, strict=True)):
        text = decode_response(lens.tokenizer, response.ids)
        question = Question(
            f"{Split.HELD_OUT}-{PROBLEM_SEED}-{first + i}", problem.question, problem.answer, problem.kind
        )
        yield graded(
            question,
            arm.condition,
            text,
            Grading(lens.markers),
            finished=response.finished,
            n_tokens=len(response.ids),
            writer=lens.name,
        )


def _row(step: int, measure: str, estimate: Estimate) -> dict[str, Any]:
    return {"step": step, "measure": measure, **asdict(estimate)}


def _early_step(session: Session, options: TrainOptions) -> int | None:
    """The first measured step whose sampled accuracy lies in the wanted range."""
    curve = session.store.table("training")
    low, high = options.early_accuracy
    sampled = curve[(curve["measure"] == "accuracy_sampled") & (curve["step"] <= options.steps)]
    wanted = sampled[(sampled["value"] >= low) & (sampled["value"] <= high)]
    return None if wanted.empty else int(wanted["step"].iloc[0])


def _keep(
    session: Session,
    options: TrainOptions,
    recipe: Recipe,
    name: str,
    step: int,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Headline]:
    """Measures a checkpoint on many problems and writes its directory with a model card."""
    directory = session.directory / name
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    headlines, answers = [], []
    for arm, estimate, rows in _measure(_lens(model, tokenizer), options.final_problems, "final", name):
        headlines.append(Headline(f"{name}: {readable(arm.measure)}", estimate))
        answers += rows if arm.temperature == 0 else []
    index = recipe.steps + 1 + (name != "word-reasoner")
    if not session.store.has(index):
        session.store.write(index, name, answers=answers)
    (directory / "README.md").write_text(model_card(name, step, recipe, headlines, session.seed))
    return headlines


def model_card(name: str, step: int, recipe: Recipe, headlines: list[Headline], seed: int) -> str:
    """The README.md of a checkpoint directory."""
    size = recipe.size
    lines = [
        "---",
        "license: mit",
        "library_name: transformers",
        "---",
        f"# {name}",
        "",
        f"A Llama-architecture model of {size.layers} layers, {size.heads} heads a layer and width {size.hidden} that",
        "reasons about word problems between think tags before it answers: a subject for interpretability experiments.",
        "",
        f"- made by `python -m experiments.run experiment=train_word_reasoner seed={seed}`",
        f"- step {step} of {recipe.steps}; the first {recipe.drill_steps} are drills on short problems",
        f"- batch {recipe.batch}, learning rate {recipe.learning_rate:g} (cosine), seed {recipe.seed}",
        "- data: `interp/organisms/word_problems.py`; shares of reasoning: "
        + ", ".join(f"{kind} {share:g}" for kind, share in recipe.shares.items()),
        "- held-out problems use combinations of a name and its numbers that never occur in training",
        "",
        "| on held-out problems | value | 95 % interval | n |",
        "|---|---|---|---|",
    ]
    for h in headlines:
        e = h.estimate
        lines.append(f"| {h.name.partition(': ')[2]} | {e.value:.3f} | {e.low:.3f} to {e.high:.3f} | {e.n} |")
    return "\n".join(lines) + "\n"


def draw(table: Tables, facts: TrainFacts) -> Drawings:
    """Accuracies as the training goes on."""
    yield "training", partial(training_curve, table("training"))


EXPERIMENT = Experiment(
    options=TrainOptions,
    about=About(
        title="How are the models for reinforcement learning made?",
        question="It learns to reason about word problems between think tags, from nothing.",
        source="a subject for the experiments on both papers",
        figures={"training": "Accuracy on held-out problems as the training goes on."},
    ),
    unit=None,
    splits=False,
    needs_data=False,
    needs_model=lambda _: False,
    comparable=False,
    check=lambda session, options: _recipe(options, session.seed),
    analyse=learn,
    findings=tell,
    facts=TrainFacts,
    draw=draw,
    plan=plan,
    tidy=lambda session, _: shutil.rmtree(session.own_folder(CHECKPOINTS)),
    smallest=[
        *(f"experiment.{option}" for option in ("steps=2", "drill_steps=1", "every=1", "batch=2", "eval_problems=2")),
        *(f"experiment.{option}" for option in ("final_problems=4", "early_accuracy=[0,1]", "size.layers=1")),
        *(f"experiment.{option}" for option in ("size.hidden=16", "size.heads=2", "size.mlp=16")),
    ],
)
