"""Chains of look-ups: problems whose answers can only be read out of the reasoning.

A prompt states values of named items in random order, some at once (`K 7.`), some by another item (`D K + 4.`), and
asks for one of them (`Say D, then find R.`). The reasoning searches back from it (`R from D. D from K.`), then works
forward (`First K 7. Next D 7 + 4 = 11.`), sometimes looking twice or correcting a slip. The answer restates items and
the result *as words* (`D eleven.`), so that no head can give it by copying what stands behind the same name: it has to
be looked up.

What makes the answer depend on the reasoning: in some training texts one result is replaced by a wrong one, without
loss on it, and everything behind follows the wrong one. Items that the reasoning never mentions are restated from the
prompt, in the same answer: what cuts the look at the reasoning spares them.

Everything is a function of (seed, split, index), as in `word_problems`.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, pairwise

from interp.errors import UserError, member, nearest
from interp.organisms.word_problems import FINISHED_THOUGHT, Reasoning, Split

NAMES = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")
WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
MAX_VALUE = 20
MAX_CHANGE = 5
HELD_OUT_SHARE = 8
"""One in this many (item, numbers of its chain) combinations is reserved for the held-out split."""


class Kind(StrEnum):
    """What a stretch of text tells: a model in training is measured by kind, since the easy ones hide the others."""

    FORM = "form"
    """Names in the order asked for, signs, openings."""
    SOURCE = "source"
    """Search back: from which item another is made."""
    GIVEN = "given"
    """A value or a change as the prompt states it."""
    SUM = "sum"
    CHAIN_ITEM = "chain item"
    """In the answer: a result that the reasoning made."""
    PROMPT_ITEM = "prompt item"
    """In the answer: a value that stands in the prompt, and that the reasoning does not mention."""
    FINAL = "final"


@dataclass(frozen=True)
class Piece:
    """A stretch of text, what it tells, and whether a model in training is to learn it."""

    text: str
    kind: Kind = Kind.FORM
    learn: bool = True


class Order(StrEnum):
    """In which order the answer restates the results of the chain."""

    FORWARD = "forward"
    """As the reasoning reaches them: the one asked for is last."""
    BACKWARD = "backward"
    """The one asked for first, then the others from the last to the first."""
    SHUFFLED = "shuffled"
    """At random, the one asked for last."""


@dataclass(frozen=True)
class Item:
    """A named value: given at once, or by another item and a change."""

    name: str
    value: int
    source: str | None = None
    change: int = 0

    @property
    def statement(self) -> str:
        if self.source is None:
            return f"{self.name} {self.value}."
        return f"{self.name} {self.source} {signed(self.change)}."


@dataclass(frozen=True)
class Size:
    """What is drawn for a problem, each value with the same chance."""

    chain: tuple[int, ...] = (3, 4, 5)
    """Items from the given one to the one asked for."""
    distractors: tuple[int, ...] = (3, 4, 5)
    """Further statements; about a third of them are derived from other distractors."""
    listed: tuple[int, ...] = (2, 3)
    """Results on the way that the answer restates, as far as there are so many."""
    foreign: tuple[int, ...] = (1, 2)
    """Given distractors that the answer restates."""


FULL = Size()


def size_of(options: Mapping[str, int | Sequence[int]]) -> Size:
    """A size from some of its fields. Raises UserError for an unknown one or numbers that cannot be."""
    least = {"chain": 2, "distractors": 0, "listed": 0, "foreign": 0}
    for name, values in options.items():
        if name not in least:
            raise UserError(f"data.options.{name} is not known for look-ups; {nearest(name, least)}")
        numbers = [values] if isinstance(values, int) else list(values)
        if not numbers or not all(isinstance(n, int) and least[name] <= n <= 10 for n in numbers):
            raise UserError(f"data.options.{name} must list numbers from {least[name]} to 10")
    return replace(FULL, **{name: (v,) if isinstance(v, int) else tuple(v) for name, v in options.items()})


@dataclass(frozen=True)
class LookupProblem:
    """Statements in the prompt's order, the chain from its given item to the one asked for, and what is restated."""

    statements: tuple[Item, ...]
    chain: tuple[Item, ...]
    listed: tuple[str, ...]
    """Items to restate, in the answer's order, without the one asked for."""
    order: Order

    @property
    def asked(self) -> Item:
        return self.chain[-1]

    @property
    def question(self) -> str:
        stated, listed = " ".join(item.statement for item in self.statements), ", ".join(self.listed)
        if not self.listed:
            return f"{stated} Find {self.asked.name}."
        if self.order == Order.BACKWARD:
            return f"{stated} Find {self.asked.name}, then say {listed}."
        return f"{stated} Say {listed}, then find {self.asked.name}."

    @property
    def answer(self) -> str:
        return WORDS[self.asked.value]

    @property
    def kind(self) -> str:
        return self.order.value

    def with_given(self, value: int) -> LookupProblem | None:
        """The same problem with another value at the beginning of the chain; None where a value would leave the
        bounds."""
        shift = value - self.chain[0].value
        moved = {item.name: replace(item, value=item.value + shift) for item in self.chain}
        if not all(0 <= item.value <= MAX_VALUE for item in moved.values()):
            return None
        statements = tuple(moved.get(item.name, item) for item in self.statements)
        return replace(self, statements=statements, chain=tuple(moved[item.name] for item in self.chain))

    @property
    def values(self) -> dict[str, int]:
        return {item.name: item.value for item in self.statements}

    @property
    def made(self) -> frozenset[str]:
        """The items whose values only the reasoning tells."""
        return frozenset(item.name for item in self.chain[1:])


@dataclass(frozen=True)
class SolutionStyle:
    """How often the worked solution doubts and slips (probabilities)."""

    second_look: float = 0.15
    """After a step: the same step again, and `Yes`."""
    planted: float = 0.3
    """One result of the chain is wrong."""
    corrected: float = 0.5
    """Of the wrong ones: noticed at once (`Wait, ...`) and put right."""
    final_answer: float = 0.5
    """The reasoning closes with `Final answer is nine.`"""


def make_problem(seed: int, split: Split, index: int, size: Size = FULL) -> LookupProblem:
    """The `index`-th problem of a split."""
    split = member(Split, split, "split")
    rng = random.Random(f"lookups/{seed}/{split}/{index}")
    n_chain, n_more = rng.choice(size.chain), rng.choice(size.distractors)
    names = rng.sample(NAMES, n_chain + n_more)
    while True:
        chain = make_chain(rng, names[:n_chain])
        if _held_out(chain) == (split == Split.HELD_OUT):
            break
    more: list[Item] = []
    for name in names[n_chain:]:
        derived = bool(more) and rng.random() < 0.33
        more.append(_derive(rng, name, rng.choice(more)) if derived else Item(name, rng.randint(0, MAX_VALUE)))
    order = rng.choice(list(Order))
    # The given item stands in the prompt as it is: only results that the reasoning makes are restated from it.
    on_the_way = rng.sample(chain[1:-1], min(n_chain - 2, rng.choice(size.listed)))
    if order != Order.SHUFFLED:
        on_the_way.sort(key=chain.index, reverse=order == Order.BACKWARD)
    listed = [item.name for item in on_the_way]
    given = [item.name for item in more if item.source is None]
    for name in rng.sample(given, min(len(given), rng.choice(size.foreign))):
        listed.insert(rng.randint(0, len(listed)), name)
    statements = [*chain, *more]
    rng.shuffle(statements)
    return LookupProblem(tuple(statements), tuple(chain), tuple(listed), order)


def make_chain(rng: random.Random, names: Sequence[str]) -> list[Item]:
    """Items each of which but the first is made from the one before."""
    chain = [Item(names[0], rng.randint(0, MAX_VALUE))]
    for name in names[1:]:
        chain.append(_derive(rng, name, chain[-1]))
    return chain


def _derive(rng: random.Random, name: str, source: Item) -> Item:
    low, high = max(-MAX_CHANGE, -source.value), min(MAX_CHANGE, MAX_VALUE - source.value)
    change = rng.choice([c for c in range(low, high + 1) if c])
    return Item(name, source.value + change, source.name, change)


def _held_out(chain: list[Item]) -> bool:
    key = f"{chain[-1].name} {chain[0].value} {[item.change for item in chain[1:]]}".encode()
    return zlib.crc32(key) % HELD_OUT_SHARE == 0


def signed(change: int) -> str:
    return f"{'+' if change > 0 else '-'} {abs(change)}"


@dataclass(frozen=True)
class Solution:
    """Reasoning and answer in pieces, and what the reasoning says of each item of the chain."""

    reasoning: tuple[Piece, ...]
    answer: tuple[Piece, ...]
    said: dict[str, int]
    wrong: str | None
    """The item whose result was replaced and not put right."""


def solve(problem: LookupProblem, rng: random.Random, style: SolutionStyle = SolutionStyle()) -> Solution:
    """A worked solution and the answer that follows from what it says."""
    chain = problem.chain
    pieces: list[Piece] = []
    for source, item in reversed(list(pairwise(chain))):
        pieces += [Piece(item.name, Kind.SOURCE), Piece("from"), Piece(source.name, Kind.SOURCE), Piece(".")]
    planted = rng.randrange(1, len(chain)) if rng.random() < style.planted else None
    corrected = rng.random() < style.corrected
    said: dict[str, int] = {}
    wrong = None
    for place, item in enumerate(chain):
        before = said[chain[place - 1].name] if place else None
        right = item.value if before is None else before + item.change
        pieces.append(Piece("Next" if place else "First"))
        slip = _slip(rng, right, chain[place + 1 :]) if place == planted else None
        if slip is not None:
            pieces += [*step_pieces(item, before, slip, learn=False)]
            if corrected:
                pieces += [Piece("Wait,"), *step_pieces(item, before, right)]
            else:
                wrong = item.name
        else:
            pieces += step_pieces(item, before, right)
            if rng.random() < style.second_look:
                pieces += [Piece("Let me check:"), *step_pieces(item, before, right), Piece("Yes.")]
        said[item.name] = right if slip is None or corrected else slip
    if rng.random() < style.final_answer:
        pieces += [Piece("Final answer is"), Piece(WORDS[said[problem.asked.name]], Kind.FINAL), Piece(".")]
    return Solution(tuple(pieces), answer_pieces(problem, said), said, wrong)


def step_pieces(item: Item, before: int | None, result: int, learn: bool = True) -> list[Piece]:
    """`D 7 + 4 = 11.`, or `K 7.` for a given item; `learn` is for the result."""
    if before is None:
        return [Piece(item.name), Piece(str(result), Kind.GIVEN, learn), Piece(".")]
    change = [Piece(str(before)), Piece(signed(item.change), Kind.GIVEN), Piece("=")]
    return [Piece(item.name), *change, Piece(str(result), Kind.SUM, learn), Piece(".")]


def _slip(rng: random.Random, right: int, later: tuple[Item, ...]) -> int | None:
    """A wrong result near the right one from which the rest of the chain stays within bounds; None if there is none."""
    totals = list(accumulate((item.change for item in later), initial=0))
    near = [v for v in range(max(0, right - 4), min(MAX_VALUE, right + 4) + 1) if v != right]
    fitting = [v for v in near if all(0 <= v + total <= MAX_VALUE for total in totals)]
    return rng.choice(fitting) if fitting else None


def answer_pieces(problem: LookupProblem, said: Mapping[str, int] | None = None) -> tuple[Piece, ...]:
    """The answer: each restated item, those of the chain as the reasoning has them, and the result. Without `said`
    there was no reasoning: what only a reasoning tells is not to be learnt."""
    values, learn = {**problem.values, **(said or {})}, said is not None
    pieces: list[Piece] = []
    for name in problem.listed:
        made = name in problem.made
        value = Piece(WORDS[values[name]], Kind.CHAIN_ITEM if made else Kind.PROMPT_ITEM, learn or not made)
        pieces += [Piece(name), value, Piece(".")]
    final = [Piece("The answer is"), Piece(WORDS[values[problem.asked.name]], Kind.FINAL, learn), Piece(".")]
    return (*final, *pieces) if problem.order == Order.BACKWARD else (*pieces, *final)


def written(pieces: Sequence[Piece]) -> str:
    """The pieces as text."""
    return re.sub(r" (?=[.,:])", "", " ".join(piece.text for piece in pieces))


def training_pieces(
    seed: int, index: int, shares: Mapping[Reasoning, float], size: Size = FULL
) -> tuple[str, tuple[Piece, ...]]:
    """(prompt, completion) of the `index`-th training example. A suppressed thought is not to be learnt: the model must
    not write it by itself."""
    problem = make_problem(seed, Split.TRAIN, index, size)
    rng = random.Random(f"solution/{seed}/{index}")
    match rng.choices(list(shares), weights=list(shares.values()))[0]:
        case Reasoning.FULL:
            return problem.question, completion(solve(problem, rng))
        case Reasoning.SUPPRESSED:
            thought = Piece(f"<think> {FINISHED_THOUGHT} </think>", learn=False)
            return problem.question, (thought, *answer_pieces(problem))
        case Reasoning.ABSENT:
            return problem.question, answer_pieces(problem)


def completion(solution: Solution) -> tuple[Piece, ...]:
    """What the model writes: thought and answer."""
    return Piece("<think>"), *solution.reasoning, Piece("</think>"), *solution.answer


def vocabulary() -> Iterator[str]:
    """Every word and sign that a problem or a solution can contain, each once, in a fixed order."""
    yield from (".", ",", ":", "?", "+", "-", "=")
    yield from map(str, range(MAX_VALUE + 1))
    yield from NAMES
    yield from WORDS
    yield from ("Find", "find", "Say", "say", "then", "from", "First", "Next", "Wait", "Let", "me", "check", "Yes")
    yield from ("Final", "answer", "is", "The")
    yield from ("Okay", "I", "think", "have", "finished", "thinking")
