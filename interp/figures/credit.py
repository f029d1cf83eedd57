"""Figures of trainings with credit: learning curves, and where on a response the credit goes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from interp.credit.gamma import Strategy
from interp.credit.study import called, running_peak_average
from interp.figures import style
from interp.figures.intervals import counted, point
from interp.runs.store import records
from interp.stats import Estimate

SHOWN_TOKENS = 60


def learning_curve(training: pd.DataFrame, title: str) -> Figure:
    """Held-out accuracy with its interval, and the reward of the training responses, plain and as in the paper."""
    figure, axis = style.subplots(figsize=(5.2, 3.8), layout="constrained")
    reward = training[training["measure"] == "reward"].sort_values("step")
    values = reward["value"].to_numpy(dtype=float)
    if len(values):
        axis.plot(reward["step"], values, color=style.GREY, linewidth=0.8, label="reward in training")
        peak = running_peak_average(values)
        axis.plot(reward["step"], peak, "--", color=style.GREY, linewidth=1, label="its running peak average")
    accuracy = training[training["measure"] == "accuracy"].sort_values("step")
    axis.plot(
        accuracy["step"], accuracy["value"], "o-", color=style.BLUE, markersize=3.5,
        label=f"held-out accuracy (n = {counted(accuracy['n'], 'problems')})",
    )  # fmt: skip
    low, high = accuracy["low"].astype(float), accuracy["high"].astype(float)
    axis.fill_between(accuracy["step"], low, high, color=style.BLUE, alpha=0.2, label="95 % interval")
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel("share of right answers")
    axis.set_ylim(0, 1)
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    axis.set_title(title, fontsize=9)
    return figure


def credited_tokens(credited: pd.DataFrame, title: str) -> Figure:
    """WAAD, FAI and gamma along the first tokens of a response."""
    rows = credited.head(SHOWN_TOKENS)
    figure, axes = style.subplots(3, 1, figsize=(max(4.0, 0.16 * len(rows) + 1.2), 4.6), sharex=True)
    places = range(len(rows))
    for axis, name, label, colour in zip(
        axes,
        ("waad", "fai", "gamma"),
        ("WAAD\n(tokens)", "FAI", "gamma"),
        (style.BLUE, style.ORANGE, style.GREEN),
        strict=True,
    ):
        if name == "gamma":
            axis.bar(places, rows[name] - 1, bottom=1, color=colour, width=0.8)
            axis.axhline(1, color=style.GREY, linewidth=0.6)
        else:
            axis.plot(places, rows[name].astype(float), ".-", color=colour, linewidth=1, markersize=4)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1].set_xticks(list(places), [style.label(text) for text in rows["token"]], rotation=90, fontsize=7)
    axes[-1].set_xlim(-0.7, len(rows) - 0.3)
    axes[0].set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


COLOURS = ("#000000", style.GREY, style.ORANGE, style.BLUE, style.GREEN, style.RED, style.PURPLE, "#56B4E9")
LINES = ("-", "--", ":", "-.")


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line of each arm: a strategy keeps its colour, arms of one colour differ in their line."""
    of_strategy = {str(strategy): i for i, strategy in enumerate(Strategy)}
    found: dict[str, tuple[str, str]] = {}
    for i, arm in enumerate(arms):
        place = of_strategy.get(arm.partition(",")[0], i)
        colour = COLOURS[place % len(COLOURS)]
        before = sum(one == colour for one, _ in found.values())
        found[arm] = (colour, LINES[(place // len(COLOURS) + before) % len(LINES)])
    return found


def study_curves(curves: pd.DataFrame, subject: str) -> Figure:
    """Held-out accuracy, reward, and the reward's running peak average (as in the paper), mean and interval over
    seeds of each arm."""
    names = {
        "accuracy": "held-out accuracy",
        "reward": "reward in training, moving mean",
        "reward_peak": "running peak average of the reward",
    }
    figure, axes = style.subplots(1, 3, figsize=(11, 3.4))
    arms = looks(list(curves["arm"].unique()))
    for axis, (measure, label) in zip(axes, names.items(), strict=True):
        for arm, (colour, line) in arms.items():
            rows = curves[(curves["arm"] == arm) & (curves["measure"] == measure)].sort_values("step")
            steps, values = rows["step"].to_numpy(), rows["value"].to_numpy(dtype=float)
            if measure == "reward":  # single steps are noisy: a mean over a tenth of them
                values = pd.Series(values).rolling(max(1, len(values) // 10), min_periods=1).mean().to_numpy()
            axis.plot(steps, values, line, color=colour, linewidth=1.3, label=f"{arm} (n = {counted(rows['n'])})")
            if measure == "accuracy" and rows["low"].notna().all():
                low, high = rows["low"].astype(float), rows["high"].astype(float)
                axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xlabel("optimizer steps")
        axis.set_ylabel(label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False, fontsize=8)
    figure.suptitle(f"{subject}; n: seeds", fontsize=10)
    figure.tight_layout(rect=(0, 0.06 + 0.05 * ((len(arms) - 1) // 4), 1, 1))
    return figure


def study_accuracy(study: pd.DataFrame, subject: str) -> Figure:
    """Each arm's final accuracy and its difference from the reference, with 95 % intervals over seeds."""
    figure, axes = style.subplots(1, 2, figsize=(8.4, 0.38 * len(study) + 1.4), sharey=True)
    places = range(len(study))[::-1]
    columns = (("accuracy", "low", "high"), ("difference", "difference_low", "difference_high"))
    for axis, (value, low, high) in zip(axes, columns, strict=True):
        for place, row in zip(places, records(study), strict=True):
            of = {"value": row[value], "low": row[low], "high": row[high], "n": row["seeds"]}
            point(axis, Estimate.of(of), place, style.BLUE)
    axes[0].axvline(study["start"].mean(), color=style.GREY, linestyle=":", linewidth=1)
    axes[0].set_title("dotted: before training", fontsize=8, color=style.GREY)
    axes[1].axvline(0, color=style.GREY, linewidth=0.8)
    axes[0].set_yticks(list(places), [f"{arm} (n={n})" for arm, n in zip(study["arm"], study["seeds"], strict=True)])
    axes[0].set_xlabel("held-out accuracy after training")
    axes[1].set_xlabel(f"minus {called(study['reference'].iloc[0])}, same seeds")
    figure.suptitle(subject, fontsize=10)
    figure.tight_layout()
    return figure


def study_table(study: pd.DataFrame) -> pd.DataFrame:
    """The table of the paper, with intervals and differences."""
    names = ["arm", "seeds", "start", "accuracy", "low", "high", "difference", "difference_low", "difference_high"]
    table = study[[*names, "p_adjusted", "credit_time_share", "published"]]
    return table.drop(columns="published") if table["published"].isna().all() else table
