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
from interp.credit import compare as credit
from interp.credit.study import REFERENCE, Training
from interp.grading import findings as grading
from interp.grading.outcomes import Outcome as Graded
from interp.grading.reasoning_effect import accuracy_rows, filter_rows, paired_rows
from interp.heads import findings as heads
from interp.heads.scores import Head
from interp.key_tokens import findings as key_tokens
from interp.key_tokens.corruptions import Corruption
from interp.key_tokens.effects import summary_rows
from interp.patching import findings as patching
from interp.perturb import findings as perturb
from interp.perturb.overlap import Scores
from interp.perturb.tables import METRICS, Problem, group_rows
from interp.rhythm import findings as rhythm
from interp.rhythm.couplings import Peaks
from interp.rhythm.head_controls import control_rows, control_sets
from interp.rhythm.head_sets import HeadSets
from interp.rhythm.tables import Analysis, boundary_rows, coupling_rows
from interp.rhythm.waad_fai import HeadCurves, Sinks
from interp.runs.columns import COMMON, table_of
from interp.runs.verdicts import Outcome, Verdict
from interp.stats import Sets
from interp.text.prompts import Condition
from interp.text.trace import Segment, Span, Trace

SEEDS, MOST = 40, 4
"""Of 40 draws at 2.5 % there are more in one case of 300."""
LAYERS, HEADS = 6, 8


def frame(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of a table, with null wherever they say nothing."""
    columns = [column.name for column in (*table_of(name).columns, *COMMON)]
    found = pd.DataFrame(list(rows), columns=columns)
    return found.assign(seed=0, model="simulated", data="simulated", experiment="simulated")


def patched(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Patches move each pair by a number of its own, which those of an unrelated pair and elsewhere share."""
    rows, preferred = [], []
    for pair in range(12):
        own = rng.normal(0.2, 0.3)
        sides = {"clean": rng.normal(4, 1), "corrupted": rng.normal(-4, 1)}
        preferred.append({"example": str(pair), "kept": True, **sides})
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
                moved = value * (sides["clean"] - sides["corrupted"])
                rows.append({**about, "metric": "ld", "role": role, "control": control, "value": moved, **sides})
    tables = frame("effects", rows), frame("preferences", preferred)
    return patching.findings(*tables, [Head(0, 0)], Sets([], True), (3, 4), 0).verdicts


def ablated(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Few heads do anything to the answer; the listed ones, which differ between the halves of the traces by one, do
    `effect` more."""
    design = Design([3], [AblationKind.ZERO], [Rows.ANSWER], ["answer_reasoning"], [True], 0, (), 60, False, 0, 6, 8)
    listed = [Head(1, 2), Head(2, 5), Head(4, 0)]
    halves = [{RFH: listed}, {RFH: [*listed[:2], Head(3, 3)]}]
    sizes = {metric: rng.exponential(size=(LAYERS, HEADS)) for metric in ("ld", "kl")}
    of_head = {metric: size * (rng.random((LAYERS, HEADS)) < 0.1) for metric, size in sizes.items()}
    of_head["ld"] *= -1
    for head in {*halves[0][RFH], *halves[1][RFH]}:
        of_head["ld"][head] -= effect
        of_head["kl"][head] += effect
    traces = rng.normal(0, 0.5, 10)
    rows = []
    for half in (0, 1):
        for step in design.steps(halves, half):
            (cut,) = step.interventions
            chosen = getattr(cut, "heads", None) or []
            for metric, values in of_head.items():
                for trace, base in list(enumerate(traces))[half::2]:
                    value = np.mean([values[head] for head in chosen]) if len(chosen) else 0.0
                    row = {"example": str(trace), "metric": metric, "value": value + base, "clean": 0.0}
                    rows.append({**row, **step.labels.as_row(), "patched": value + base})
    tables = {"effects": frame("effects", rows), "cut_lists": frame("cut_lists", design.list_rows(halves[0], 0))}
    return ablation.findings(tables.__getitem__, {RFH: listed}, 0, halves=True).verdicts


def looked(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """All heads look alike but for chance, and move each in its own way; with an effect five of the middle look at the
    reasoning and move along."""
    special = {Head(2, 1), Head(2, 4), Head(3, 0), Head(3, 6), Head(2, 7)}
    own = rng.normal(0, 0.4, (LAYERS, HEADS))
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
                    "trajectory": float(np.tanh(rng.normal(more + own[layer, head], 0.5))),
                    "trajectory_weighted": float(np.tanh(rng.normal(more + own[layer, head], 0.5))),
                }
            )
    table = frame("heads", rows)
    score = (table["answer_reasoning"] - table["answer_answer"]).to_numpy(dtype=float).reshape(16, LAYERS, HEADS)
    tables = {name: frame(name, []) for name in ("overlaps", "probes", "answers", "unrelated")} | {"heads": table}
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
        "thirds": frame("thirds", []),
        "tokens": frame(
            "tokens",
            [{"example": one.example, "fai_to_end": fai} for one in problems for fai in one.scores.values["fai"]],
        ),
    }
    return perturb.findings(tables.__getitem__, 6, ["fai"]).verdicts


def changed(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Answers change as easily with any change of a trace's reasoning; with an effect, more with a number's."""
    text = "p[One 1. Two 2. Six 3.]a"
    ends = {Segment.PROMPT: 1, Segment.THINK: 2, Segment.REASONING: 22, Segment.END_THINK: 23, Segment.ANSWER: 24}
    starts = dict(zip(ends, [0, *ends.values()], strict=False))
    spans = (Span(Segment.BOS, 0, 0), *(Span(segment, starts[segment], end) for segment, end in ends.items()))
    rows, traces = [], {}
    for trace in map(str, range(16)):
        offsets = tuple((i, i + 1) for i in range(len(text)))
        traces[trace] = Trace(trace, text, tuple(range(len(text))), offsets, spans, "simulated")
        ease = rng.uniform(0, 0.6)
        for kind, more in ((Corruption.NUMBER, effect), (Corruption.INERT, 0.0)):
            for position in (6, 13, 20):
                value = float(rng.random() < ease + more)
                about = {"example": trace, "position": position, "position_end": position + 1, "token": "1"}
                what = {"intervention": kind, "forced": "2", "metric": "answer_changed", "value": value}
                rows.append({**about, **what})
    effects = frame("effects", rows)
    tables = {"effects": effects, "corrupted": frame("corrupted", summary_rows(effects, traces, 0))}
    return key_tokens.findings(tables.__getitem__).verdicts


def paced(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Curves that wander by themselves; with an effect, what a beat does to some heads, sentences and entropy."""
    tokens, traces, layers, heads = 90, 12, 6, 12
    special = [Head(layer, 0) for layer in range(3)], [Head(layer, 1) for layer in range(3)]
    receivers = [Head(layer, 0) for layer in range(3, 6)]
    sets = HeadSets("all", Sinks.KEPT, *special, receivers)
    far = special[1] + receivers
    controls = control_sets(sets, range(layers), heads, 40, 0)
    rows: dict[str, list[dict[str, Any]]] = {"tokens": [], "curves": [], "head_controls": []}

    def wander(*shape: int) -> np.ndarray:
        noise = rng.normal(size=(*shape, tokens + 4))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(noise, 5, axis=-1).mean(-1)) * np.sqrt(5)

    for trace in map(str, range(traces)):
        beat, starts = (np.zeros(tokens) for _ in range(2))
        beat[rng.choice(np.arange(2, tokens - 2, 6), 9, replace=False)] = 1
        starts[[0, *(np.flatnonzero(beat) if effect else rng.choice(np.arange(1, tokens), 9, replace=False))]] = 1
        entropy = wander() + effect * beat
        own = {name: wander(layers, heads) for name in ("waad", "fai", "fai_to_end")}
        for kind, chosen in {"waad": special[0], "fai": far, "fai_to_end": far}.items():
            for head in chosen:
                own[kind][head] += effect * beat
        curves = HeadCurves(**own, distance=np.zeros((layers, heads)), kurtosis=np.zeros((layers, heads)))
        mine = {name: curves.over(special[name != "waad"], name) for name in own}
        mine |= {f"receiver_{name}": curves.over(receivers, name) for name in ("fai", "fai_to_end")}
        rows["curves"].append({"example": trace, "layers": "all", "sinks": Sinks.KEPT, "position": 0, **mine})
        sentence = np.cumsum(starts).astype(int)
        marks = {"waad_peak": "waad", "fai_peak": "fai_to_end", "receiver_peak": "receiver_fai_to_end"}
        peaks = {name: Peaks().of(mine[curve]) for name, curve in marks.items()}
        for i in range(tokens):
            about = {"example": trace, "position": i, "token": "a", "type": "word", "sentence": int(sentence[i])}
            found = {name: bool(values[i]) for name, values in peaks.items()}
            found |= {f"{boundary}_start": bool(starts[i]) for boundary in ("sentence", "clause", "step")}
            values = {"entropy": float(entropy[i]), **{name: float(mine[name][i]) for name in ("waad", "fai_to_end")}}
            rows["tokens"].append({**about, **found, **values})
        rows["head_controls"] += control_rows(trace, curves, controls, entropy, sentence, starts > 0, Peaks())
    tables = {name: frame(name, made) for name, made in rows.items()}
    analysis = Analysis(shares=(), sentence_draws=0)
    tables["couplings"] = frame("couplings", coupling_rows(tables["curves"], tables["tokens"], analysis))
    tables["boundaries"] = frame("boundaries", boundary_rows(tables["tokens"], analysis))
    tables["head_sets"] = frame(
        "head_sets", [{"layers": "all", "sinks": Sinks.KEPT, "kind": "local", "layer": 0, "head": 0}]
    )
    tables["partial_effects"] = frame("partial_effects", [])
    return rhythm.findings(tables.__getitem__, 0, "all", Sinks.KEPT).verdicts


def trained(rng: np.random.Generator, effect: float) -> list[Verdict]:
    """Trainings of three arms that end anywhere; with an effect, coupled ones higher and bottom ones lower."""
    arms = {REFERENCE: 0.0, "coupled": effect, "random": 0.0, "coupled, end bottom": -effect}
    trainings = []
    for seed in range(8):
        ease = rng.normal(0.5, 0.1)
        for arm, more in arms.items():
            ends = {0: 0.3, 10: ease + more + rng.normal(0, 0.05)}
            rows = [{"step": step, "measure": "accuracy", "value": value} for step, value in ends.items()]
            trainings.append(Training(arm, seed, frame("training", rows), 0.0))
    return credit.verdicts(trainings)


SIMULATIONS: dict[str, tuple[Callable[[np.random.Generator, float], list[Verdict]], float]] = {
    "patching": (patched, 0.5),
    "ablation": (ablated, 4.0),
    "heads": (looked, 1.5),
    "perturb": (forced, 0.2),
    "evaluate": (answered, 0.6),
    "key_tokens": (changed, 0.4),
    "rhythm": (paced, 6.0),
    "credit": (trained, 0.2),
}


def test_the_bottom_arm_has_two_names() -> None:
    rows = [{"step": 0, "measure": "accuracy", "value": 0.5}, {"step": 1, "measure": "accuracy", "value": 0.4}]
    for name in ("bottom", "coupled, end bottom"):
        trainings = [Training(arm, seed, frame("training", rows), 0.0) for arm in (REFERENCE, name) for seed in (0, 1)]
        (found,) = (one for one in credit.verdicts(trainings) if one.claim == "B6.bottom")
        assert found.outcome is not Outcome.NOT_TESTED


@pytest.mark.parametrize("name", SIMULATIONS)
def test_without_effect_hardly_any_claim_agrees_or_is_opposite(name: str) -> None:
    simulate, _ = SIMULATIONS[name]
    decided: Counter[tuple[str, Outcome]] = Counter()
    for seed in range(SEEDS):
        found = simulate(np.random.default_rng(seed), 0.0)
        decided.update((one.claim, one.outcome) for one in found if one.outcome in (Outcome.AGREES, Outcome.OPPOSITE))
    assert not decided or max(decided.values()) <= MOST, decided


@pytest.mark.parametrize("name", SIMULATIONS)
def test_effects_are_found(name: str) -> None:
    simulate, effect = SIMULATIONS[name]
    found = [one for seed in range(5) for one in simulate(np.random.default_rng(seed), effect)]
    assert found
    agreed = [one.claim for one in found if one.outcome is Outcome.AGREES]
    assert len(agreed) >= 0.8 * len(found), [(one.claim, one.outcome) for one in found]
