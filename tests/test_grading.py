"""Which answer a text gives, whether it is right, and what became of a response."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym import create_dataset

from interp.data.datasets import read_traces
from interp.data.examples import Task
from interp.data.files import json_lines
from interp.grading.equality import equal_as_text, number
from interp.grading.outcomes import AnswerFormat, Outcome, extract_answer, is_correct, outcome, score_task
from interp.grading.responses import Grading, graded_trace
from interp.text.trace import ThinkMarkers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tom has 12 apples. The answer is Jay.", "Jay"),
        ("The answer is 12. Wait. The answer is 13.", "13"),
        ("the answer equals 3!", "3"),
        (r"So \boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, \{2\}\right\}}", r"\left\{1, \{2\}\right\}"),
        (r"First \boxed{7}, then cut off: \boxed{\frac{1}", "7"),
        ("Final answer is 3.5.", "3.5"),
        ("No idea.", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_where_an_answer_is_looked_for() -> None:
    text = "The answer is 3. That makes 1,204.5 in all."
    found = [extract_answer(text, where) for where in AnswerFormat]
    assert found == [None, "3", "3"]
    assert extract_answer("That makes 1,204.5 in all.", AnswerFormat.LENIENT) == "1204.5"
    assert extract_answer("Nothing.", AnswerFormat.LENIENT) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is **42**.", "42"),
        ("**Answer:** 4", "4"),
        ("**Final Answer**: Paris", "Paris"),
        ("Answer: 17", "17"),
        ("The answer is 42, because six times seven is 42.", "42"),
        ("The answer is:\n\\[ x = 5 \\]", "x = 5"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
        ("The answer is \\(7\\).", "7"),
        (r"\boxed 5", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5} is it", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\}\{1}", r"\}\{1"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"$x=\boxed{1}, y=\boxed{2}$", "1, 2"),
        ("First \\boxed{1}.\n\nSo the answer is \\boxed{2}.", "2"),
        (r"So \boxed{1} is too small: \boxed{2}", "2"),
        ("The answers are 3 and 4.", "3 and 4"),
        ("the answer is\n$$\n12\n$$", "12"),
        ("The answer is:\n\\[\nx = 3. 5\n\\]\nSo it is.", "x = 3. 5"),
        ("The answer is \\(\n7\n\\).", "7"),
        ("The answer is Dr. Smith.", "Dr. Smith"),
        ("The answer is Mr. and Mrs. Jones. He is old.", "Mr. and Mrs. Jones"),
        ("The answer is 7 p.m. on Friday. He is late.", "7 p.m. on Friday"),
        ("The answer is 7. so it is odd.", "7"),
        ("$\\boxed{5}$.\n$\\boxed{5}$", "5"),
        (r"$(\boxed{1}, \boxed{2}, \boxed{1})$", "1, 2, 1"),
    ],
)
def test_answers_as_models_write_them(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The final answer is \boxed{}.", None),
        (r"The answer is \boxed{\text{ }}", None),
        (r"The answer is \boxed{12", None),
        ("The answer is\n$$\n12", None),
        ("The answer is **", None),
        (r"So \boxed{5}. In all \boxed{}.", "5"),
        (r"The answer is 5. \boxed{ }", "5"),
        (r"\boxed{\{\}}", r"\{\}"),
    ],
)
def test_an_empty_or_open_box_is_no_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    if "5" not in text:
        assert extract_answer(text, AnswerFormat.BOXED) == answer


def test_the_rule_of_paper_a_takes_the_last_box() -> None:
    assert extract_answer(r"$\boxed{1}$ and $\boxed{2}$", AnswerFormat.BOXED) == "2"


PAIRS = [line.split("\t") for line in (Path(__file__).parent / "grading_pairs.tsv").read_text().splitlines()[1:]]


def test_the_table_has_many_pairs() -> None:
    assert len(PAIRS) >= 150


@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, *_ in PAIRS))
def test_equality_of_answers(kind: str) -> None:
    wrong = [
        (answer, gold, said)
        for of, said, answer, gold in PAIRS
        if of == kind and is_correct(answer, gold) is not (said == "equal")
    ]
    assert not wrong


@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly_but_for_rounding(a: Fraction, b: Fraction) -> None:
    shown = [f"\\frac{{{one.numerator}}}{{{one.denominator}}}" for one in (a, b)]
    assert number(shown[0]) == a
    near = abs(a - b) <= Fraction(1, 10**6) * max(abs(a), abs(b))
    whole = a.denominator == b.denominator == 1
    assert equal_as_text(*shown) is (a == b if whole else near)


@pytest.mark.parametrize(
    ("extracted", "gold", "right"),
    [
        ("Jay", "Jay", True),
        ("jay", "Jay", True),
        ("aim", "Mia", False),  # equal as a product of letters, not as words
        ("Tom", "Jay", False),
        ("12", "12", True),
        ("012", "12", True),
        ("12", "2", False),
        (r"\frac{1}{2}", "0.5", True),
        (r"6 + 9i", "6+9i", True),
        ("-2, 1", "1,-2", True),
        ("(1, 2)", "(2, 1)", False),
        (None, "1", False),
    ],
)
def test_correctness(extracted: str | None, gold: str, right: bool) -> None:
    assert is_correct(extracted, gold) is right


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}",
        r"2^{2^{2^{2^{2^{2}}}}}",
        r"\frac{" * 3000 + "1" + "}{2}" * 3000,
        r"\sqrt{" * 100_000,
        "(" * 20_000,
        "1a" * 50_000,
        "5" + " " * 100_000 + "5",
        "(A) " * 20_000,
    ],
)
def test_no_expression_hangs(text: str) -> None:
    start = time.monotonic()
    assert outcome(text, text, "1", finished=True, closed=True, seconds=1.0) in (Outcome.TIMED_OUT, Outcome.WRONG)
    assert time.monotonic() - start < 30  # the limit, the worker's death and a new one's imports
    assert is_correct(r"\frac{2}{4}", "0.5")  # the next item is graded as ever


def test_an_answer_cannot_run_code(tmp_path: Path) -> None:
    file = tmp_path / "written"
    attack = f"().__class__.__mro__[1] or __import__('pathlib').Path('{file}').touch()"
    assert not is_correct(attack, "1")
    assert not score_task(attack, Task("countdown", create_dataset("countdown", seed=1, size=1)[0]), 5.0)
    assert not file.exists()


def test_a_task_scores_its_own_answers() -> None:
    entry = create_dataset("countdown", seed=1, size=1)[0]
    task = Task("countdown", entry)
    other_order = " + ".join(f"({part})" for part in [entry["answer"], "0"])
    assert score_task(entry["answer"], task, 20.0)
    assert not score_task("1 + 1", task, 20.0)
    assert not score_task(other_order, task, 20.0)  # a number that was not given
    assert outcome("x", "1 + 1", entry["answer"], finished=True, closed=True, task=task, seconds=20.0) is Outcome.WRONG


@pytest.mark.parametrize(
    ("answer", "gold", "finished", "closed", "expected"),
    [
        ("The answer is 3.", "3", True, True, Outcome.CORRECT),
        ("The answer is 4.", "3", True, True, Outcome.WRONG),
        ("The answer is 3.", "3", False, True, Outcome.TRUNCATED),
        ("", "3", True, False, Outcome.UNCLOSED),
        (" \n", "3", True, True, Outcome.EMPTY),
        ("Who knows.", "3", True, True, Outcome.NO_ANSWER),
        ("I'm sorry, but I can't help with that.", "3", True, True, Outcome.REFUSED),
        ("I cannot answer this.", None, True, True, Outcome.REFUSED),
        ("I am sorry for the detour. The answer is 3.", "3", True, True, Outcome.CORRECT),
        ("A poem.", None, True, True, Outcome.UNGRADED),
    ],
)
def test_outcomes(answer: str, gold: str | None, finished: bool, closed: bool, expected: Outcome) -> None:
    assert outcome(answer, extract_answer(answer), gold, finished=finished, closed=closed) is expected


def test_agreement_with_published_grading(r1_traces: Path) -> None:
    """Also what docs/results.md says of the disagreements: theirs are the units and the order of solutions."""
    start = time.monotonic()
    grading = Grading(ThinkMarkers(), AnswerFormat.BOXED)
    rows = [graded_trace(trace, grading) for trace in read_traces(r1_traces, {})]
    assert time.monotonic() - start < 60
    published = [row for _, row in json_lines(r1_traces)]
    differing = [
        (row["example"], row["gold"], row["extracted"], row["correct"])
        for row, theirs in zip(rows, published, strict=True)
        if row["correct"] != theirs["published_correct"]
    ]
    assert len(rows) == 276
    assert 1 - len(differing) / len(rows) >= 0.95
    assert sorted(set(differing)) == [
        ("test/geometry/473.json", r"864 \mbox{ inches}^2", "864", True),
        ("test/intermediate_algebra/1388.json", "1,-2", "-2, 1", True),
        ("test/prealgebra/1114.json", r"15\mbox{ cm}^2", "15", True),
    ]
    extracted = [(row["extracted"], theirs["published_extracted"]) for row, theirs in zip(rows, published, strict=True)]
    assert all(ours == theirs for ours, theirs in extracted)
    assert all(a["sample"] == b["sample"] == 0 for a, b in pairwise(rows))
