"""Answers of strangers before reasoning-gym's scorers: nothing runs, right answers stay right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

from interp.data.datasets import reasoning_gym_questions
from interp.data.examples import Task
from interp.errors import UserError
from interp.grading.admission import Admits, admitted
from interp.grading.outcomes import equals, score_task
from interp.grading.scorers import RULES, evaluators_of, rule_of
from interp.grading.worker import pack, unpack

ATTACKS = (
    "exec(\"open({file!r}, 'w')\")",
    "eval('__import__(\\'os\\').system(\\'touch {file}\\')')",
    "__import__('pathlib').Path({file!r}).touch()",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', {file!r}])",
    "exec(chr(111)+chr(112))",
    "(lambda: open({file!r}, 'w'))()",
    "sin.__globals__",
    "x.func(1)",
    "sympify(1)",
    "S(\"open({file!r}, 'w')\")",
    "\\exec{{open({file!r}, 'w')}}",
)


def test_every_scorer_that_evaluates_text_has_a_rule() -> None:
    """A new version of the package with another such scorer fails here, and its task is refused until then."""
    found = {name for name in DATASETS if evaluators_of(name)}
    assert found - RULES.keys() == {"composite"}  # whose scorer is another task's, known only when it runs
    assert RULES.keys() <= found
    with pytest.raises(UserError, match="composite calls score_answer and may run what a model writes"):
        rule_of("composite")


def test_a_new_scorer_that_evaluates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "countdown")
    with pytest.raises(UserError, match="countdown calls parse_expr"):
        rule_of("countdown")
    with pytest.raises(UserError, match="countdown calls parse_expr"):
        score_task("1", Task("countdown"), 5.0)


@pytest.mark.parametrize("name", sorted(name for name, rule in RULES.items() if rule is not None))
def test_attacks_on_every_scorer_that_evaluates(name: str, tmp_path: Path) -> None:
    file = tmp_path / "written"
    task = Task(name, create_dataset(name, seed=1, size=1)[0])
    rule = rule_of(name)
    assert rule is not None
    for attack in ATTACKS:
        text = attack.format(file=str(file))
        assert not admitted(text, rule)
        assert not score_task(text, task, 5.0)
        assert not equals(text, "1", 5.0)
    assert not file.exists()


def _right(entry: dict[str, Any]) -> Any:
    return entry["answer"] or (entry["metadata"].get("valid_answers") or [None])[0]


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_rules_let_right_answers_through(name: str) -> None:
    rule = rule_of(name)
    for entry in create_dataset(name, seed=5, size=20):
        assert rule is None or admitted(_right(entry), rule)
    assert score_task(_right(entry), Task(name, entry), 20.0)


@pytest.mark.parametrize("name", ["arc_agi", "rearc"])
def test_entries_reach_the_scorer_as_they_are(name: str) -> None:
    """Their right answers are tuples: as JSON's lists the scorers call them wrong."""
    entry = create_dataset(name, seed=3, size=2)[1]
    assert score_task(entry["answer"], Task(name, entry), 30.0)


def test_every_entry_survives_the_way() -> None:
    for name in sorted(DATASETS.keys() - {"composite"}):
        entry = create_dataset(name, seed=3, size=1)[0]
        assert unpack(json.loads(json.dumps(pack(entry), default=str))) == entry, name


def test_the_options_of_a_task_reach_its_scorer() -> None:
    """Its default numbers are 1 to 10, and its scorer asks whether all numbers lie in the range."""
    (narrow,) = reasoning_gym_questions("puzzle24", 3, 1, {"min_value": 4, "max_value": 6})
    (default,) = reasoning_gym_questions("puzzle24", 3, 1, {})
    assert narrow.task is not None
    assert default.task is not None
    assert not score_task("10 + 10 + 2 + 2", narrow.task, 20.0)
    assert score_task("10 + 10 + 2 + 2", default.task, 20.0)
    assert score_task(str(narrow.gold), narrow.task, 20.0)


@pytest.mark.parametrize(
    ("text", "what", "expected"),
    [
        ("(3 + 5) * 2 - 4/2", Admits.ARITHMETIC, True),
        ("2 ** 3", Admits.ARITHMETIC, False),
        ("1.5 + .5", Admits.ARITHMETIC, True),
        ("1.real", Admits.ARITHMETIC, False),
        ("(1).real", Admits.ARITHMETIC, False),
        ("0x10", Admits.ARITHMETIC, False),
        ("3*x**2 + sin(2*x)/2 + C", Admits.ALGEBRA, True),
        ("x**(1/2)*exp(-2*x)", Admits.ALGEBRA, True),
        ("9**9**9", Admits.ALGEBRA, False),
        ("9**(9**9)", Admits.ALGEBRA, False),
        ("x**12345", Admits.ALGEBRA, False),
        ("open(x)", Admits.ALGEBRA, False),
        ("x.args", Admits.ALGEBRA, False),
        ("x. args", Admits.ALGEBRA, False),
        ("__x", Admits.ALGEBRA, False),
        ("_ Q _\nQ _ _", Admits.WORDS, True),
        ("__import__", Admits.WORDS, False),
        ("f(x)", Admits.WORDS, False),
        (r"\left\{1, \frac{1}{2}\right\}", Admits.MATHEMATICS, True),
        (r"15\text{ sq. inches}", Admits.MATHEMATICS, True),
        ("√2 ≤ π", Admits.MATHEMATICS, True),
        ("a.b", Admits.MATHEMATICS, False),
        ("'a'", Admits.MATHEMATICS, False),
        ("1" * 3000, Admits.MATHEMATICS, False),
    ],
)
def test_what_is_admitted(text: str, what: Admits, expected: bool) -> None:
    assert admitted(text, what) is expected
