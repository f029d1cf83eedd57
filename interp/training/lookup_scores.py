"""What a model that solves chains of look-ups can do: does its answer say what its reasoning says?"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from interp.model.generate import Sampling, generate
from interp.model.lens import Lens
from interp.organisms.lookups import WORDS, LookupProblem, Solution, SolutionStyle, make_problem, solve, written
from interp.organisms.word_problems import Split
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import decode_response

STYLE = PromptStyle(separator=" ")
MAX_NEW_TOKENS = 200
BATCH = 100
WRONG = SolutionStyle(planted=1.0, corrected=0.0)


class Arm(StrEnum):
    """What stands before the answer, and how it is written."""

    OWN = "own reasoning"
    """The model's own, greedily."""
    SAMPLED = "own reasoning, sampled"
    """At temperature 1."""
    WRONG = "wrong result planted"
    """A given reasoning with one wrong result that everything later follows."""
    SUPPRESSED = "reasoning suppressed"
    """The finished thought."""


@dataclass(frozen=True)
class Answered:
    """One problem under one arm. Each item of the answer counts for itself; one that is missing counts as wrong."""

    problem: LookupProblem
    thought: str
    """Between the tags; empty where it was given."""
    text: str
    final: bool
    """Whether the result is what it is to be: the true one, or under WRONG what the reasoning says."""
    chain: tuple[bool, ...]
    """The same for each restated result of the chain."""
    prompt: tuple[bool, ...]
    """Whether each restated item of the prompt is right."""
    moved: tuple[bool, ...]
    """Under WRONG: the same as `chain` and `final`, but only for those that the wrong result changes."""

    @property
    def suppresses(self) -> bool:
        """Whether the model wrote the finished thought by itself."""
        return "finished thinking" in self.thought


def answered(lens: Lens, arm: Arm, seed: int, n: int) -> Iterator[Answered]:
    """The first n held-out problems of a generator seed under one arm."""
    for first in range(0, n, BATCH):
        problems = [make_problem(seed, Split.HELD_OUT, i) for i in range(first, min(n, first + BATCH))]
        solutions = [solve(p, random.Random(f"wrong/{seed}/{first + i}"), WRONG) for i, p in enumerate(problems)]
        prompts = [_prompt(lens, arm, *pair) for pair in zip(problems, solutions, strict=True)]
        temperature = 1.0 if arm == Arm.SAMPLED else 0.0
        responses = generate(lens, prompts, Sampling(temperature, MAX_NEW_TOKENS), seed, arm, first)
        for problem, solution, response in zip(problems, solutions, responses, strict=True):
            text = decode_response(lens.tokenizer, response.ids)
            if arm != Arm.WRONG or solution.wrong is not None:  # a chain may leave no room for a wrong result
                yield _read(lens, arm, problem, solution, text)


def _prompt(lens: Lens, arm: Arm, problem: LookupProblem, solution: Solution) -> str:
    condition = Condition.WITHOUT_REASONING if arm == Arm.SUPPRESSED else Condition.WITH_REASONING
    prompt = render(problem.question, lens.tokenizer, lens.markers, STYLE, condition)
    return f"{prompt.rstrip()} {written(solution.reasoning)} {lens.markers.close}" if arm == Arm.WRONG else prompt


def _read(lens: Lens, arm: Arm, problem: LookupProblem, solution: Solution, text: str) -> Answered:
    thought, closed, rest = text.partition(lens.markers.close)
    answer = rest if closed else text
    values = problem.values | (solution.said if arm == Arm.WRONG else {})
    said = dict(re.findall(r"\b([A-Z]) ([a-z]+)\s*\.", answer))
    final = re.search(r"answer is (\w+)", answer)
    right = {name: said.get(name) == WORDS[values[name]] for name in problem.listed}
    good = final is not None and final[1] == WORDS[values[problem.asked.name]]
    moved = [name for name in problem.listed if name in problem.made and values[name] != problem.values[name]]
    changed = values[problem.asked.name] != problem.values[problem.asked.name]
    return Answered(
        problem,
        thought if closed else "",
        text,
        good,
        tuple(right[name] for name in problem.listed if name in problem.made),
        tuple(right[name] for name in problem.listed if name not in problem.made),
        (*(right[name] for name in moved), *([good] if changed else [])) if arm == Arm.WRONG else (),
    )


def likeliest_word(seed: int, n: int) -> float:
    """Accuracy on restated results of the chain of the word that is right most often: what no reasoning is worth."""
    problems = [make_problem(seed, Split.HELD_OUT, i) for i in range(n)]
    words = [WORDS[p.values[name]] for p in problems for name in p.listed if name in p.made]
    return max(words.count(word) for word in set(words)) / len(words)
