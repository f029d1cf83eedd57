"""Chains of look-ups: problems that only the reasoning answers, and texts whose loss lies where it should."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.data.datasets import lookup_questions
from interp.errors import UserError
from interp.organisms import drills
from interp.organisms.lookups import (
    MAX_VALUE,
    WORDS,
    Item,
    Kind,
    LookupProblem,
    Order,
    Size,
    SolutionStyle,
    completion,
    make_problem,
    size_of,
    solve,
    training_pieces,
    vocabulary,
    written,
)
from interp.organisms.word_problems import Reasoning, Split
from interp.organisms.word_tokenizer import word_tokenizer

PLAIN = SolutionStyle(second_look=0, planted=0, final_answer=0)
CHAIN = (Item("A", 5), Item("B", 8, "A", 3), Item("C", 6, "B", -2))
PROBLEM = LookupProblem((CHAIN[1], Item("K", 9), CHAIN[2], CHAIN[0]), CHAIN, ("B", "K"), Order.FORWARD)


def test_a_problem_by_hand() -> None:
    assert PROBLEM.question == "B A + 3. K 9. C B - 2. A 5. Say B, K, then find C."
    solution = solve(PROBLEM, random.Random(0), PLAIN)
    assert written(solution.reasoning) == "C from B. B from A. First A 5. Next B 5 + 3 = 8. Next C 8 - 2 = 6."
    assert written(solution.answer) == "B eight. K nine. The answer is six."
    assert PROBLEM.answer == "six"
    backward = replace(PROBLEM, order=Order.BACKWARD)
    assert backward.question.endswith("Find C, then say B, K.")
    assert written(solve(backward, random.Random(0), PLAIN).answer) == "The answer is six. B eight. K nine."


def test_a_wrong_result_is_followed_and_carries_no_loss() -> None:
    style = replace(PLAIN, planted=1.0, corrected=0.0)
    for seed in range(20):
        solution = solve(PROBLEM, random.Random(seed), style)
        assert solution.wrong in ("B", "C")
        (unlearned,) = (piece for piece in solution.reasoning if not piece.learn)
        assert unlearned.kind is Kind.SUM
        assert unlearned.text == str(solution.said[solution.wrong])
        assert solution.said["C"] == solution.said["B"] - 2 or solution.wrong == "C"
        assert (
            written(solution.answer)
            == f"B {WORDS[solution.said['B']]}. K nine. The answer is {WORDS[solution.said['C']]}."
        )


def test_a_corrected_result_is_right_in_the_answer() -> None:
    solution = solve(PROBLEM, random.Random(1), replace(PLAIN, planted=1.0, corrected=1.0))
    assert "Wait," in written(solution.reasoning)
    assert written(solution.answer) == "B eight. K nine. The answer is six."
    assert solution.wrong is None


def test_without_reasoning_only_the_prompt_is_learnt() -> None:
    """Neither the suppressed thought nor anything that only a reasoning tells."""
    for index in range(30):
        _, pieces = training_pieces(0, index, {Reasoning.SUPPRESSED: 1.0})
        thought, *answer = pieces
        assert "finished thinking" in thought.text
        assert not thought.learn
        for piece in answer:
            assert piece.learn == (piece.kind not in (Kind.CHAIN_ITEM, Kind.FINAL))


@given(st.integers(0, 10**6))
def test_problems_can_be_solved_from_their_statements(index: int) -> None:
    problem = make_problem(3, Split.HELD_OUT, index)
    stated = {item.name: item for item in problem.statements}
    assert len(stated) == len(problem.statements)

    def value(name: str) -> int:
        item = stated[name]
        return item.value if item.source is None else value(item.source) + item.change

    assert WORDS[value(problem.asked.name)] == problem.answer
    assert all(0 <= value(name) <= MAX_VALUE for name in stated)
    assert problem.chain[0].name not in problem.listed, "the given one stands in the prompt as it is"
    places = [i for name in problem.listed for i, item in enumerate(problem.chain) if item.name == name]
    if problem.order is Order.FORWARD:
        assert places == sorted(places)
    if problem.order is Order.BACKWARD:
        assert places == sorted(places, reverse=True)


def test_the_splits_share_no_chain() -> None:
    def key(problem: LookupProblem) -> tuple[str, int, tuple[int, ...]]:
        return problem.asked.name, problem.chain[0].value, tuple(item.change for item in problem.chain[1:])

    train, held_out = ({key(make_problem(0, split, i)) for i in range(2000)} for split in Split)
    assert not train & held_out


def test_another_given_value_moves_the_whole_chain_and_nothing_else() -> None:
    moved = PROBLEM.with_given(7)
    assert moved is not None
    assert [item.value for item in moved.chain] == [7, 10, 8]
    assert moved.question == PROBLEM.question.replace("A 5", "A 7")
    assert PROBLEM.with_given(MAX_VALUE) is None


@given(st.integers(0, 10**6), st.sampled_from(["recall", "sums", "thought", "repeat", "problem"]))
def test_every_text_is_known_to_the_tokenizer(index: int, kind: str) -> None:
    tokenizer = word_tokenizer(vocabulary())
    make = {
        "recall": lambda: drills.recall(0, index, 7),
        "sums": lambda: drills.sums(0, index),
        "thought": lambda: drills.thought(0, index, 4),
        "repeat": lambda: drills.repeat(0, index, 24),
        "problem": lambda: training_pieces(0, index, {Reasoning.FULL: 1.0}),
    }
    prompt, pieces = make[kind]()
    assert tokenizer.unk_token_id not in tokenizer(f"{prompt} {written(pieces)}")["input_ids"]


def test_a_drilled_thought_is_restated_as_it_stands() -> None:
    prompt, pieces = drills.thought(0, 3, 4)
    thought, answer = written(pieces).split("</think>")
    for name, word in zip(*[iter(answer.replace(".", "").split())] * 2, strict=True):
        value = WORDS.index(word)
        stated = f"{name} {value}." in prompt or f"First {name} {value}." in thought
        assert stated or any(
            s.strip().startswith(f"Next {name}") and s.endswith(f"= {value}") for s in thought.split(".")
        )
    assert not any(piece.learn for piece in pieces[: [p.text for p in pieces].index("</think>") + 1])


def test_questions_for_runs() -> None:
    questions = lookup_questions(1, Split.HELD_OUT, 5, {"chain": [4]})
    assert {question.level for question in questions} == {"4"}
    assert questions == lookup_questions(1, Split.HELD_OUT, 5, {"chain": 4})
    assert size_of({}) == Size()
    with pytest.raises(UserError, match=r"data\.options\.chains is not known for look-ups"):
        size_of({"chains": [2]})
    with pytest.raises(UserError, match="must list numbers from 2 to 10"):
        size_of({"chain": [1]})


def test_solutions_have_one_token_for_every_word() -> None:
    problem = make_problem(0, Split.TRAIN, 0)
    pieces = completion(solve(problem, random.Random(0)))
    assert written(pieces).startswith("<think> ")
    assert " </think> " in written(pieces)
