"""Problems, their solutions, and the split between training and held-out combinations."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from interp.organisms.word_problems import (
    DRILL,
    FULL,
    MAX_VALUE,
    Difficulty,
    Person,
    Reasoning,
    SolutionStyle,
    Split,
    WordProblem,
    make_problem,
    solve,
    training_text,
)

PROBLEM = WordProblem(
    (Person("Tom", 3, (4, -2), ("finds", "loses")), Person("Mia", 5, (1, 1), ("buys", "wins"))), ("Mia", "Tom"), "pens"
)


def test_a_problem_by_hand() -> None:
    assert PROBLEM.question == (
        "Tom 3 pens, finds 4, loses 2. Mia 5 pens, buys 1, wins 1. Who has most pens, Mia or Tom?"
    )
    assert PROBLEM.answer == "Mia"
    reasoning, answer = solve(PROBLEM, random.Random(1), SolutionStyle(0, 0, 1))
    assert reasoning == (
        "First, Tom 3. 3 + 4 = 7. 7 - 2 = 5. So Tom 5. Next, Mia 5. 5 + 1 = 6. 6 + 1 = 7. So Mia 7. "
        "7 is more than 5. Final answer is Mia."
    )
    assert answer == "Tom 5 pens. Mia 7 pens. The answer is Mia."


@given(st.integers(0, 10**6), st.sampled_from(Split), st.sampled_from([FULL, DRILL]))
def test_every_problem_is_sound(index: int, split: Split, difficulty: Difficulty) -> None:
    problem = make_problem(0, split, index, difficulty)
    assert problem == make_problem(0, split, index, difficulty)
    for person in problem.people:
        totals = [person.start + sum(person.changes[:i]) for i in range(len(person.changes) + 1)]
        assert all(0 <= total <= MAX_VALUE for total in totals)
        assert len(person.changes) in difficulty.steps
        assert person.held_out == (split is Split.HELD_OUT)
    finals = {name: problem.person(name).final for name in problem.asked}
    if len(finals) == 1:
        assert problem.answer == str(finals[problem.asked[0]])
    else:
        assert sorted(finals.values()).count(finals[problem.answer]) == 1
        assert finals[problem.answer] == max(finals.values())


@given(st.integers(0, 10**6))
def test_every_solution_is_right_and_every_slip_is_corrected(index: int) -> None:
    problem = make_problem(0, Split.TRAIN, index)
    reasoning, answer = solve(problem, random.Random(index), SolutionStyle(0.5, 0.5, 0.5))
    for left, sign, right, total, wait in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.( Wait,)?", reasoning):
        true = int(left) + int(right) * (1 if sign == "+" else -1)
        assert (int(total) == true) != bool(wait)
    assert answer.endswith(f"The answer is {problem.answer}.")
    for name in problem.asked:
        assert f"{name} {problem.person(name).final} {problem.objects}." in answer


@pytest.mark.parametrize("kind", list(Reasoning))
def test_training_texts(words: PreTrainedTokenizerBase, kind: Reasoning) -> None:
    for index in range(50):
        prompt, completion = training_text(0, index, {kind: 1.0})
        ids = words(f"<bos> {prompt} {completion} <eos>")["input_ids"]
        assert words.unk_token_id not in ids
        assert completion.count("<think>") == completion.count("</think>") == (kind is not Reasoning.ABSENT)
        assert words(words.decode(ids))["input_ids"] == ids


def test_shares_of_reasoning() -> None:
    shares = {Reasoning.FULL: 0.5, Reasoning.SUPPRESSED: 0.3, Reasoning.ABSENT: 0.2}
    texts = [training_text(0, i, shares)[1] for i in range(1000)]
    suppressed = sum("finished thinking" in text for text in texts) / 1000
    absent = sum("<think>" not in text for text in texts) / 1000
    assert suppressed == pytest.approx(0.3, abs=0.05)
    assert absent == pytest.approx(0.2, abs=0.05)
