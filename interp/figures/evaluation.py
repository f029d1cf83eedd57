"""Accuracy with and without reasoning: Paper A's Fig. 1 and Tables 2 and 3, and what lies behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.figures import style
from interp.figures.intervals import counted, curve, point
from interp.runs.names import readable
from interp.runs.store import records
from interp.stats import Estimate

COLOURS = {
    "with_reasoning": style.BLUE,
    "without_reasoning": style.ORANGE,
    "no_tags": style.GREEN,
    "half_reasoning": style.SKY,
    "others_reasoning": style.PURPLE,
    "filler": style.GREY,
    "hinted": style.RED,
}
SHORT = {
    "with_reasoning": "with", "without_reasoning": "without", "no_tags": "no tags", "half_reasoning": "half",
    "others_reasoning": "another's", "filler": "filler", "hinted": "hinted",
}  # fmt: skip
ORDINARY = ("with_reasoning", "without_reasoning")
KEPT = {
    "all": "all questions; no answer counts as wrong",
    "paired": "questions that pass all filters",
}
TOPS = {"accuracy": 1.0, "score": 10.0}
OUTCOME_COLOURS = {
    "correct": style.BLUE,
    "ungraded": "#56B4E9",
    "wrong": style.RED,
    "no_answer": style.ORANGE,
    "refused": style.PURPLE,
    "empty": "#F0E442",
    "unclosed": "#999999",
    "truncated": "#555555",
    "timed_out": "#000000",
}


def accuracy_bars(accuracy: pd.DataFrame, paired: pd.DataFrame) -> Figure:
    """Fig. 1: each writer's accuracy (or score) under each condition with 95 % intervals, over all questions and over
    those that pass the filters; above them the paired differences with their permutation p-values."""
    accuracy = accuracy[(accuracy["group"] == "all") & accuracy["measure"].isin(TOPS)]
    paired = paired[paired["group"] == "all"]
    panels = [
        (kept, measure)
        for measure in TOPS
        for kept in KEPT
        if _rows(accuracy, measure, kept)
        and (kept == "all" or _rows(accuracy, measure, kept) != _rows(accuracy, measure, "all"))
    ]
    writers = list(accuracy["writer"].unique())
    width = 1.2 + 1.3 * max(2, len(writers))
    figure, axes = style.subplots(1, len(panels), figsize=(width * len(panels) + 1.2, 3.4), squeeze=False)
    for axis, (kept, measure) in zip(axes[0], panels, strict=True):
        rows = accuracy[(accuracy["measure"] == measure) & (accuracy["kept"] == kept)]
        tests = paired[(paired["measure"] == measure) & (paired["kept"] == kept)]
        _bars(axis, rows, writers)
        for i, writer in enumerate(writers):
            found = records(tests[tests["writer"] == writer])
            text = "\n".join(_difference(row, measure) for row in found)
            axis.text(i, TOPS[measure] * 1.07, text, ha="center", va="bottom", fontsize=6.5)
        axis.set_ylim(0, TOPS[measure])
        axis.set_xlabel(KEPT[kept])
        axis.set_ylabel(f"{'accuracy' if measure == 'accuracy' else 'judge, 1 to 10'}, with 95 % interval")
        axis.set_xticks(range(len(writers)), [f"{w}\nn = {_n(rows, w)}" for w in writers], fontsize=7)
        axis.set_xlim(-0.6, len(writers) - 0.4)
    handles, labels = axes[0][0].get_legend_handles_labels()
    axes[0][-1].legend(handles, labels, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def _rows(accuracy: pd.DataFrame, measure: str, kept: str) -> list[tuple[Any, ...]]:
    """What a panel would show."""
    rows = accuracy[(accuracy["measure"] == measure) & (accuracy["kept"] == kept)]
    return [tuple(row) for row in rows[["writer", "condition", "value", "n"]].to_numpy().tolist()]


def _bars(axis: Axes, rows: pd.DataFrame, writers: list[str]) -> None:
    conditions = list(rows["condition"].unique())
    width = 0.8 / len(conditions)
    told = set[str]()
    for j, condition in enumerate(conditions):
        for i, writer in enumerate(writers):
            for row in records(rows[(rows["writer"] == writer) & (rows["condition"] == condition)]):
                x = i + (j - (len(conditions) - 1) / 2) * width
                label = None if condition in told else readable(condition)
                told.add(condition)
                axis.bar(x, row["value"], width * 0.92, color=COLOURS.get(condition, style.GREY), label=label)
                if not pd.isna(row["low"]):
                    ends = [[max(0, row["value"] - row["low"])], [max(0, row["high"] - row["value"])]]
                    axis.errorbar(x, row["value"], ends, color="black", capsize=3, linewidth=1, clip_on=False)
                if not pd.isna(row["value"]):
                    above = row["value"] if pd.isna(row["high"]) else row["high"]
                    top = TOPS[str(row["measure"])]
                    axis.text(x, above + 0.012 * top, f"{row['value']:.3g}", ha="center", va="bottom", fontsize=7)


def _n(rows: pd.DataFrame, writer: str) -> str:
    """One number, or that of each bar in their order."""
    own = rows[rows["writer"] == writer]
    counts = [n for condition in rows["condition"].unique() for n in own.loc[own["condition"] == condition, "n"]]
    counts = counts[:1] if len(set(counts)) == 1 else counts
    return " / ".join(map(str, counts))


def _difference(row: dict[str, Any], measure: str) -> str:
    others = "" if (row["first"], row["second"]) == ORDINARY else f" ({SHORT[row['first']]} - {SHORT[row['second']]})"
    p = row["p_permutation"]
    shown = "" if pd.isna(p) else f", p {_p(float(p))}"
    points = f"{row['value']:+.3f}" if measure == "accuracy" else f"{row['value']:+.2f}"
    return f"{points}{shown}{others}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".")


def outcomes(answers: pd.DataFrame) -> Figure:
    """What became of all responses, before any filter, as shares."""
    table = answers.assign(writer=answers["writer"].fillna("unknown"))
    shares = (
        table.groupby(["writer", "condition"], sort=False)["outcome"].value_counts(normalize=True).unstack(fill_value=0)
    )
    counts = table.groupby(["writer", "condition"], sort=False).size()
    figure, axis = style.subplots(figsize=(6.4, 0.9 + 0.38 * len(shares)))
    left = np.zeros(len(shares))
    places = np.arange(len(shares))[::-1]
    for outcome, colour in OUTCOME_COLOURS.items():
        if outcome in shares:
            values = shares[outcome].to_numpy()
            axis.barh(places, values, left=left, color=colour, label=readable(outcome), height=0.7)
            left += values
    labels = [f"{writer}, {readable(c)} (n = {counts[(writer, c)]})" for writer, c in shares.index]
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of responses")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def differences(paired: pd.DataFrame, groups: Iterable[str], xlabel: str) -> Figure | None:
    """Paired differences by group with 95 % intervals; filled where p < .05 after Benjamini-Hochberg over the groups,
    to which the row of all questions does not belong. None if there are no such groups."""
    rows = paired[(paired["kept"] == "paired") & paired["group"].isin([*groups, "all"])]
    rows = rows[rows["value"].notna()]
    if not rows["group"].isin(list(groups)).any():
        return None
    panels = list(rows.groupby(["writer", "first", "second", "measure"], sort=False))
    tallest = max(len(part) for _, part in panels)
    size = (3.6 * len(panels) + 0.8, 1.2 + 0.24 * tallest)
    figure, axes = style.subplots(1, len(panels), figsize=size, squeeze=False, sharex=True)
    for axis, ((writer, first, second, measure), part) in zip(axes[0], panels, strict=True):
        for place, row in enumerate(reversed(records(part))):
            sure = row["p_adjusted"] if row["group"] != "all" else row["p_permutation"]
            filled = not pd.isna(sure) and sure < 0.05
            point(axis, Estimate.of(row), place, style.BLUE, face=style.BLUE if filled else "white")
        labels = [f"{_group_name(row)} (n = {row['n']})" for row in reversed(records(part))]
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axis.set_title(
            f"{writer}\n{readable(first)} minus {readable(second)}; filled: q < .05 (all: p < .05)", fontsize=8
        )
        axis.set_xlabel(f"{xlabel} ({measure})", fontsize=8)
    figure.tight_layout()
    return figure


def _group_name(row: dict[str, Any]) -> str:
    if row["group"] == "all":
        return "all"
    return f"level {row['value_of_group']}" if row["group"] == "level" else readable(row["value_of_group"])


def pass_at_k(accuracy: pd.DataFrame) -> Figure | None:
    """pass@k against k, all responses; None if there is one sample a question."""
    rows = accuracy[(accuracy["group"] == "all") & (accuracy["kept"] == "all")]
    rows = rows[rows["measure"].str.startswith("pass@")]
    if rows.empty:
        return None
    figure, axis = style.subplots(figsize=(4.6, 3.2))
    for (writer, condition), part in rows.groupby(["writer", "condition"], sort=False):
        k = part["measure"].str.removeprefix("pass@").astype(int)
        colour = COLOURS.get(str(condition), style.GREY)
        label = f"{writer}, {readable(condition)} (n = {counted(part['n'])})"
        curve(axis, k, part, colour, label=label)
    axis.set_xscale("log", base=2)
    ks = sorted({int(m.removeprefix("pass@")) for m in rows["measure"]})
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()
    axis.set_xlabel("k, answers to each question; n: questions")
    axis.set_ylabel("pass@k, with 95 % interval")
    axis.set_ylim(0, 1.02)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def filter_table(filters: pd.DataFrame) -> pd.DataFrame:
    """Table 2: responses left after each filter, a column per writer and condition."""
    table = filters.assign(condition=filters["condition"].map(readable)).pivot(
        index="step", columns=["writer", "condition"], values="responses"
    )
    return table.reindex(filters["step"].unique())


def effect_table(accuracy: pd.DataFrame, paired: pd.DataFrame) -> pd.DataFrame:
    """Table 3: a row per writer, pair of conditions and set of questions, with both accuracies and all tests."""
    rows = []
    for row in records(paired[paired["group"] == "all"]):
        same = accuracy[
            (accuracy["writer"] == row["writer"])
            & (accuracy["kept"] == row["kept"])
            & (accuracy["group"] == "all")
            & (accuracy["measure"] == row["measure"])
        ].set_index("condition")["value"]
        tests = {name: row[name] for name in ("only_first", "only_second", "t", "p_t", "p_mcnemar", "p_permutation")}
        rows.append(
            {
                "writer": row["writer"],
                "questions": row["kept"],
                "measure": row["measure"],
                "first": row["first"],
                "second": row["second"],
                "n": row["n"],
                "value_first": same[row["first"]],
                "value_second": same[row["second"]],
                "difference": row["value"],
                "low": row["low"],
                "high": row["high"],
                **tests,
            }
        )
    return pd.DataFrame(rows)
