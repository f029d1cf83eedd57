"""The headline numbers of `key_tokens`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.key_tokens.corruptions import Corruption
from interp.key_tokens.effects import ROLES
from interp.runs.effects import over_examples
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.store import records
from interp.runs.verdicts import Sign, verdict
from interp.stats import Comparison, Estimate, or_null
from interp.text.numbers import difference_text, with_interval

Tables = Callable[[str], pd.DataFrame]
METRICS = {
    "answer_changed": "share of answers that change",
    "follows_corrupted": "share of answers that are the new number or name",
    "neither": "share of answers that are neither the new one nor the clean one",
}
NAMES = {
    Corruption.NUMBER: "a number changed",
    Corruption.NAME: "a name swapped",
    Corruption.DELETE: "a step deleted",
    Corruption.SHUFFLE: "a step shuffled",
    Corruption.PARAPHRASE: "a step put into a template",
    Corruption.REWORD: "a step said in other words",
    Corruption.INERT: "a sentence without content put in",
}


@dataclass(frozen=True)
class KeyTokensFacts:
    """How many traces there were."""

    n_traces: int


def findings(table: Tables) -> Findings[KeyTokensFacts]:
    """What a run tells."""
    corrupted, effects = table("corrupted"), table("effects")
    headlines: list[Headline] = []
    lines: list[str] = []
    whole = corrupted[corrupted["group"] == "all"]
    decides = verdict("A7", [], why="no number of the reasoning was changed beside a harmless change")
    for metric, label in METRICS.items():
        for row in records(whole[whole["metric"] == metric]):
            name = f"{label}: {NAMES[Corruption(row['kind'])]}"
            number = Headline(name, Estimate.of(row), *_against(row))
            headlines.append(number)
            if row["kind"] == Corruption.NUMBER and metric == "answer_changed" and number.comparison is not None:
                decides = verdict("A7", [(number, Sign.HIGHER)])
            if number.comparison is not None:
                p = or_null(row["p"])
                tested = "" if p is None else f", sign flips p = {p:.2g}, q = {row['p_adjusted']:.2g}"
                about = f"{name} against {number.control_kind}: {difference_text(row['difference'])}{tested}"
                lines.append(f"{about} (n = {row['n_paired']:.0f})")
    for group, label in (("third", "third of the reasoning"), ("step_from_end", "sentence from the end")):
        lines += _by_place(corrupted, group, label)
    lines += _way(effects)
    return Findings(headlines, KeyTokensFacts(int(effects["example"].nunique())), lines, verdicts=[decides])


def _against(row: dict[str, Any]) -> tuple[str, Estimate, Comparison] | tuple[()]:
    """The harmless change on the same traces, and the difference from it."""
    compared = Comparison.of(row, "difference", n="n_paired")
    if compared is None:
        return ()
    control = Estimate(row["control_value"], compared.difference.n)
    return f"{NAMES[Corruption(row['control'])]} in the same traces", control, compared


def _by_place(corrupted: pd.DataFrame, group: str, label: str) -> list[str]:
    lines = []
    rows = corrupted[(corrupted["group"] == group) & (corrupted["metric"] == "answer_changed")]
    for kind, part in rows.groupby("kind", sort=False):
        values = ", ".join(f"{row['value_of_group']}: {row['value']:.2f}" for row in records(part))
        lines.append(f"answers that change by {label}, {NAMES[Corruption(str(kind))]}: {values}")
    return lines


def _way(effects: pd.DataFrame) -> list[str]:
    """Which part of the sequence carries the change, at the first and the last layer."""
    patched = effects[(effects["intervention"] == "patch_resid_pre") & (effects["metric"] == "nld")]
    lines = []
    for role in ROLES:
        rows = patched[patched["role"] == role]
        if rows.empty:
            continue
        parts = []
        for layer in (0, int(rows["layer"].max())):
            estimate = over_examples(rows[rows["layer"] == layer])
            parts.append(f"layer {layer} {with_interval(estimate.value, estimate.low, estimate.high)}")
        lines.append(f"NLD of clean activations at {readable(role)}: {', '.join(parts)} (n = {estimate.n} traces)")
    return lines
