"""Does reasoning improve the answer? Filters, accuracies and paired tests over answers.parquet (Paper A, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.grading.outcomes import Outcome
from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.stats import Estimate, adjust, binomial_estimate, bootstrap_mean, rng_for, sign_flips
from interp.text.prompts import EDITED, Condition

FILTERS_TABLE = Table(
    "filters",
    Column("writer", TEXT, "the model that wrote the texts"),
    Column("condition", TEXT, "as in `answers`"),
    Column("step", TEXT, "the last filter applied (Paper A, Table 2)"),
    Column("questions", INT, "questions with a response left"),
    Column("responses", INT, "responses left"),
)
ACCURACY_TABLE = Table(
    "accuracy",
    Column("writer", TEXT, "the model that wrote the texts"),
    Column("condition", TEXT, "as in `answers`"),
    Column("kept", TEXT, "`all` responses, or `paired`: those that passed the filters under all conditions"),
    Column("measure", TEXT, "`accuracy`, `pass@k` or `score`"),
    Column("group", TEXT, "`all`, `kind` or `level`"),
    Column("value_of_group", TEXT, "which kind or level", null="all questions"),
    Column("value", FLOAT, "mean over questions", null="no question"),
    *ends("", "its 95 % interval", null=f"several answers a question, `score` or `pass@k`: {NO_INTERVAL}"),
    Column("n", INT, "number of questions"),
)
PAIRED_TABLE = Table(
    "paired",
    Column("writer", TEXT, "the model that wrote the texts"),
    Column("first", TEXT, "a condition"),
    Column("second", TEXT, "the condition that it is compared with"),
    Column("kept", TEXT, "as in `accuracy`"),
    Column("measure", TEXT, "`accuracy` or `score`"),
    Column("group", TEXT, "`all`, `kind`, `level`, or `length`: quarter of the questions by words of reasoning"),
    Column("value_of_group", TEXT, "which kind, level or quarter", null="all questions"),
    Column("value", FLOAT, "mean over questions of first minus second", null="no question"),
    *ends("", "its 95 % bootstrap interval over questions", null=NO_INTERVAL),
    Column("n", INT, "number of questions answered under both conditions"),
    Column("only_first", INT, "questions right in the first only", null="several samples, or scores"),
    Column("only_second", INT, "questions right in the second only", null="several samples, or scores"),
    Column("t", FLOAT, "paired t statistic (Paper A, section 3)", null="n < 2, or all differences are equal"),
    Column("p_t", FLOAT, "its two-sided p-value", null="n < 2, or all differences are equal"),
    Column("p_mcnemar", FLOAT, "exact McNemar test, two-sided", null="several samples, or scores"),
    Column("p_permutation", FLOAT, "sign-flip permutation test of the mean, two-sided", null="n < 2"),
    *ends("null_", "the middle 95 % of `value` under random signs", null="n < 2"),
    Column("p_adjusted", FLOAT, "p_permutation after Benjamini-Hochberg over the groups", null="n < 2, or `all`"),
)


ALL, PAIRED = "all", "paired"
ANSWERED = (Outcome.CORRECT, Outcome.WRONG, Outcome.TIMED_OUT, Outcome.UNGRADED)
FILTERS = (
    ("all responses", ()),
    ("finished", (Outcome.TRUNCATED,)),
    ("think tags present", (Outcome.UNCLOSED,)),
    ("an answer found", tuple(o for o in Outcome if o not in ANSWERED)),
)
"""The filters of Paper A's Table 2 in order, each with the outcomes that it drops; the last one pairs the questions."""
PAIRING = "same questions under all conditions"
OURS = (*EDITED, Condition.HINTED)
"""Conditions that the paper does not have."""
LENGTH_GROUPS = 4


def filter_rows(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of filters.parquet: what is left after each filter, for each writer and condition."""
    rows = []
    for writer, of_writer in answers.groupby("writer", sort=False):
        conditions = _conditions(of_writer)
        left = of_writer
        steps = []
        for step, dropped in FILTERS:
            left = left[~left["outcome"].isin(dropped)]
            steps.append((step, left))
        steps.append((PAIRING, _paired(left, conditions)))
        for step, kept in steps:
            for condition in conditions:
                here = kept[kept["condition"] == condition]
                counts = {"questions": int(here["example"].nunique()), "responses": len(here)}
                rows.append({"writer": writer, "condition": condition, "step": step, **counts})
    return rows


def passed_filters(answers: pd.DataFrame) -> pd.DataFrame:
    """The responses that pass all filters, of questions with such a response under all conditions of their writer."""
    kept = answers[answers["outcome"].isin(ANSWERED)]
    groups = [
        _paired(rows, _conditions(answers[answers["writer"] == writer]))
        for writer, rows in kept.groupby("writer", sort=False)
    ]
    return pd.concat(groups) if groups else kept


def _paired(answers: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    # Under conditions of ours fewer answers are found: they leave the paper's comparison as it is.
    asked = [one for one in conditions if one not in OURS] or conditions
    seen = answers[answers["condition"].isin(asked)].groupby("example")["condition"].nunique()
    return answers[answers["example"].isin(seen.index[seen == len(asked)])]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers drawn from n without replacement is right (Chen et al. 2021)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def accuracy_rows(answers: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """The rows of accuracy.parquet: by writer and condition, over all questions and by kind and level."""
    rows = []
    for kept, responses in ((ALL, answers), (PAIRED, passed_filters(answers))):
        for (writer, condition), here in responses.groupby(["writer", "condition"], sort=False):
            for group, value_of_group, part in _groups(here):
                about = {
                    "writer": writer,
                    "condition": condition,
                    "kept": kept,
                    "group": group,
                    "value_of_group": value_of_group,
                }
                for measure, estimate in _measures(part, seed, writer, condition, group, value_of_group):
                    rows.append({**about, "measure": measure, **asdict(estimate)})
    return rows


def _groups(answers: pd.DataFrame) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    yield "all", None, answers
    for group in ("kind", "level"):
        values = answers[group].dropna().unique()
        if len(values) > 1:
            for value in sorted(values):
                yield group, value, answers[answers[group] == value]


def _measures(answers: pd.DataFrame, seed: int, *labels: object) -> Iterator[tuple[str, Estimate]]:
    """Accuracy or score, and pass@k where there are several samples; the interval is over questions."""
    rng = rng_for(seed, "accuracy", *labels)
    if answers["score"].notna().any():
        yield "score", bootstrap_mean(answers.groupby("example")["score"].mean().to_numpy(), rng)
    graded = answers.dropna(subset="correct")
    if graded.empty:
        return
    yield "accuracy", accuracy(graded, rng)
    by_question = _by_question(graded)
    samples = int(by_question["count"].min())
    if (by_question["count"] == 1).all():
        return
    for k in (k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples):
        values = [pass_at_k(n, right, k) for right, n in by_question.to_numpy().tolist()]
        yield f"pass@{k}", bootstrap_mean(np.array(values), rng)


def accuracy(graded: pd.DataFrame, rng: np.random.Generator) -> Estimate:
    """Share of right answers, each question the mean of its samples. The interval is over questions: Wilson's where
    each was answered once, else a bootstrap, since answers to one question are alike."""
    by_question = _by_question(graded)
    if (by_question["count"] == 1).all():
        return binomial_estimate(int(by_question["sum"].sum()), len(by_question))
    return bootstrap_mean((by_question["sum"] / by_question["count"]).to_numpy(), rng)


def _by_question(graded: pd.DataFrame) -> pd.DataFrame:
    """How many answers each question has (`count`), and how many of them are right (`sum`)."""
    return graded.groupby("example", sort=False)["correct"].agg(["sum", "count"]).astype(int)


def paired_rows(answers: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """The rows of paired.parquet: every pair of conditions, over all questions, by kind, level and reasoning length."""
    rows = []
    for kept, responses in ((ALL, answers), (PAIRED, passed_filters(answers))):
        for writer, here in responses.groupby("writer", sort=False):
            for first, second in _pairs(_conditions(here)):
                for measure, column in (("accuracy", "correct"), ("score", "score")):
                    both = paired_values(here, first, second, column)
                    if not both.empty:
                        about = {"writer": writer, "first": first, "second": second, "kept": kept, "measure": measure}
                        rows += [
                            {**about, **row} for row in _compare_groups(both, seed, writer, first, second, measure)
                        ]
    return rows


def _pairs(conditions: Sequence[str]) -> list[tuple[str, str]]:
    """The paper's conditions each with each, and with the own reasoning each of ours."""
    papers = [one for one in conditions if one not in OURS]
    ours = [one for one in conditions if one in OURS]
    return [*combinations(papers, 2), *((papers[0], one) for one in ours if papers)]


def _conditions(answers: pd.DataFrame) -> list[str]:
    """The conditions in the table; what reasons comes first, so that a positive difference speaks for it."""
    order = [str(c) for c in (Condition.WITH_REASONING, Condition.NO_TAGS, Condition.WITHOUT_REASONING)]
    return sorted(
        map(str, answers["condition"].unique()), key=lambda c: (order.index(c) if c in order else len(order), c)
    )


def paired_values(answers: pd.DataFrame, first: str, second: str, column: str) -> pd.DataFrame:
    """One row per question answered under both conditions: `first` and `second` (means over samples), `samples`,
    `kind`, `level`, and `words`: of reasoning under the first condition."""
    values = answers.dropna(subset=column).astype({column: float})
    sides = {
        name: values[values["condition"] == condition].groupby("example", sort=False)
        for name, condition in (("first", first), ("second", second))
    }
    table = pd.DataFrame({name: side[column].mean() for name, side in sides.items()}).dropna()
    table["samples"] = pd.DataFrame({name: side.size() for name, side in sides.items()}).max(axis=1)
    for name in ("kind", "level"):
        table[name] = sides["first"][name].first()
    table["words"] = sides["first"]["reasoning_words"].mean()
    return table


def _compare_groups(both: pd.DataFrame, seed: int, *labels: object) -> list[dict[str, Any]]:
    rows = []
    for group, value_of_group, part in [*_groups(both), *_length_groups(both)]:
        tests = compare(part, rng_for(seed, "paired", *labels, group, value_of_group))
        rows.append({"group": group, "value_of_group": value_of_group, **tests})
    adjust([row for row in rows if row["group"] != "all"], "p_permutation")
    return rows


def _length_groups(both: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    if both["words"].nunique() < LENGTH_GROUPS:
        return
    quarters = pd.qcut(both["words"], LENGTH_GROUPS, duplicates="drop")
    for i, (_, part) in enumerate(both.groupby(quarters, observed=True)):
        yield "length", f"{i + 1}: {part['words'].min():.0f} to {part['words'].max():.0f} words", part


def compare(both: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """First minus second over questions: interval, paired t-test, exact McNemar, sign-flip permutation test."""
    difference = (both["first"] - both["second"]).to_numpy()
    estimate = bootstrap_mean(difference, rng)
    row: dict[str, Any] = {**asdict(estimate), "t": None, "p_t": None, "p_permutation": None}
    if both["samples"].max() == 1 and both[["first", "second"]].isin([0.0, 1.0]).all(axis=None):
        row["only_first"], row["only_second"] = int((difference > 0).sum()), int((difference < 0).sum())
        row["p_mcnemar"] = mcnemar(row["only_first"], row["only_second"])
    if len(difference) >= 2:
        row["p_permutation"], row["null_low"], row["null_high"] = sign_flips(difference, rng)
        if np.ptp(difference) > 0:
            test = stats.ttest_rel(both["first"], both["second"])
            row["t"], row["p_t"] = float(test.statistic), float(test.pvalue)
    return row


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of the discordant pairs; 1 where there are none."""
    n = only_first + only_second
    return float(stats.binomtest(only_first, n).pvalue) if n else 1.0
