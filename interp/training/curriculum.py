"""Training by a curriculum of accuracy: a level is drilled until its *worst* kind of token holds, then the next begins.

Accuracy over all tokens would hide what is missing: with short chains the last result is the restated one, sums are a
third of the numbers, and a pooled .9 stands for a model that looks nothing up.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everywhere
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.model.attention import LayerAttention, attending
from interp.organisms import drills
from interp.organisms.lookups import Kind, Piece, training_pieces, vocabulary
from interp.organisms.word_llama import Shape, new_model
from interp.organisms.word_problems import Reasoning

EXTRA = 8
"""Columns added to keys and values, of which one is used: fused attention wants widths that vectors divide."""
LEAST = 1e-4
"""Added to what a head spends: the root has no slope at nothing."""
IGNORED = -100
"""Label of tokens without loss, as in Hugging Face models."""


@dataclass(frozen=True)
class Level:
    """One step of the curriculum: recall of n items, restating thoughts of n steps, or whole problems."""

    recall: int | None = None
    thought: int | None = None

    @property
    def name(self) -> str:
        if self.recall:
            return f"recall {self.recall}"
        return f"thought {self.thought}" if self.thought else "problems"


LEVELS = (*(Level(recall=n) for n in (2, 3, 5, 7, 10)), Level(thought=2), Level(thought=3), Level(thought=5), Level())
SHAPE = Shape(layers=6, hidden=128, heads=8, mlp=256, head_dim=32)
PROBLEMS = len(LEVELS) - 1
FIRST_THOUGHT = next(i for i, level in enumerate(LEVELS) if level.thought)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, together with the library versions and the machine."""

    seed: int = 0
    steps: int = 5000
    """At most: the learning rate begins to fall `decay_steps` before them at the latest."""
    decay_steps: int = 450
    """The last steps, in which the learning rate falls to zero along a half cosine."""
    batch: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    every: int = 50
    """Steps between measurements, after each of which the next level may begin."""
    enough: float = 0.9
    """Accuracy of the worst kind of token on unseen texts of a level from which the next one begins."""
    enough_sums: float = 0.95
    """What sums must reach as well before whole problems begin."""
    done: float = 0.975
    """Accuracy of the worst kind on whole problems, twice in a row, from which the learning rate falls."""
    rest: float = 0.05
    """Price of attention that does not rest on the first token, on whole problems: added to the loss is the price times
    the mean over heads of the root of what a head spends elsewhere (its mean over tokens). The root makes a second head
    for the same work dearer than more work for the first: heads that nothing needs rest, as in large models, instead of
    looking evenly at everything, and few heads stand in for one another."""
    rest_steps: int = 250
    """Steps on whole problems after which the price begins to rise: it doubles every `rest_doubling` steps."""
    rest_doubling: int = 50
    rest_most: float = 1.6
    """Highest price; only once it is reached may the learning rate fall."""
    shares: dict[Reasoning, float] = field(
        default_factory=lambda: {Reasoning.FULL: 0.9, Reasoning.SUPPRESSED: 0.06, Reasoning.ABSENT: 0.04}
    )
    shape: Shape = SHAPE


def new_reasoner(recipe: Recipe) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """An untrained model and its tokenizer."""
    return new_model(vocabulary(), recipe.shape, recipe.seed)


@dataclass(frozen=True)
class Batch:
    """Texts side by side, padded on the right. `labels` are IGNORED where there is no loss, `kinds` index Kind."""

    ids: Int[Tensor, "text pos"]
    labels: Int[Tensor, "text pos"]
    kinds: Int[Tensor, "text pos"]


KINDS = list(Kind)


class Texts:
    """Training texts by step and level: every batch can be made again alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> None:
        self.recipe = recipe
        self._vocab = tokenizer.get_vocab()

    def batch(self, step: int, level: int) -> Batch:
        """The batch of a training step: each text is of the level, or of what came before."""
        recipe = self.recipe
        rng = random.Random(f"batch/{recipe.seed}/{step}")
        indices = range(step * recipe.batch, (step + 1) * recipe.batch)
        # Long repeats from the beginning keep recall from being learnt.
        most = 48 if level == PROBLEMS else 24
        return self.side_by_side([self._text(self._drawn(rng, level), i, most) for i in indices])

    def _drawn(self, rng: random.Random, level: int) -> Level | str:
        """What a text is: `repeat`, `sums`, or a level up to the present one."""
        kind, before = rng.random(), LEVELS[:level]
        recalls = [one for one in LEVELS[: level + 1] if one.recall]
        thoughts = [one for one in LEVELS[: level + 1] if one.thought]
        if kind < 0.05 or (level == PROBLEMS and kind > 0.9):
            return "repeat"
        if kind < 0.2:
            return "sums"
        if level < FIRST_THOUGHT:
            return LEVELS[level] if kind < 0.7 or not before else rng.choice(before)
        if kind < 0.28:
            return rng.choice(recalls[-2:])
        if level < PROBLEMS:
            return LEVELS[level] if kind < 0.8 else rng.choice(thoughts)
        return rng.choice(thoughts[-2:]) if kind < 0.38 else LEVELS[PROBLEMS]

    def _text(self, drawn: Level | str, index: int, most: int) -> drills.Text:
        seed = self.recipe.seed
        if isinstance(drawn, str):
            return drills.repeat(seed, index, most) if drawn == "repeat" else drills.sums(seed, index)
        return self.of(drawn, seed, index, self.recipe.shares)

    @staticmethod
    def of(level: Level, seed: int, index: int, shares: Mapping[Reasoning, float]) -> drills.Text:
        """A text of one level."""
        if level.recall:
            return drills.recall(seed, index, level.recall)
        return drills.thought(seed, index, level.thought) if level.thought else training_pieces(seed, index, shares)

    def unseen(self, level: Level | None, seed: int, n: int) -> Batch:
        """Texts of one level, or sums without one, of a seed that is not the training's."""
        if level is None:
            return self.side_by_side([drills.sums(seed, i) for i in range(n)])
        return self.side_by_side([self.of(level, seed, i, {Reasoning.FULL: 1.0}) for i in range(n)])

    def side_by_side(self, texts: list[drills.Text]) -> Batch:
        """Encoded and padded. The prompt carries no loss."""
        rows = [self.encode(prompt, pieces) for prompt, pieces in texts]
        width = max(len(ids) for ids, _, _ in rows)

        def padded(column: int, fill: int) -> Int[Tensor, "text pos"]:
            return torch.tensor([row[column] + [fill] * (width - len(row[column])) for row in rows])

        return Batch(padded(0, self._vocab["<pad>"]), padded(1, IGNORED), padded(2, 0))

    def encode(self, prompt: str, pieces: tuple[Piece, ...]) -> tuple[list[int], list[int], list[int]]:
        """Ids, labels and kinds of one text."""
        ids = [self._vocab["<bos>"], *self._ids(prompt)]
        labels, kinds = [IGNORED] * len(ids), [0] * len(ids)
        for piece in (*pieces, Piece("<eos>")):
            new = self._ids(piece.text)
            ids += new
            labels += new if piece.learn else [IGNORED] * len(new)
            kinds += [KINDS.index(piece.kind)] * len(new)
        return ids, labels, kinds

    def _ids(self, text: str) -> list[int]:
        # Faster than the tokenizer, and the same (tests/test_curriculum.py).
        for sign in ".,:?":
            text = text.replace(sign, f" {sign} ")
        return [self._vocab[word] for word in text.split()]


def _pad(model: LlamaForCausalLM) -> int:
    pad = model.config.pad_token_id
    assert pad is not None  # set where the model is made
    return pad


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, batch: Batch) -> dict[Kind, float]:
    """By kind: share of the tokens to be learnt that are the likeliest at their place, given the text before."""
    right = model(batch.ids).logits[:, :-1].argmax(-1) == batch.labels[:, 1:]
    learnt, kinds = batch.labels[:, 1:] != IGNORED, batch.kinds[:, 1:]
    among = {kind: learnt & (kinds == i) for i, kind in enumerate(KINDS)}
    return {kind: float(right[chosen].float().mean()) for kind, chosen in among.items() if chosen.any()}


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    level: int = 0
    problems_from: int | None = None
    """The step from which there are whole problems."""
    good: int = 0
    """Measurements in a row in which whole problems were good enough."""
    decay_from: int | None = None
    """The step from which the learning rate falls."""


Report = Callable[[Progress, float, dict[Kind, float], float], None]
"""Called with the progress, the loss, accuracy by kind on the level and accuracy of sums."""


def train(
    recipe: Recipe, work: Path, report: Report, resume: bool = False
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Trains to the last step, with a checkpoint in `work` at each measurement; with `resume` it goes on from there."""
    model, tokenizer = new_reasoner(recipe)
    texts = Texts(tokenizer, recipe)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    now = _load(work, model, optimizer) if resume else Progress()
    while now.step < (end := _end(recipe, now)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(recipe, now)
        batch = texts.batch(now.step, now.level)
        loss = _loss(model, batch, _price(recipe, now))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        now.step += 1
        if now.step % recipe.every == 0 or now.step == end:
            _advance(recipe, now, texts, model, loss.item(), report)
            _save(work, model, optimizer, now)
    return model.eval(), tokenizer


def _loss(model: LlamaForCausalLM, batch: Batch, rest: float) -> Float[Tensor, ""]:
    """Mean loss of the tokens to be learnt, and the price of attention that does not rest."""
    if not rest:
        loss: Tensor = model(batch.ids, labels=batch.labels).loss
        return loss
    resting: list[Float[Tensor, "text pos head"]] = []

    def attend(call: LayerAttention) -> Tensor:
        """Fused attention with one more value, 1 at the first token: its output is the weight that rests there."""
        d = call.value.shape[-1]
        query, key, value = (F.pad(one, (0, EXTRA)) for one in (call.query, call.key, call.value))
        value[:, :, 0, d] = 1.0
        output = replace(call, query=query, key=key, value=value, scaling=call.scale).output(call.mask)
        resting.append(output[..., d])
        return output[..., :d]

    with attending(model, attend):
        found = model(batch.ids, labels=batch.labels, use_cache=False)
    real = (batch.ids != _pad(model)).float()
    looking = (1 - torch.stack(resting)) * real[..., None]
    spent = looking.sum((1, 2)) / real.sum()  # by layer and head
    price: Tensor = found.loss + rest * (spent.clamp(min=0) + LEAST).sqrt().mean()
    return price


def _advance(recipe: Recipe, now: Progress, texts: Texts, model: LlamaForCausalLM, loss: float, report: Report) -> None:
    """Measures on unseen texts, and moves on to the next level, or to the falling learning rate, if they are good."""
    seed = recipe.seed + 10**6 + now.step  # training texts have seeds below
    level = LEVELS[now.level]
    right = accuracy(model, texts.unseen(level, seed, 64))
    sums = accuracy(model, texts.unseen(None, seed, 64))[Kind.SUM]
    report(now, loss, right, sums)
    # Which name comes next, or whether a second look does, is often drawn: form cannot be known in advance.
    worst = min(value for kind, value in right.items() if kind != Kind.FORM)
    if now.level < PROBLEMS:
        if worst >= recipe.enough and (now.level + 1 < PROBLEMS or sums >= recipe.enough_sums):
            now.level += 1
            now.problems_from = now.step if now.level == PROBLEMS else None
    elif now.decay_from is None and _price(recipe, now) == _highest_price(recipe):
        now.good = now.good + 1 if worst >= recipe.done else 0
        if now.good == 2:
            now.decay_from = now.step


def _price(recipe: Recipe, now: Progress) -> float:
    """Of attention that does not rest."""
    if now.problems_from is None:
        return 0.0
    doublings = max(0, now.step - now.problems_from - recipe.rest_steps) / recipe.rest_doubling
    return min(_highest_price(recipe), recipe.rest * 2.0 ** min(30.0, doublings))


def _highest_price(recipe: Recipe) -> float:
    """Without a price at the beginning there never is one."""
    return recipe.rest_most if recipe.rest else 0.0


def _end(recipe: Recipe, now: Progress) -> int:
    return recipe.steps if now.decay_from is None else min(recipe.steps, now.decay_from + recipe.decay_steps)


def _rate(recipe: Recipe, now: Progress) -> float:
    """Share of the highest learning rate."""
    last = recipe.steps - recipe.decay_steps
    first = last if now.decay_from is None else min(last, now.decay_from)
    falling = max(0.0, (now.step - first) / recipe.decay_steps)
    return min(1.0, (now.step + 1) / max(1, recipe.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))


def _save(work: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, now: Progress) -> None:
    work.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    unfinished = work / "training.tmp"
    save_file(tensors, unfinished, {"progress": json.dumps(asdict(now))})
    unfinished.replace(work / "training.safetensors")


def _load(work: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> Progress:
    """Puts the last checkpoint into model and optimizer; from the beginning where there is none."""
    file = work / "training.safetensors"
    if not file.is_file():
        return Progress()
    with safe_open(file, "pt") as opened:
        progress = Progress(**json.loads(opened.metadata()["progress"]))
    tensors = load_file(file)
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
