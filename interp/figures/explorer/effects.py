"""What was done to a token or a sentence, and what became of the answer: from the other parts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import printable
from interp.figures.drawing import Tables
from interp.key_tokens.corruptions import Corruption
from interp.perturb.tables import OWN_TOKEN
from interp.text.trace import Trace

PARTS = ("perturb", "key_tokens", "sentences")
ELSEWHERE = {
    "patching": "patching measured contrast pairs of its own, which are other texts: nothing of it belongs to this one",
    "ablate": "ablate cuts heads at all tokens at once: nothing of it belongs to one token",
}
DIGITS = 4


def effects(parts: Mapping[str, Tables], trace: Trace) -> dict[str, Any]:
    """The causal effects that the parts measured on this very text, and what to say of parts that measured none."""
    notes = [said for name, said in ELSEWHERE.items() if name in parts]
    tables: dict[str, Tables] = {}
    for name in PARTS:
        if name in parts:
            if why := missing(parts[name], trace):
                notes.append(f"{name} {why}")
            else:
                tables[name] = parts[name]
    found: dict[str, Any] = {"notes": notes, "measured": sorted(tables)}
    if "perturb" in tables:
        found["forced"] = _forced(_of(tables["perturb"]("effects"), trace))
    if "key_tokens" in tables:
        rows = _of(tables["key_tokens"]("effects"), trace)
        found["changed"], found["patched"] = _changed(rows), _patched(rows)
    if "sentences" in tables:
        found["sentences_tried"] = _sentences(_of(tables["sentences"]("sentences"), trace))
    return found


def missing(part: Tables, trace: Trace) -> str | None:
    """Why a part says nothing of this text; None if it measured it."""
    rows = _of(part("traces"), trace)
    if rows.empty:
        return "did not measure this trace"
    same = tuple(map(int, rows["token_ids"].iloc[0])) == trace.token_ids
    return None if same else "measured another text under this name: nothing of it is shown here"


def _of(table: pd.DataFrame, trace: Trace) -> pd.DataFrame:
    return table[table["example"] == trace.example]


def number(value: float | None) -> float | None:
    """Short, and null where undefined."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _mean(rows: pd.DataFrame, metric: str) -> float | None:
    values = rows.loc[rows["metric"] == metric, "value"].dropna()
    return number(float(values.mean())) if len(values) else None


def _forced(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For each position with forced tokens the mean over them, and what forcing the trace's own token there did."""
    found = []
    for position, here in rows[rows["intervention"] == "force_token"].groupby("position"):
        own = here[here["control"] == OWN_TOKEN]
        other = here[here["control"].isna()]
        one: dict[str, Any] = {"at": int(str(position)), "tokens": [printable(t) for t in other["forced"].unique()]}
        for metric in ("jaccard", "answer_changed"):
            one[metric], one[f"{metric}_own"] = _mean(other, metric), _mean(own, metric)
        one["n"] = int((other["metric"].eq("answer_changed") & other["value"].notna()).sum())
        found.append(one)
    return found


def _changed(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each change of the reasoning's words and what became of the answer."""
    cases = rows[rows["intervention"].isin(list(Corruption))]
    found = []
    for (kind, start, end, new), case in cases.groupby(
        ["intervention", "position", "position_end", "forced"], sort=False, dropna=False
    ):
        known = {metric: _mean(case, metric) for metric in ("answer_changed", "follows_corrupted", "correct")}
        words = {"old": _text(case["token"].iloc[0]), "new": _text(new)}
        found.append({"kind": str(kind), "start": int(start), "end": int(end), **words, **known})
    return found


def _patched(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """NLD by layer of clean activations patched into the run on changed words, by part of the text."""
    patches = rows[(rows["intervention"] == "patch_resid_pre") & (rows["metric"] == "nld")]
    found = []
    for (role, start, end, old, new), one in patches.groupby(
        ["role", "position", "position_end", "token", "forced"], sort=False, dropna=False
    ):
        ordered = one.sort_values("layer")
        found.append(
            {
                "role": str(role), "start": int(start), "end": int(end), "old": _text(old), "new": _text(new),
                "layers": [int(layer) for layer in ordered["layer"]],
                "nld": [number(value) for value in ordered["value"]],
            }
        )  # fmt: skip
    return found


def _sentences(rows: pd.DataFrame) -> list[dict[str, Any]]:
    names: Sequence[str] = ("suppressed", "demanded", "resampled")
    return [
        {"start": int(row["start"]), "end": int(row["end"]), **{name: number(row[name]) for name in names}}
        for row in rows.to_dict("records")
    ]


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
