"""Where contrast questions come from, how each kind is written, and templates for models that cannot reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count, islice
from pathlib import Path

from interp.data.ids import own_ids
from interp.errors import UserError
from interp.organisms import lookups, planted, word_problems
from interp.organisms.word_problems import Split
from interp.patching.align import PairStyle, fill
from interp.patching.questions import (
    ContrastQuestion,
    object_comparisons,
    question_from_row,
    read_object_comparisons,
)


class PairSource(StrEnum):
    """Which contrast questions."""

    OBJECT_COMPARISON = "object_comparison"
    """Our own generator, in many domains."""
    LOOKUPS = "lookups"
    """`reasoner`'s own problems: the given value of the chain is another one, and with it all results."""
    WORD_PROBLEMS = "word_problems"
    """`word-reasoner`'s own problems: one number of the prompt is changed so that the answer flips."""
    PLANTED = "planted"
    """Prompts of the planted model with another colour."""
    FILE = "file"
    """CSV or JSON lines with query_a, answer_a, query_b, answer_b."""


PHRASES = {"1": "Final answer is {x}.", "2": "Final answer is \\boxed{{x}}."}
"""The probing phrases of Paper A."""
STYLES = {
    PairSource.OBJECT_COMPARISON: PairStyle(),
    PairSource.FILE: PairStyle(),
    PairSource.LOOKUPS: PairStyle(ending="The answer is", answer_prefix=" ", separator=" "),
    PairSource.WORD_PROBLEMS: PairStyle(ending="The answer is", answer_prefix=" ", separator=" "),
    PairSource.PLANTED: PairStyle(phrase=None, ending="the answer equals", answer_prefix=" ", separator=" "),
}
"""How the sides of each source are written."""


@dataclass(frozen=True)
class Template:
    """A given reasoning and answer; {context}, {x} (the side's answer), {y} (the other one) and {comparator}."""

    reasoning: str = (
        "Okay, I have to say which one is {comparator}. The options are {x} and {y}, so let me look at the context. It "
        "is about {context}. I know that {context} goes with {x}. Let me check {y} as well. That would go with "
        "something else, so it does not fit. I am sure that it is {x}."
    )
    answer: str = "The question is about {context}. So it is {x}."

    def fill(self, question: ContrastQuestion, clean: bool) -> tuple[str, str]:
        """(reasoning, answer) of one side."""
        words = {
            "context": question.clean_context if clean else question.corrupted_context,
            "x": question.clean_answer if clean else question.corrupted_answer,
            "y": question.corrupted_answer if clean else question.clean_answer,
            "comparator": question.comparator,
        }
        unknown = sorted(set(re.findall(r"(?<![\w}])\{([a-z]\w*)\}", self.reasoning + self.answer)) - words.keys())
        if unknown:
            raise UserError(f"data.template: {{{unknown[0]}}} is not known; use {', '.join(words)}")
        return fill(self.reasoning, **words), fill(self.answer, **words)


def style_of(source: PairSource, phrase: str | None) -> PairStyle:
    """The source's style with a probing phrase: 1 or 2 of the paper, a text with {x}, or None for the source's own."""
    style = STYLES[source]
    if phrase is None:
        return style
    return replace(style, phrase=PHRASES.get(phrase, known_phrase(phrase)))


def known_phrase(phrase: str) -> str:
    """The phrase itself. Raises UserError for one in which no answer could stand."""
    if re.findall(r"(?<![\w}])\{([a-z]\w*)\}", PHRASES.get(phrase, phrase)) != ["x"]:
        raise UserError(f"data.phrase={phrase!r} must be 1, 2 or a text with {{x}} where the answer stands")
    return phrase


def questions_from(source: PairSource, path: str | None, seed: int, limit: int | None) -> list[ContrastQuestion]:
    """The contrast questions of a source. Raises UserError for a missing file or limit."""
    if source == PairSource.FILE:
        if path is None:
            raise UserError("data.path must be set to a CSV or JSON-lines file of pairs")
        file = Path(path).expanduser()
        found = read_object_comparisons(file, limit) if file.suffix == ".csv" else _read_json_lines(file, limit)
        return list(own_ids(found))
    if source == PairSource.OBJECT_COMPARISON:
        return object_comparisons(seed, limit)
    if limit is None:
        raise UserError("data.limit must be set: the problems never end")
    makers = {PairSource.LOOKUPS: _lookups, PairSource.WORD_PROBLEMS: _word_problems, PairSource.PLANTED: _planted}
    return list(islice(makers[source](seed), limit))


def _read_json_lines(path: Path, limit: int | None) -> list[ContrastQuestion]:
    from interp.data.files import json_lines

    questions: list[ContrastQuestion] = []
    for number, row in json_lines(path):
        if limit is not None and len(questions) == limit:
            break
        questions.append(
            question_from_row(
                {k: "" if v is None else str(v) for k, v in row.items()}, f"{path}, line {number}", number
            )
        )
    return questions


def _lookups(seed: int) -> Iterator[ContrastQuestion]:
    """Another value at the beginning of the chain, so that every result is another one. The answer ends with the one
    asked for: problems that begin with it are left out."""
    for index in count():
        problem = lookups.make_problem(seed, Split.HELD_OUT, index)
        if problem.order is lookups.Order.BACKWARD:
            continue
        given = problem.chain[0].value
        nearest_first = sorted(
            set(range(lookups.MAX_VALUE + 1)) - {given}, key=lambda value: (abs(value - given), value)
        )
        changed = next((other for value in nearest_first if (other := problem.with_given(value))), None)
        if changed is not None:
            yield ContrastQuestion(
                f"lookups-{seed}-{index}", problem.question, changed.question, problem.answer, changed.answer,
                "look-ups", problem.question, changed.question, "answer",
            )  # fmt: skip


def _word_problems(seed: int) -> Iterator[ContrastQuestion]:
    """Of two people, one begins with another number, so that the other one has most."""
    for index in count():
        problem = word_problems.make_problem(seed, Split.HELD_OUT, index)
        if len(problem.asked) != 2:
            continue
        changed = _flipped(problem)
        if changed is not None:
            yield ContrastQuestion(
                f"problem-{seed}-{index}", problem.question, changed.question, problem.answer, changed.answer,
                "word problems", problem.question, changed.question, "answer",
            )  # fmt: skip


def _flipped(problem: word_problems.WordProblem) -> word_problems.WordProblem | None:
    """The nearest change of one start that flips the answer and keeps all numbers in range; None if there is none."""
    for step in range(1, word_problems.MAX_VALUE):
        for person in problem.people:
            for start in (person.start - step, person.start + step):
                other = replace(person, start=start)
                values = [start + sum(person.changes[:i]) for i in range(len(person.changes) + 1)]
                if start < 1 or not all(0 <= value <= word_problems.MAX_VALUE for value in values):
                    continue
                people = tuple(other if one is person else one for one in problem.people)
                changed = replace(problem, people=people)
                finals = {changed.person(name).final for name in changed.asked}
                if len(finals) == len(changed.asked) and changed.answer != problem.answer:
                    return changed
    return None


def _planted(seed: int) -> Iterator[ContrastQuestion]:
    for index in count():
        question = planted.make_question(seed, index)
        place = planted.COLOURS.index(question.colour)
        other = planted.COLOURS[(place + 1 + index % (len(planted.COLOURS) - 1)) % len(planted.COLOURS)]
        changed = replace(question, question=question.question.replace(question.colour, other), colour=other)
        yield ContrastQuestion(
            f"planted-{seed}-{index}", question.question, changed.question, question.answer, changed.answer,
            "colours", question.colour, other, "answer",
        )  # fmt: skip
