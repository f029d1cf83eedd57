"""Over simulated tables without effect verdict functions say "agrees" in at most one in twenty; effects they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.ablation import findings as ablation
from interp.ablation.design import RFH, Design
from interp.ablation.interventions import AblationKind, Rows
from interp.grading import findings as grading
from interp.grading.outcomes import Outcome as Graded
from interp.grading.reasoning_effect import accuracy_rows, filter_rows, paired_rows
from interp.heads import findings as heads
from interp.heads.scores import Head
from interp.patching import findings as patching
from interp.perturb import findings as perturb
from interp.perturb.overlap import Scores
from interp.perturb.tables import METRICS, Problem, group_rows
from interp.runs.columns import COMMON, table_of
from interp.runs.verdicts import Outcome, Verdict
from interp.text.prompts import Condition
from interp.text.trace import Segment

SEEDS, MOST = 40, 2
LAYERS, HEADS = 6, 8


def frame(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of a table, with null wherever they say nothing."""
    columns = [column.name for column in (*table_of(name).columns, *COMMON)]
    found = pd.DataFrame(list(rows), columns=columns)
    return found.assign(seed=0, model="simulated", data="simulated", experiment="simulated")


def patched(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Patches move each pair by a number of its own, which those of an unrelated pair and elsewhere share."""
    rows = []
    for pair in range(12):
        own = rng.normal(0.2, 0.3)
        for layer in range(3):
            about = {"example": str(pair), "intervention": "patch_resid_pre", "layer": layer}
            for role, control in (
                ("phrase_answer", None),
                ("predicting", None),
                ("phrase_answer", "unrelated_pair"),
                ("predicting", "unrelated_pair"),
                (None, "random_position"),
            ):
                value = own + rng.normal(0, 0.2) + (effect if control is None else 0)
                rows.append({**about, "metric": "nld", "role": role, "control": control, "value": value})
            sides = {"clean": rng.normal(4, 1), "corrupted": rng.normal(-4, 1)}
            rows.append({**about, "metric": "ld", "role": "phrase_answer", "value": 0.0, **sides})
    return patching.findings(frame("effects", rows), [Head(0, 0)], (3, 4), 0).verdicts


def ablated(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Each head has an effect of its own on the answer; the listed ones, `effect` more."""
    design = Design([3], [AblationKind.ZERO], [Rows.ANSWER], ["answer_reasoning"], [True], 0, (), 60, False, 0, 6, 8)
    listed = [Head(1, 2), Head(2, 5), Head(4, 0)]
    of_head = {metric: rng.normal(0, 1, (LAYERS, HEADS)) for metric in ("ld", "kl")}
    for head in listed:
        of_head["ld"][head] -= effect
        of_head["kl"][head] += effect
    traces = rng.normal(0, 0.5, 10)
    rows = []
    for step in design.steps({RFH: listed}):
        (cut,) = step.interventions
        chosen = getattr(cut, "heads", None) or []
        for metric, values in of_head.items():
            for trace, base in enumerate(traces):
                value = np.mean([values[head] for head in chosen]) if len(chosen) else 0.0
                row = {"example": str(trace), "metric": metric, "value": value + base, "clean": 0.0}
                rows.append({**row, **step.labels.as_row(), "patched": value + base})
    tables = {"effects": frame("effects", rows), "cut_lists": frame("cut_lists", design.list_rows({RFH: listed}, 0))}
    return ablation.findings(tables.__getitem__, {RFH: listed}, 0, halves=True).verdicts


def looked(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """All heads look alike but for chance; with an effect five of the middle look at the reasoning and move along."""
    special = {Head(2, 1), Head(2, 4), Head(3, 0), Head(3, 6), Head(2, 7)}
    rows = []
    for trace in range(16):
        tilt = rng.normal(0, 0.3)
        for layer, head in np.ndindex(LAYERS, HEADS):
            more = effect if Head(layer, head) in special else 0.0
            raw = np.exp(rng.normal(0, 0.3, len(Segment)))
            raw[list(Segment).index(Segment.REASONING)] *= np.exp(tilt + more + effect / 2)
            masses = {f"answer_{s}": float(m) for s, m in zip(Segment, raw / raw.sum(), strict=True)}
            rows.append(
                {
                    "example": str(trace),
                    "layer": layer,
                    "head": head,
                    **masses,
                    "answer_reasoning_per_token": masses["answer_reasoning"] / 50,
                    "answer_prompt_per_token": masses["answer_prompt"] / 50,
                    "answer_reasoning_even": 1 / 6,
                    "trajectory": float(np.tanh(rng.normal(more, 0.5))),
                    "trajectory_weighted": float(np.tanh(rng.normal(more, 0.5))),
                }
            )
    table = frame("heads", rows)
    score = (table["answer_reasoning"] - table["answer_answer"]).to_numpy(dtype=float).reshape(16, LAYERS, HEADS)
    tables = {name: frame(name, []) for name in ("overlaps", "probes", "answers")} | {"heads": table}
    options = heads.FindingsOptions("difference", 5, 60, 20, [], 0)
    found = heads.findings(tables.__getitem__, {"difference": score}, options)
    return [one for one in found.verdicts if one.outcome is not Outcome.NOT_TESTED]


def answered(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Questions of any difficulty, right as often without reasoning."""
    rows = []
    for question, ease in enumerate(rng.random(40)):
        for condition, more in ((Condition.WITH_REASONING, effect), (Condition.WITHOUT_REASONING, 0.0)):
            right = bool(rng.random() < min(1.0, ease + more))
            about = {"example": str(question), "condition": condition, "sample": 0, "writer": "simulated"}
            text = {
                "outcome": Graded.CORRECT if right else Graded.WRONG,
                "finished": True,
                "words": 9,
                "correct": right,
            }
            rows.append({**about, **text})
    answers = frame("answers", rows)
    made = {"accuracy": accuracy_rows(answers, 0), "paired": paired_rows(answers, 0), "filters": filter_rows(answers)}
    tables = {name: frame(name, rows) for name, rows in made.items()}
    return grading.findings(tables.__getitem__, answers).verdicts


def forced(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Forcing a token costs overlap wherever it is; with an effect, more of it where FAI is high."""
    problems = []
    for problem in range(12):
        fai, entropy = rng.normal(size=60), rng.normal(size=60)
        own = rng.normal(0.8, 0.1, 60)
        overlap = own - rng.normal(0.2, 0.1) - effect * (fai > 1) + rng.normal(0, 0.1, 60)
        problems.append(Problem(str(problem), Scores({"fai": fai}, entropy), {"jaccard": overlap}, {"jaccard": own}))
    for one in problems:
        for metric in METRICS:
            one.effects.setdefault(metric, np.full(60, np.nan))
    tables = {
        "perturbed": frame("perturbed", group_rows(problems, ["fai"], 6, 0)),
        "predictors": frame("predictors", []),
    }
    return perturb.findings(tables.__getitem__, 6, ["fai"]).verdicts


SIMULATIONS: dict[str, tuple[Callable[[np.random.Generator, float], list[Verdict]], float]] = {
    "patching": (patched, 0.5),
    "ablation": (ablated, 4.0),
    "heads": (looked, 1.5),
    "perturb": (forced, 0.2),
    "evaluate": (answered, 0.6),
}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_without_effect_hardly_any_claim_agrees(name: str) -> None:
    simulate, _ = SIMULATIONS[name]
    agreed: Counter[str] = Counter()
    for seed in range(SEEDS):
        agreed.update(one.claim for one in simulate(np.random.default_rng(seed), 0.0) if one.outcome is Outcome.AGREES)
    assert not agreed or max(agreed.values()) <= MOST, agreed


@pytest.mark.parametrize("name", SIMULATIONS)
def test_effects_are_found(name: str) -> None:
    simulate, effect = SIMULATIONS[name]
    found = [one for seed in range(5) for one in simulate(np.random.default_rng(seed), effect)]
    assert found
    agreed = [one.claim for one in found if one.outcome is Outcome.AGREES]
    assert len(agreed) >= 0.8 * len(found), [(one.claim, one.outcome) for one in found]
