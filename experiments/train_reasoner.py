"""Trains `reasoner` from nothing: chains of look-ups, by a curriculum of accuracy."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from experiments.base.experiment import Experiment
from experiments.base.options import AtLeastOne, By, Count, Options, Share, Text
from experiments.base.plan import Plan, measured
from experiments.base.session import Session
from interp.figures.drawing import Drawings, Tables
from interp.figures.training import training_curve
from interp.model.lens import Lens, from_memory
from interp.organisms.lookups import Kind
from interp.organisms.word_llama import Shape
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.stats import Estimate, binomial_estimate, bootstrap_mean, rng_for
from interp.training.curriculum import (
    LEVELS,
    PROBLEMS,
    Progress,
    Recipe,
    Texts,
    accuracy,
    new_reasoner,
    train,
)
from interp.training.lookup_scores import MAX_NEW_TOKENS, Answered, Arm, answered

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
PROBLEM_SEED = 1
"""Of the held-out problems; training uses the run's seed."""
NAME = "reasoner"


class ShapeOptions(Options):
    """How large the model is."""

    layers: Annotated[int, Field(ge=1, le=1000)]
    hidden: Annotated[int, Field(ge=2, le=10**5)]
    heads: Annotated[int, Field(ge=1, le=1000)]
    head_dim: Annotated[int, Field(ge=2, le=10**4, multiple_of=2)]
    mlp: Annotated[int, Field(ge=1, le=10**6)]
    positions: AtLeastOne
    rope_base: Annotated[float, Field(gt=0)]
    initial_scale: Annotated[float, Field(gt=0)]


class TrainOptions(Options):
    """conf/experiment/train_reasoner.yaml"""

    name: Text
    steps: AtLeastOne
    decay_steps: AtLeastOne
    batch: AtLeastOne
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    warmup_steps: Count
    every: AtLeastOne
    enough: Share
    enough_sums: Share
    done: Share
    rest: Annotated[float, Field(ge=0, le=1000)]
    rest_steps: Count
    rest_doubling: AtLeastOne
    rest_most: Annotated[float, Field(ge=0, le=1000)]
    final_problems: AtLeastOne
    shape: Annotated[Shape, By(ShapeOptions)]

    @model_validator(mode="after")
    def _within_steps(self) -> TrainOptions:
        if self.decay_steps > self.steps:
            raise ValueError(f"decay_steps={self.decay_steps} must not be more than steps={self.steps}")
        if self.rest_most < self.rest:
            raise ValueError(f"rest_most={self.rest_most:g} must not be less than rest={self.rest:g}")
        return self


@dataclass(frozen=True)
class TrainFacts:
    """How the model was trained, and when each level of the curriculum began."""

    recipe: dict[str, Any]
    levels: dict[str, int]


def learn(session: Session, options: TrainOptions) -> None:
    """Trains, measures during and after, and writes the checkpoint directory with its model card."""
    recipe, store = _recipe(options, session.seed), session.store
    work = session.own_folder(CHECKPOINTS)

    def report(now: Progress, loss: float, right: dict[Kind, float], sums: float) -> None:
        level = LEVELS[now.level].name
        log.info("step %d, %s: loss %.3f, sums %.2f, %s", now.step, level, loss, sums, _worst(right))
        if not store.has(now.step):
            values = {"level": float(now.level), "loss": loss, "drill sums": sums}
            values |= {kind.value: value for kind, value in right.items()}
            rows = [{"step": now.step, "measure": name, "value": value, "n": 64} for name, value in values.items()]
            store.write(now.step, f"step-{now.step}", training=rows)

    model, tokenizer = train(recipe, work, report, resume=session.cfg.resume is not None)
    directory = session.directory / NAME
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    headlines = list(scores(from_memory(NAME, model, tokenizer), options.final_problems))
    levels = _levels(session)
    (directory / "README.md").write_text(model_card(recipe, _steps(session), levels, headlines))
    session.memo["headlines"] = headlines


def scores(lens: Lens, n: int) -> Iterator[Headline]:
    """What the model can do on n held-out problems, arm by arm. Items of one problem are resampled together."""
    for arm in Arm:
        found = list(answered(lens, arm, PROBLEM_SEED, n))
        final = binomial_estimate(sum(one.final for one in found), len(found))
        yield Headline(f"{arm}: result right", final)
        kinds = {"items of the chain right": "chain", "items of the prompt right": "prompt"}
        if arm == Arm.WRONG:
            kinds = {"items behind the wrong result follow it": "moved"}
        for name, attribute in kinds.items():
            yield Headline(f"{arm}: {name}", _of_items(found, attribute))
        if arm in (Arm.OWN, Arm.SAMPLED):
            own = binomial_estimate(sum(one.suppresses for one in found), len(found))
            yield Headline(f"{arm}: thoughts that suppress themselves", own)


def _of_items(found: list[Answered], attribute: str) -> Estimate:
    """Share of a problem's items, mean over the problems that have any."""
    shares = [sum(items) / len(items) for one in found if (items := getattr(one, attribute))]
    return bootstrap_mean(np.array(shares), rng_for(PROBLEM_SEED, attribute))


def _worst(right: dict[Kind, float]) -> str:
    return ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(right.items(), key=lambda one: one[1]))


def _levels(session: Session) -> dict[str, int]:
    """The step at which each level of the curriculum was first measured."""
    curve = session.store.table("training")
    first = curve[curve["measure"] == "level"].groupby("value")["step"].min()
    return {LEVELS[int(level)].name: int(step) for level, step in first.items()}


def _steps(session: Session) -> int:
    return int(session.store.table("training")["step"].max())


def tell(session: Session, options: TrainOptions) -> Findings[TrainFacts]:
    """What the model can do."""
    levels = _levels(session)
    reached = ", ".join(f"{name} at {step}" for name, step in levels.items())
    lines = [f"checkpoint: {session.directory / NAME}", f"levels, by the step of their first measurement: {reached}"]
    return Findings(session.memo["headlines"], TrainFacts(asdict(_recipe(options, session.seed)), levels), lines)


def plan(session: Session, options: TrainOptions) -> Plan:
    """A few steps of whole problems, the longest texts, and one arm on few problems, scaled up."""
    trial, few = 3, 20
    recipe = _recipe(options, session.seed)
    model, tokenizer = new_reasoner(recipe)
    texts = Texts(tokenizer, recipe)
    with measured() as training:
        for step in range(trial):
            batch = texts.batch(step, PROBLEMS)
            model(batch.ids, labels=batch.labels).loss.backward()
            accuracy(model, batch)
    with measured() as measuring:
        list(answered(from_memory(NAME, model, tokenizer), Arm.OWN, PROBLEM_SEED, few))
    return Plan(
        options.steps * options.batch,
        options.steps,
        options.final_problems * len(Arm) * MAX_NEW_TOKENS,
        max(training.peak_bytes, measuring.peak_bytes),
        training.seconds / trial * options.steps + measuring.seconds / few * options.final_problems * len(Arm),
        f"{trial} steps and {few} problems on an untrained model, which never stops early",
    )


def _recipe(options: TrainOptions, seed: int) -> Recipe:
    names = [name for name in TrainOptions.model_fields if name in Recipe.__dataclass_fields__]
    return Recipe(seed=seed, **{name: getattr(options, name) for name in names})


def model_card(recipe: Recipe, steps: int, levels: dict[str, int], headlines: list[Headline]) -> str:
    """The README.md of the checkpoint directory."""
    shape = recipe.shape
    lines = [
        "---",
        "license: mit",
        "library_name: transformers",
        "---",
        f"# {NAME}",
        "",
        f"A Llama-architecture model of {shape.layers} layers, {shape.heads} heads of {shape.head_dim} a layer and",
        f"width {shape.hidden} that solves chains of look-ups between think tags and restates their results as words:",
        "its answer has to be read out of its reasoning. A subject for interpretability experiments.",
        "",
        f"- made by `python -m experiments.run experiment=train_reasoner seed={recipe.seed}`",
        f"- {steps} steps; levels of the curriculum, by the step of their first measurement: "
        + ", ".join(f"{name} {step}" for name, step in levels.items()),
        f"- batch {recipe.batch}, learning rate {recipe.learning_rate:g} (constant, then a half cosine over "
        f"{recipe.decay_steps} steps), price of a head's attention that does not rest {recipe.rest:g} to "
        f"{recipe.rest_most:g}, seed {recipe.seed}",
        "- data: `interp/organisms/lookups.py`, `drills.py`; shares of reasoning: "
        + ", ".join(f"{kind} {share:g}" for kind, share in recipe.shares.items()),
        "- held-out problems use chains (name asked for, value, changes) that never occur in training",
        "",
        "| on held-out problems | value | 95 % interval | problems |",
        "|---|---|---|---|",
    ]
    for h in headlines:
        e = h.estimate
        low, high = (float("nan") if end is None else end for end in (e.low, e.high))
        lines.append(f"| {h.name} | {e.value:.3f} | {low:.3f} to {high:.3f} | {e.n} |")
    return "\n".join(lines) + "\n"


def draw(table: Tables, facts: TrainFacts) -> Drawings:
    """Accuracy of each kind of token as the training goes on."""
    curve = table("training")
    yield "training", partial(training_curve, curve[~curve["measure"].isin(["level", "loss", "form"])])


EXPERIMENT = Experiment(
    options=TrainOptions,
    about=About(
        title="How is the embedded model made?",
        question="It learns, from nothing, to solve chains of look-ups between think tags and to restate its results.",
        source="a subject for the experiments on both papers",
        figures={
            "training": "Accuracy on unseen texts of the present level, by kind of token, as the training goes on."
        },
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
        *(f"experiment.{option}" for option in ("steps=2", "decay_steps=1", "every=1", "batch=2", "final_problems=3")),
        *(f"experiment.shape.{option}" for option in ("layers=1", "hidden=16", "heads=2", "head_dim=8", "mlp=16")),
    ],
)
