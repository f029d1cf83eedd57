"""What the answer makes of corrupted reasoning: rows of effects.parquet, and their summary (Paper A, section 5).

After each change the model writes its answer anew, greedily. Where a number or name was changed the answer may follow
the new one, stay as it was, or be something else. For changes that keep the number of tokens, clean activations are
patched into the corrupted run: which positions and layers carry the change to the first answer token that differs?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.grading.outcomes import is_correct
from interp.key_tokens.corruptions import CONTROLS, Corrupted, Corruption
from interp.model.generate import Sampling, Written, continue_ids
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.patching.exact import Patch, record, sweep
from interp.patching.nld import Answers
from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.runs.store import records
from interp.stats import Comparison, adjust, bootstrap_mean, or_null, rng_for
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace

CORRUPTED_TABLE = Table(
    "corrupted",
    Column("kind", TEXT, "what was changed: see Corruption in interp/key_tokens/corruptions.py"),
    Column("group", TEXT, "`all`, `third` of the reasoning, or `step_from_end`"),
    Column("value_of_group", TEXT, "which third or step, counted from 1", null="all changes"),
    Column("metric", TEXT, "as in `effects`"),
    Column("value", FLOAT, "mean over traces of the mean over their changes"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column(
        "control", TEXT, "the harmless change that it is compared with, on the same traces", null="it is that, or none"
    ),
    Column("control_value", FLOAT, "its mean over the traces that have both", null="no control"),
    Column("difference", FLOAT, "mean over those traces of this minus the control", null="no control"),
    Column(
        "difference_low",
        FLOAT,
        "lower end of its 95 % bootstrap interval over traces",
        null=f"no control, or {NO_INTERVAL}",
    ),
    Column("difference_high", FLOAT, "upper end of it", null=f"no control, or {NO_INTERVAL}"),
    Column("n_paired", INT, "number of traces that have both", null="no control"),
    Column("p", FLOAT, "two-sided sign-flip p-value of the difference", null="no control, or n < 2"),
    Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the table", null="no control, or n < 2"),
    Column("n", INT, "number of traces"),
    Column("n_cases", INT, "number of changes"),
)


METRICS = ("answer_changed", "follows_corrupted", "neither", "correct")
ROLES = ("changed", "reasoning_after", "close", "answer_before", "predicting")
"""Parts of the sequence that are patched: the changed tokens, the reasoning after them, the close tag, the answer up to
the last token, and the token that predicts the difference."""


def write_answers(lens: Lens, prefixes: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[Written]:
    """Greedy continuations of sequences that end with the close tag."""
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    found: dict[int, Written] = {}
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        written = continue_ids(lens, [prefixes[i] for i in part], Sampling(max_new_tokens=max_new_tokens))
        for i, one in zip(part, written, strict=True):
            found[i] = Written.of(lens, one)
    return [found[i] for i in range(len(prefixes))]


def effect_rows(
    trace: Trace, cases: Sequence[Corrupted], clean: Written, written: Sequence[Written], gold: str | None
) -> list[dict[str, Any]]:
    """What each change did to the answer.

    `answer_changed`: it is not the clean one; `follows_corrupted`: it is the new number or name, `neither`: it is
    neither that nor the clean one (both only where an answer could follow: a number changed where the clean answer is a
    number, a name where it is a name, and the new one is not the clean answer anyway); `correct`. An answer that the
    limit of tokens cut off is not right, and what it would have been is not known: the others are None. The clean
    answer must be whole.
    """
    rows = []
    for case, new in zip(cases, written, strict=True):
        values: dict[str, tuple[float | None, float | None, float | None]] = {}
        changed = float(new.answer != clean.answer) if new.finished else None
        values["answer_changed"] = (None, changed, changed)
        if clean.answer is not None and case.may_follow(clean.answer):
            follows = float(new.answer == case.new) if new.finished else None
            neither = None if changed is None or follows is None else changed - follows
            values["follows_corrupted"] = (None, follows, follows)
            values["neither"] = (None, neither, neither)
        if gold is not None:
            before, after = (float(text.finished and is_correct(text.answer, gold)) for text in (clean, new))
            values["correct"] = (before, after, after - before)
        for metric, (before_value, after_value, value) in values.items():
            rows.append(
                {
                    **_about(trace, case),
                    "intervention": case.kind,
                    "metric": metric,
                    "clean": before_value,
                    "patched": after_value,
                    "value": value,
                }
            )
    return rows


def _about(trace: Trace, case: Corrupted) -> dict[str, Any]:
    return {
        "example": trace.example,
        "position": case.position,
        "position_end": case.position_end,
        "segment": Segment.REASONING,
        "token": case.old,
        "forced": case.new,
    }


def traced(
    lens: Lens, trace: Trace, case: Corrupted, clean: Written, new: Written, layers: Sequence[int]
) -> list[dict[str, Any]]:
    """NLD of patching clean activations into the corrupted run, by part of the sequence and layer; none where the two
    answers do not differ or the runs are not aligned. The prediction is that of the first token that differs."""
    differing = next((i for i, (a, b) in enumerate(zip(clean.ids, new.ids, strict=False)) if a != b), None)
    if differing is None or not case.aligned:
        return []
    close = trace[Segment.ANSWER].start
    shared = clean.ids[:differing]
    runs = [record(lens, [*ids, *shared]) for ids in (trace.token_ids[:close], case.ids)]
    source, target = runs
    answers = Answers(source.logits, target.logits, clean.ids[differing], new.ids[differing])
    stop = close + differing
    end_think = trace[Segment.END_THINK]
    parts = {
        "changed": range(case.position, case.position_end),
        "reasoning_after": range(case.position_end, end_think.start),
        "close": range(end_think.start, min(end_think.end, stop - 1)),
        "answer_before": range(close, stop - 1),
        "predicting": range(stop - 1, stop),
    }
    patches = [
        (role, Patch(Site.RESID_PRE, layer, tuple(positions)))
        for role, positions in parts.items()
        if len(positions)
        for layer in layers
    ]
    found = sweep(lens, target, source, [patch for _, patch in patches], answers.measure)
    return [
        {
            **_about(trace, case),
            "intervention": "patch_resid_pre",
            "layer": patch.layer,
            "position": patch.positions[0],
            "position_end": patch.positions[-1] + 1,
            "role": role,
            "metric": "nld",
            "clean": answers.ld_clean,
            "corrupted": answers.ld_corrupted,
            "value": or_null(value),
        }
        for (role, patch), value in zip(patches, found["nld"].tolist(), strict=True)
    ]


def places(trace: Trace, case: Corrupted) -> dict[str, str]:
    """Which third of the reasoning a change lies in, and in which sentence from the end (4 = the fourth or earlier)."""
    reasoning = trace[Segment.REASONING]
    third = 1 + int(3 * (case.position - reasoning.start) / max(1, len(reasoning)))
    steps = reasoning_sentences(trace)
    within = next((i for i, (start, stop) in enumerate(steps) if start <= case.position < stop), len(steps) - 1)
    return {"third": str(min(3, third)), "step_from_end": str(min(4, len(steps) - within))}


def summary_rows(effects: pd.DataFrame, traces: dict[str, Trace], seed: int) -> list[dict[str, Any]]:
    """The rows of corrupted.parquet."""
    cases = effects[effects["intervention"].isin(list(Corruption))].copy()
    where = [_places_of(traces[row["example"]], row) for row in records(cases)]
    for group in ("third", "step_from_end"):
        cases[group] = [place[group] for place in where]
    rows = []
    control = next((kind for kind in CONTROLS if (cases["intervention"] == kind).any()), None)
    for (kind, metric), part in cases.groupby(["intervention", "metric"], sort=False):
        controls = cases[(cases["intervention"] == control) & (cases["metric"] == metric)]
        pieces: list[tuple[str, str | None, pd.DataFrame]] = [("all", None, part)]
        for group in ("third", "step_from_end"):
            pieces += [(group, str(value), piece) for value, piece in part.groupby(group)]
        for group, value, piece in pieces:
            piece = piece.dropna(subset=["value"])
            if piece.empty:
                continue
            by_trace = piece.groupby("example")["value"].mean()
            estimate = bootstrap_mean(
                by_trace.to_numpy(dtype=float), rng_for(seed, "corrupted", kind, metric, group, value)
            )
            beside: dict[str, Any] = {}
            if group == "all" and kind != control:
                beside = _against(by_trace, controls, control, rng_for(seed, "signs", kind, metric))
            rows.append(
                {
                    "kind": kind, "group": group, "value_of_group": value, "metric": metric, "value": estimate.value,
                    "low": estimate.low, "high": estimate.high, **beside, "n": estimate.n, "n_cases": len(piece),
                }
            )  # fmt: skip
    adjust(rows)
    return rows


def _against(
    own: pd.Series, controls: pd.DataFrame, control: Corruption | None, rng: np.random.Generator
) -> dict[str, Any]:
    """A kind of change and the harmless one on the traces that have both: others say nothing of the difference."""
    both = pd.DataFrame({"own": own, "control": controls.groupby("example")["value"].mean()}).dropna()
    compared = Comparison.paired(both["own"].to_numpy(dtype=float), both["control"].to_numpy(dtype=float), rng)
    if compared is None:
        return {}
    found = compared.difference
    ends = {"difference_low": found.low, "difference_high": found.high}
    value = float(both["control"].mean())
    return {
        "control": control,
        "control_value": value,
        "difference": found.value,
        **ends,
        "n_paired": found.n,
        "p": compared.p,
    }


def _places_of(trace: Trace, row: dict[str, Any]) -> dict[str, str]:
    kind = Corruption(row["intervention"])
    case = Corrupted(kind, (), int(row["position"]), int(row["position_end"]), row["token"], row["forced"], False)
    return places(trace, case)
