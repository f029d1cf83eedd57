"""Word problems that need a chain of thought: the training and test data of `reasoner`.

A problem tells what two or three people own and what happens to it, then asks how many things one of them has
or who of several has most. The solution works through the people concerned, in an order of its own choice, one
addition or subtraction a sentence, sometimes doubting itself (`Let me double check: ...`) or
correcting a slip (`Wait, ...`).

Everything is a function of (seed, split, index), so a data set is never stored: any item can be made again alone.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from interp.errors import UserError, member, nearest

NAMES = ("Tom", "Mia", "Ben", "Eva", "Sam", "Lia", "Max", "Zoe", "Leo", "Amy", "Dan", "Ivy", "Jay", "Kim", "Ned", "Uma")
OBJECTS = ("apples", "books", "coins", "pens", "cards", "shells", "stones", "cups", "balls", "keys")
GAINS = ("finds", "buys", "gets", "wins")
LOSSES = ("loses", "sells", "drops", "gives")
FINISHED_THOUGHT = "Okay, I think I have finished thinking."
"""What stands between the think tags when reasoning is suppressed (Paper A, section 3)."""

MAX_VALUE = 20
"""No running total leaves 0..MAX_VALUE."""
MAX_STEP = 9
HELD_OUT_SHARE = 8
"""One in this many (name, start, steps) combinations is reserved for the held-out split."""


class Split(StrEnum):
    """Which (name, numbers) combinations a problem may use; the two sets are disjoint."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class Difficulty:
    """What is drawn for a problem: each value with the same chance."""

    people: tuple[int, ...] = (2, 3, 3)
    steps: tuple[int, ...] = (3, 4, 5)
    """Changes in a person's story."""
    asked: tuple[int, ...] = (1, 1, 2, 2, 3)
    """How many people the question is about; no more than there are."""


FULL = Difficulty()
DRILL = Difficulty(people=(3, 4), steps=(0, 1), asked=(3,))
"""Short stories and many people asked about. A model that begins with these learns within 500 steps to find a person's
story by name; on full problems alone, in trials of 800 to 1,000 steps, it went on guessing the person."""


def difficulty_of(options: Mapping[str, Sequence[int]]) -> Difficulty:
    """A difficulty from some of its fields. Raises UserError for an unknown one or numbers that cannot be."""
    highest = {"people": len(NAMES), "steps": 20, "asked": len(NAMES)}
    lowest = {"people": 1, "steps": 0, "asked": 1}
    for name, values in options.items():
        if name not in highest:
            raise UserError(f"data.options.{name} is not known for word problems; {nearest(name, highest)}")
        numbers = [values] if isinstance(values, int) else list(values)
        if not numbers or not all(isinstance(n, int) and lowest[name] <= n <= highest[name] for n in numbers):
            raise UserError(f"data.options.{name} must list numbers from {lowest[name]} to {highest[name]}")
    return replace(FULL, **{n: (v,) if isinstance(v, int) else tuple(v) for n, v in options.items()})


class Reasoning(StrEnum):
    """What stands before the answer in a training text."""

    FULL = "full"
    """Between the think tags, the worked solution."""
    SUPPRESSED = "suppressed"
    """Between the think tags, the finished thought only."""
    ABSENT = "absent"
    """No think tags: the answer follows the question."""


@dataclass(frozen=True)
class Person:
    """One person's story: `start` things at first, then one signed change a step."""

    name: str
    start: int
    changes: tuple[int, ...]
    verbs: tuple[str, ...]

    @property
    def final(self) -> int:
        return self.start + sum(self.changes)

    @property
    def held_out(self) -> bool:
        key = f"{self.name} {self.start} {self.changes}".encode()
        return zlib.crc32(key) % HELD_OUT_SHARE == 0

    def story(self, objects: str) -> str:
        events = "".join(f", {verb} {abs(change)}" for verb, change in zip(self.verbs, self.changes, strict=True))
        return f"{self.name} {self.start} {objects}{events}."


@dataclass(frozen=True)
class WordProblem:
    """A question, whom it asks about, and its one-word answer."""

    people: tuple[Person, ...]
    asked: tuple[str, ...]
    """One name: how many things has this person? Two names or three: who of them has most?"""
    objects: str

    def person(self, name: str) -> Person:
        return next(p for p in self.people if p.name == name)

    @property
    def question(self) -> str:
        stories = " ".join(person.story(self.objects) for person in self.people)
        if len(self.asked) == 1:
            return f"{stories} How many {self.objects} does {self.asked[0]} have?"
        return f"{stories} Who has most {self.objects}, {', '.join(self.asked[:-1])} or {self.asked[-1]}?"

    @property
    def kind(self) -> str:
        return "how_many" if len(self.asked) == 1 else "who_has_most"

    @property
    def answer(self) -> str:
        finals = {name: self.person(name).final for name in self.asked}
        if len(self.asked) == 1:
            return str(finals[self.asked[0]])
        return max(finals, key=finals.__getitem__)


def make_problem(seed: int, split: Split, index: int, difficulty: Difficulty = FULL) -> WordProblem:
    """The `index`-th problem of a split. No two people asked about end with the same number."""
    split = member(Split, split, "split")
    rng = random.Random(f"problem/{seed}/{split}/{index}")
    names = rng.sample(NAMES, rng.choice(difficulty.people))
    objects = rng.choice(OBJECTS)
    while True:
        people = tuple(_make_person(rng, name, split, difficulty) for name in names)
        asked = tuple(rng.sample(names, min(len(names), rng.choice(difficulty.asked))))
        problem = WordProblem(people, asked, objects)
        if len({problem.person(name).final for name in asked}) == len(asked):
            return problem


def _make_person(rng: random.Random, name: str, split: Split, difficulty: Difficulty) -> Person:
    while True:
        start = value = rng.randint(1, 12)
        changes, verbs = [], []
        for _ in range(rng.choice(difficulty.steps)):
            gains = range(1, min(MAX_STEP, MAX_VALUE - value) + 1)
            losses = range(1, min(MAX_STEP, value) + 1)
            gain = bool(gains) and (not losses or rng.random() < 0.5)
            change = rng.choice(gains) if gain else -rng.choice(losses)
            value += change
            changes.append(change)
            verbs.append(rng.choice(GAINS if gain else LOSSES))
        person = Person(name, start, tuple(changes), tuple(verbs))
        if person.held_out == (split == Split.HELD_OUT):
            return person


@dataclass(frozen=True)
class SolutionStyle:
    """How often the worked solution doubts, slips and names its result (probabilities)."""

    double_check: float = 0.15
    """After a person's result: one of its steps again."""
    slip: float = 0.03
    """At a step: a wrong total first, then `Wait, ` and the right one."""
    final_answer: float = 0.5
    """The reasoning closes with `Final answer is X.`"""


def solve(problem: WordProblem, rng: random.Random, style: SolutionStyle = SolutionStyle()) -> tuple[str, str]:
    """A worked solution and the answer text that follows it, both naming the people in the same random order."""
    order = list(problem.asked)
    rng.shuffle(order)
    sentences = []
    for place, name in enumerate(order):
        person = problem.person(name)
        sentences.append(f"{'Next' if place else 'First'}, {name} {person.start}.")
        steps, value = [], person.start
        for change in person.changes:
            sum_ = f"{value} {'+' if change > 0 else '-'} {abs(change)} ="
            value += change
            if rng.random() < style.slip:
                wrong = rng.choice([v for v in range(MAX_VALUE + 1) if 0 < abs(v - value) <= 3])
                sentences.append(f"{sum_} {wrong}. Wait,")
            steps.append(f"{sum_} {value}.")
            sentences.append(steps[-1])
        sentences.append(f"So {name} {person.final}.")
        if steps and rng.random() < style.double_check:
            sentences.append(f"Let me double check: {rng.choice(steps)} Yes.")
    if len(order) > 1:
        high, *lower = sorted((problem.person(name).final for name in order), reverse=True)
        sentences.append(f"{high} is more than {' and '.join(map(str, lower))}.")
    if rng.random() < style.final_answer:
        sentences.append(f"Final answer is {problem.answer}.")
    return " ".join(sentences), answer_text(problem, order)


def answer_text(problem: WordProblem, order: list[str]) -> str:
    """The answer segment: each person's result in the order given, then the answer."""
    results = [f"{name} {problem.person(name).final} {problem.objects}." for name in order]
    return " ".join([*results, f"The answer is {problem.answer}."])


def training_text(
    seed: int, index: int, shares: dict[Reasoning, float], difficulty: Difficulty = FULL
) -> tuple[str, str]:
    """(prompt, completion) of the `index`-th training example; `shares` gives the weight of each kind of reasoning.

    The completion begins with `<think>` where there are think tags and lacks `<bos>` and `<eos>`.
    """
    problem = make_problem(seed, Split.TRAIN, index, difficulty)
    rng = random.Random(f"solution/{seed}/{index}")
    kind = rng.choices(list(shares), weights=list(shares.values()))[0]
    reasoning, answer = solve(problem, rng)
    match kind:
        case Reasoning.FULL:
            return problem.question, f"<think> {reasoning} </think> {answer}"
        case Reasoning.SUPPRESSED:
            return problem.question, f"<think> {FINISHED_THOUGHT} </think> {answer}"
        case Reasoning.ABSENT:
            return problem.question, answer


def vocabulary() -> Iterator[str]:
    """Every word and sign that a problem or a solution can contain, each once, in a fixed order."""
    yield from (".", ",", ":", "?", "+", "-", "=")
    yield from map(str, range(MAX_VALUE + 1))
    yield from NAMES + OBJECTS + GAINS + LOSSES
    yield from [
        "has",
        "have",
        "How",
        "many",
        "does",
        "Who",
        "most",
        "or",
        "First",
        "Next",
        "So",
        "is",
        "more",
        "than",
        "and",
    ]
    yield from ["Final", "answer", "The", "Wait", "Let", "me", "double", "check", "Yes"]
    yield from ("Okay", "I", "think", "finished", "thinking")
