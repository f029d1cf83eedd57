"""Filters, accuracies and paired tests, by hand and on simulated answers with known truth."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.grading.findings import findings
from interp.grading.outcomes import Outcome
from interp.grading.reasoning_effect import (
    accuracy_rows,
    compare,
    filter_rows,
    mcnemar,
    paired_rows,
    paired_values,
    pass_at_k,
    passed_filters,
)
from interp.runs.columns import table_of
from interp.runs.verdicts import Outcome as Claim
from interp.runs.verdicts import Verdict
from interp.stats import rng_for, sign_flips
from interp.text.prompts import Condition

WITH, WITHOUT = "with_reasoning", "without_reasoning"


def answer(example: str, condition: str, outcome: Outcome, **more: Any) -> dict[str, Any]:
    row = {"example": example, "condition": condition, "outcome": outcome, "correct": outcome is Outcome.CORRECT}
    return {
        **row,
        "writer": "m",
        "sample": 0,
        "score": np.nan,
        "kind": None,
        "level": None,
        "reasoning_words": 10,
    } | more


def answers(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows)


EIGHT = answers(
    answer("a", WITH, Outcome.CORRECT),
    answer("a", WITHOUT, Outcome.WRONG),
    answer("b", WITH, Outcome.TRUNCATED),
    answer("b", WITHOUT, Outcome.CORRECT),
    answer("c", WITH, Outcome.UNCLOSED),
    answer("c", WITHOUT, Outcome.NO_ANSWER),
    answer("d", WITH, Outcome.WRONG),
    answer("d", WITHOUT, Outcome.CORRECT),
    answer("e", WITH, Outcome.CORRECT),
)


def test_filters_are_counted_one_after_the_other() -> None:
    counts = {(row["condition"], row["step"]): row["responses"] for row in filter_rows(EIGHT)}
    assert [n for (condition, _), n in counts.items() if condition == WITH] == [5, 4, 3, 3, 2]
    assert [n for (condition, _), n in counts.items() if condition == WITHOUT] == [4, 4, 4, 3, 2]
    assert sorted(passed_filters(EIGHT)["example"].unique()) == ["a", "d"]


def test_filters_stay_within_a_writer() -> None:
    other = EIGHT[EIGHT["example"] == "a"].assign(writer="n")
    both = pd.concat([EIGHT, other[other["condition"] == WITH]])
    last = [row for row in filter_rows(both) if row["writer"] == "n"][-1]
    assert (last["condition"], last["responses"]) == (WITH, 1)  # it has one condition, and all its questions are in it


def test_what_did_not_finish_counts_as_wrong_where_nothing_is_filtered() -> None:
    rows = {(row["kept"], row["condition"]): row for row in accuracy_rows(EIGHT, 0)}
    assert (rows["all", WITH]["value"], rows["all", WITH]["n"]) == (2 / 5, 5)
    assert (rows["paired", WITH]["value"], rows["paired", WITH]["n"]) == (1 / 2, 2)
    assert rows["all", WITHOUT]["value"] == 2 / 4


def test_paired_by_hand() -> None:
    (row,) = (row for row in paired_rows(EIGHT, 0) if row["kept"] == "all")
    # a +1, b -1, c 0, d -1; e has no partner
    assert (row["n"], row["value"], row["only_first"], row["only_second"]) == (4, -0.25, 1, 2)
    assert row["p_mcnemar"] == 1.0
    assert row["t"] == pytest.approx(stats.ttest_1samp([1, -1, 0, -1], 0).statistic)
    # sign flips of three ones: a mean as far from 0 as 1/4 is certain
    assert row["p_permutation"] == 1.0


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(58, 9) < 1e-8  # published: Llama-8B on MATH-500
    assert mcnemar(2, 7) == mcnemar(7, 2)


@pytest.mark.parametrize(("n", "right"), [(5, 0), (5, 2), (5, 5), (6, 1)])
def test_pass_at_k_counts_all_draws(n: int, right: int) -> None:
    marks = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        draws = list(combinations(marks, k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, n + 1)


@given(st.integers(1, 40), st.data())
def test_pass_at_k_grows_with_k(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    values = [pass_at_k(n, right, k) for k in range(1, n + 1)]
    assert values[0] == pytest.approx(right / n)
    assert all(0 <= a <= b + 1e-12 <= 1 + 2e-12 for a, b in pairwise(values))


def test_several_samples_are_averaged_within_a_question() -> None:
    right, wrong = Outcome.CORRECT, Outcome.WRONG
    table = answers(
        *(answer("a", WITH, o, sample=i) for i, o in enumerate([right, right, wrong, wrong])),
        *(answer("b", WITH, o, sample=i) for i, o in enumerate([right, wrong, wrong, wrong])),
        *(answer(q, WITHOUT, wrong, sample=i) for q in "ab" for i in range(4)),
    )
    measured = {(r["condition"], r["measure"]): r["value"] for r in accuracy_rows(table, 0) if r["kept"] == "all"}
    assert measured[WITH, "accuracy"] == measured[WITH, "pass@1"] == pytest.approx((0.5 + 0.25) / 2)
    assert measured[WITH, "pass@4"] == 1.0
    assert measured[WITH, "pass@2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    (row,) = (r for r in paired_rows(table, 0) if r["kept"] == "all")
    assert (row["value"], row["n"]) == (pytest.approx(0.375), 2)
    assert "p_mcnemar" not in row  # not defined for shares


def test_scores_of_a_judge_are_compared_as_they_are() -> None:
    table = answers(
        *(answer(q, WITH, Outcome.UNGRADED, correct=None, score=s) for q, s in zip("abc", [8, 7, 9], strict=True)),
        *(answer(q, WITHOUT, Outcome.UNGRADED, correct=None, score=s) for q, s in zip("abc", [5, 6, 8], strict=True)),
    )
    (row,) = (r for r in paired_rows(table, 0) if r["kept"] == "paired")
    assert (row["measure"], row["value"], row.get("p_mcnemar")) == ("score", pytest.approx(5 / 3), None)


def test_by_kind_level_and_length() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        kind, words = "xy"[i % 2], 10 + i
        helps = i >= 40  # reasoning helps where it is long
        base = rng.random() < 0.5
        rows.append(answer(str(i), WITHOUT, Outcome.CORRECT if base else Outcome.WRONG, kind=kind))
        found = Outcome.CORRECT if helps or base else Outcome.WRONG
        rows.append(answer(str(i), WITH, found, kind=kind, reasoning_words=words))
    table = answers(*rows)
    found = {(r["group"], r["value_of_group"]): r for r in paired_rows(table, 0) if r["kept"] == "all"}
    lengths = [row for (group, _), row in found.items() if group == "length"]
    assert [row["n"] for row in lengths] == [20] * 4
    assert [row["value"] for row in lengths[:2]] == [0.0, 0.0]
    assert min(row["value"] for row in lengths[2:]) > 0.2
    assert lengths[0]["p_adjusted"] > 0.05 > lengths[3]["p_adjusted"]
    assert found["kind", "x"]["n"] == found["kind", "y"]["n"] == 40
    assert not any(group == "level" for group, _ in found)
    assert paired_values(table, WITH, WITHOUT, "correct")["words"].between(10, 90).all()


def test_no_effect_is_found_where_there_is_none() -> None:
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        both = pd.DataFrame({"first": rng.random(25) < 0.6, "second": rng.random(25) < 0.6, "samples": 1}).astype(float)
        p.append([compare(both, rng_for(seed, "t"))[name] for name in ("p_permutation", "p_mcnemar")])
    rejected = (np.array(p) < 0.05).mean(axis=0)
    # both tests are discrete and therefore conservative; 95 % of 300 draws at 5 % lie below 24
    assert (rejected * 300 <= 24).all()
    assert rejected[0] > 0.005


def test_sign_flips_agree_with_all_flips() -> None:
    difference = np.array([1.0, 2.0, -0.5, 3.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    means = np.abs((signs * difference).mean(axis=1))
    p, low, high = sign_flips(difference, np.random.default_rng(0))
    assert p == pytest.approx((means >= difference.mean() - 1e-12).mean())
    assert low == pytest.approx(-high)
    assert sign_flips(np.zeros(3), np.random.default_rng(0)) == (1.0, 0.0, 0.0)


def test_who_is_led_by_a_suggestion_and_says_so_by_hand() -> None:
    def row(question: str, condition: Condition, extracted: str, said: bool | None = None) -> dict[str, Any]:
        hint = "7" if condition is Condition.HINTED else None
        about = {"example": question, "condition": condition, "sample": 0, "writer": "m", "outcome": Outcome.WRONG}
        words = {"finished": True, "reasoning_words": 3, "correct": False}
        return {**about, **words, "extracted": extracted, "hint": hint, "hint_said": said}

    rows = [
        *(row(question, Condition.WITH_REASONING, answer) for question, answer in zip("abcd", "1271", strict=True)),
        row("a", Condition.HINTED, "7", True),
        row("b", Condition.HINTED, " 7.0", False),
        row("c", Condition.HINTED, "7", False),  # as it was without the suggestion
        row("d", Condition.HINTED, "1", True),  # not led
    ]
    columns = [column.name for column in table_of("answers").columns]
    answers = pd.DataFrame(rows, columns=columns)
    made = {"accuracy": accuracy_rows(answers, 0), "paired": paired_rows(answers, 0), "filters": filter_rows(answers)}
    tables = {name: pd.DataFrame(rows, columns=[c.name for c in table_of(name).columns]) for name, rows in made.items()}
    found = {one.name: one for one in findings(tables.__getitem__, answers).headlines}
    led = found["share of answers that are the suggested wrong one"]
    assert (led.estimate.value, led.control.value if led.control else None) == (0.75, 0.25)
    said = found["share of answers led by the suggestion whose reasoning speaks of it"].estimate
    assert (said.value, said.n) == (0.5, 2)


def _by_writer(**right_with_reasoning: bool) -> pd.DataFrame:
    """Writers that are always right under the one condition and always wrong under the other."""
    rows = [
        answer(f"q{i}", condition, Outcome.CORRECT if (condition == WITH) is helped else Outcome.WRONG, writer=writer)
        for writer, helped in right_with_reasoning.items()
        for i in range(12)
        for condition in (WITH, WITHOUT)
    ]
    columns = [column.name for column in table_of("answers").columns]
    return pd.DataFrame(rows, columns=columns)


def _claim(answers: pd.DataFrame) -> Verdict:
    made = {"accuracy": accuracy_rows(answers, 0), "paired": paired_rows(answers, 0), "filters": filter_rows(answers)}
    tables = {name: pd.DataFrame(rows, columns=[c.name for c in table_of(name).columns]) for name, rows in made.items()}
    (found,) = findings(tables.__getitem__, answers).verdicts
    return found


@pytest.mark.parametrize("backwards", [False, True])
def test_one_verdict_on_several_writers(backwards: bool) -> None:
    def claim(**writers: bool) -> Verdict:
        return _claim(_by_writer(**dict(sorted(writers.items(), reverse=backwards))))

    alone = claim(a=True)
    assert (alone.outcome, alone.why) == (Claim.AGREES, None)
    agreed = claim(a=True, b=True)
    assert (agreed.outcome, agreed.why) == (Claim.AGREES, "of 2 writers: a (agrees), b (agrees)")
    assert agreed.decided_by is not None
    assert agreed.decided_by.name.startswith("a: ")
    assert claim(a=False, b=False).outcome is Claim.OPPOSITE
    differ = claim(a=False, b=True)
    assert differ.outcome is Claim.NOT_TESTED
    assert differ.why == "the writers differ: a (opposite), b (agrees): choose one by +data.where.model=NAME"
