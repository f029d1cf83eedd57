"""The headline numbers of `evaluate`, from its tables alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.grading.equality import equal_as_text
from interp.grading.outcomes import Outcome
from interp.grading.reasoning_effect import ALL, PAIRED, PAIRING, paired_values, passed_filters
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.store import records
from interp.runs.verdicts import Outcome as ClaimOutcome
from interp.runs.verdicts import Sign, Verdict, decide, verdict
from interp.stats import ComparedBy, Comparison, Estimate, bootstrap_mean, or_null, rng_for
from interp.text.prompts import Condition

Tables = Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class EvaluateFacts:
    """Who wrote the answers."""

    writers: list[str]


def findings(table: Tables, answers: pd.DataFrame) -> Findings[EvaluateFacts]:
    """What a run tells."""
    headlines: list[Headline] = []
    lines: list[str] = []
    accuracy, paired = table("accuracy"), table("paired")
    writers = [str(writer) for writer in answers["writer"].unique()]
    for writer in writers:
        about = f"{writer}: " if len(writers) > 1 else ""
        of_writer = answers[answers["writer"] == writer]
        here = accuracy[(accuracy["writer"] == writer) & (accuracy["group"] == "all")]
        tests = paired[(paired["writer"] == writer) & (paired["group"] == "all")]
        for kept, label in ((ALL, "all questions"), (PAIRED, "after the filters")):
            headlines += _accuracies(here[here["kept"] == kept], tests[tests["kept"] == kept], f"{about}{label}")
        lines += [f"{about}{line}" for line in _filters(table("filters"), writer)]
        lines += [f"{about}{line}" for line in _tests(tests)]
        headlines += _hinted(of_writer, about)
        lines += [f"{about}{line}" for line in _length(of_writer)]
        lines += [f"{about}{line}" for line in _outcomes(of_writer)]
    verdicts = [_improves(paired, sorted(writers))] if writers else []
    return Findings(headlines, EvaluateFacts(writers), lines, verdicts=verdicts)


def _accuracies(accuracy: pd.DataFrame, tests: pd.DataFrame, label: str) -> list[Headline]:
    """Every condition, and behind it how the others differ from the first."""
    found = [
        Headline(f"{label}, {row['measure']}, {readable(row['condition'])}", Estimate.of(row))
        for row in records(accuracy)
    ]
    for row in records(tests):
        name = f"{label}, {row['measure']}, {readable(row['first'])} minus {readable(row['second'])}"
        found.append(difference(row, name))
    return found


def difference(row: dict[str, Any], name: str) -> Headline:
    """Of two conditions, question by question; the interval of the control is what random signs give."""
    if pd.isna(row["null_low"]):
        return Headline(name, Estimate.of(row))
    null = Estimate(0.0, int(row["n"]), row["null_low"], row["null_high"])
    compared = Comparison(ComparedBy.PAIRED, Estimate.of(row), or_null(row["p_permutation"]))
    return Headline(name, Estimate.of(row), "random signs", null, compared)


def _improves(paired: pd.DataFrame, writers: Sequence[str]) -> Verdict:
    """Whether the writer is right more often with reasoning, over the questions that pass the filters.

    Of several writers it must hold for each; where some contradict others there is no one verdict on them.
    """
    name, found = "accuracy with minus without reasoning, after the filters", {}
    for writer in writers:
        rows = paired[(paired["writer"] == writer) & (paired["group"] == "all") & (paired["kept"] == PAIRED)]
        rows = rows[(rows["measure"] == "accuracy") & (rows["first"] == Condition.WITH_REASONING)]
        for row in records(rows[rows["second"] == Condition.WITHOUT_REASONING]):
            found[writer] = difference(row, name if len(writers) == 1 else f"{writer}: {name}")
    if not found:
        return verdict("A1", [], why="not asked both ways, or not graded")
    became = {writer: decide(number, Sign.HIGHER) for writer, number in found.items()}
    each = ", ".join(f"{writer} ({outcome.value})" for writer, outcome in became.items())
    if {ClaimOutcome.AGREES, ClaimOutcome.OPPOSITE} <= set(became.values()):
        return verdict("A1", [], why=f"the writers differ: {each}: choose one by +data.where.model=NAME")
    least = sorted(found.values(), key=lambda number: (number.estimate.value, number.name))
    why = f"of {len(writers)} writers: {each}" if len(writers) > 1 else None
    return verdict("A1", [(number, Sign.HIGHER) for number in least], why=why)


def _filters(filters: pd.DataFrame, writer: str) -> list[str]:
    lines = []
    for condition, rows in filters[filters["writer"] == writer].groupby("condition", sort=False):
        counts = " -> ".join(
            f"{row['responses']} {'paired' if row['step'] == PAIRING else row['step']}" for row in records(rows)
        )
        lines.append(f"{readable(str(condition))}: {counts}")
    return lines


def _tests(tests: pd.DataFrame) -> list[str]:
    lines = []
    for row in records(tests[tests["kept"] == PAIRED]):
        parts = []
        if not pd.isna(row["only_first"]):
            parts.append(f"discordant {int(row['only_first'])}/{int(row['only_second'])}")
        for name, label in (("p_t", "paired t-test"), ("p_mcnemar", "McNemar"), ("p_permutation", "permutation")):
            if not pd.isna(row[name]):
                parts.append(f"{label} p = {row[name]:.2g}")
        pair = f"{readable(row['first'])} against {readable(row['second'])}"
        lines.append(f"{pair}, {row['measure']} after the filters: {', '.join(parts)}")
    return lines


def _length(answers: pd.DataFrame) -> list[str]:
    """Does the effect depend on how long the model reasons?"""
    first, second = Condition.WITH_REASONING, Condition.WITHOUT_REASONING
    both = paired_values(passed_filters(answers), first, second, "correct")
    if len(both) < 3 or both["words"].nunique() < 2:
        return []
    lines = []
    for what, values in (("effect", both["first"] - both["second"]), ("accuracy with reasoning", both["first"])):
        if values.nunique() > 1:
            rho = stats.spearmanr(both["words"], values)
            numbers = f"{rho.statistic:.2f} (p = {rho.pvalue:.2g}, n = {len(both)})"
            lines.append(f"rank correlation of the {what} with the words of reasoning: {numbers}")
    return lines


def _hinted(answers: pd.DataFrame, about: str) -> list[Headline]:
    """How often the answer is the wrong one that the question suggests, beside the answers to the plain question; and
    how often the reasoning of those that follow only where it is suggested speaks of that (faithfulness, Turpin et al.
    2023)."""
    keys = ["example", "sample"]
    hinted = answers[(answers["condition"] == Condition.HINTED) & answers["hint"].notna()].set_index(keys)
    plain = answers[answers["condition"] == Condition.WITH_REASONING].set_index(keys)["extracted"]
    both = hinted.join(plain.rename("plain"), how="inner")
    if both.empty:
        return []
    follows, before = (
        np.array([_is(row[column], row["hint"]) for row in records(both)], dtype=float)
        for column in ("extracted", "plain")
    )
    by_question = pd.DataFrame({"with": follows, "without": before}, index=both.index).groupby("example").mean()
    ours, theirs = (by_question[column].to_numpy(dtype=float) for column in ("with", "without"))
    found = [
        Headline(
            f"{about}share of answers that are the suggested wrong one",
            bootstrap_mean(ours, rng_for(0, "hinted", "with")),
            "the same without the suggestion",
            bootstrap_mean(theirs, rng_for(0, "hinted", "without")),
            Comparison.paired(ours, theirs, rng_for(0, "hinted")),
        )
    ]
    led = both[(follows > 0) & (before == 0)]
    if len(led):
        said = led["hint_said"].astype(float).groupby("example").mean().to_numpy()
        name = f"{about}share of answers led by the suggestion whose reasoning speaks of it"
        found.append(Headline(name, bootstrap_mean(said, rng_for(0, "hinted", "said"))))
    return found


def _is(answer: object, hint: object) -> bool:
    return isinstance(answer, str) and isinstance(hint, str) and equal_as_text(answer, hint) is True


def _outcomes(answers: pd.DataFrame) -> list[str]:
    lines = []
    for condition, rows in answers.groupby("condition", sort=False):
        counts = Counter(rows["outcome"])
        listed = ", ".join(f"{counts[outcome]} {readable(outcome)}" for outcome in Outcome if counts[outcome])
        lines.append(f"outcomes {readable(str(condition))}: {listed}")
    return lines
