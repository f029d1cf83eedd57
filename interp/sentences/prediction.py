"""How well cheap signals together foretell what a sentence does, on traces that the fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.sentences.measure import CAUSAL
from interp.sentences.signals import SIGNALS
from interp.stats import adjust, bootstrap_mean, rng_for

LEAST = 5
"""Reasonings with fewer sentences give no correlation."""
LEAST_TRACES = 4
"""With fewer, there is nothing to fit on."""
LEAST_FOR_INTERVAL = 10
"""With fewer, intervals of a difference of two fits lie above 0 by chance several times as often as they say."""
DIGITS, SIGNAL_DIGITS = 4, 8
"""Effects and signals are rounded to so many: what rounding leaves of nothing has no rank."""
PENALTY = 1.0
"""Of the ridge, in rows: a coefficient needs more than that many sentences' evidence."""
SHIFTS = 199
"""Neither signs of held-out correlations nor single sentences are fair coins: a fit on all other traces errs against
the one left out, and neighbours resemble one another. So effects are shifted along the trace and all fitted anew."""
TOGETHER, PLACE, BEST = "together", "place", "best"
SENTENCE_PREDICTION_TABLE = Table(
    "sentence_prediction",
    Column("causal", TEXT, f"what is foretold: {', '.join(f'`{name}`' for name in CAUSAL)}"),
    Column(
        "by",
        TEXT,
        f"`{TOGETHER}`: all cheap signals and place, a ridge on their ranks; `{PLACE}`: place alone, bent, with its "
        f"ends apart; `{BEST}`: the single signal but place that foretells it best on the other traces",
    ),
    Column("value", FLOAT, "mean over held-out traces of the rank correlation of prediction and effect, -1..1"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("p", FLOAT, f"share of {SHIFTS} shifts of the effects along each trace that, fitted anew, give as much"),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table"),
    Column("over_place", FLOAT, "how far it exceeds place alone, mean over traces", null="place itself"),
    *ends("over_place_", "its interval", null=f"place itself, or n < {LEAST_FOR_INTERVAL}"),
    Column("chosen", TEXT, f"the signal that is `{BEST}` most often", null=f"not `{BEST}`"),
    Column("n", INT, "number of traces"),
)


@dataclass(frozen=True)
class _Ranked:
    """One trace: ranks between -1 and 1, of mean 0."""

    signals: Float[np.ndarray, "sentence signal"]
    place: Float[np.ndarray, "sentence feature"]
    effect: Float[np.ndarray, " sentence"]

    @property
    def together(self) -> Float[np.ndarray, "sentence feature"]:
        return np.concatenate([self.signals, self.place], axis=1)

    def shifted(self, by: int) -> _Ranked:
        """With its effects moved along the trace in a circle."""
        return replace(self, effect=np.roll(self.effect, by))


def prediction_rows(sentences: pd.DataFrame, seed: int, shifts: int = SHIFTS) -> list[dict[str, Any]]:
    """The rows of sentence_prediction.parquet: every trace is foretold by a fit on all others."""
    rows: list[dict[str, Any]] = []
    for causal in CAUSAL:
        by_trace = (_ranked(of, causal) for _, of in sentences.groupby("example", sort=False))
        traces = [one for one in by_trace if one is not None]
        if len(traces) < LEAST_TRACES:
            continue
        found, chosen = _held_out(traces)
        rng = rng_for(seed, "prediction", causal)
        by_chance = [_by_chance(traces, rng) for _ in range(shifts)]
        for by in (TOGETHER, PLACE, BEST):
            rng = rng_for(seed, "prediction", causal, by)
            value = bootstrap_mean(found[by], rng)
            row = {"causal": causal, "by": by, "value": value.value, "low": value.low, "high": value.high}
            row["p"] = _p(value.value, [one[by] for one in by_chance])
            if by != PLACE:
                more = bootstrap_mean(found[by] - found[PLACE], rng)
                known = more.n >= LEAST_FOR_INTERVAL
                row |= {"over_place": more.value}
                ends_of = (more.low, more.high) if known else (None, None)
                row |= dict(zip(("over_place_low", "over_place_high"), ends_of, strict=True))
            if by == BEST:
                row["chosen"] = max(sorted(set(chosen)), key=chosen.count)
            rows.append({**row, "n": value.n})
    adjust(rows)
    return rows


def _by_chance(traces: Sequence[_Ranked], rng: np.random.Generator) -> dict[str, float]:
    """The mean of each way where the effects are shifted along their traces."""
    moved = [one.shifted(int(rng.integers(1, len(one.effect)))) for one in traces]
    return {by: float(values.mean()) for by, values in _held_out(moved)[0].items()}


def _p(value: float, by_chance: Sequence[float]) -> float:
    return (1 + sum(one >= value - 1e-9 for one in by_chance)) / (1 + len(by_chance))


def _held_out(traces: Sequence[_Ranked]) -> tuple[dict[str, Float[np.ndarray, " trace"]], list[str]]:
    """The correlations of each way on every trace in turn, and the single signal that was chosen for it."""
    effects = [one.effect for one in traces]
    single = np.array([_correlation(one.signals, one.effect) for one in traces])
    best, chosen = [], []
    for held in range(len(traces)):
        means = np.delete(single, held, axis=0).mean(0)
        means[SIGNALS.index("sentence")] = 0.0  # place is a way of its own
        j = int(np.abs(means).argmax())
        chosen.append(SIGNALS[j])
        best.append(float(np.sign(means[j]) * single[held, j]))  # its sign is learnt from the others too
    fits = {TOGETHER: [one.together for one in traces], PLACE: [one.place for one in traces]}
    return {by: _by_ridge(of, effects) for by, of in fits.items()} | {BEST: np.array(best)}, chosen


def _by_ridge(
    features: Sequence[Float[np.ndarray, "sentence k"]], effects: Sequence[Float[np.ndarray, " sentence"]]
) -> Float[np.ndarray, " trace"]:
    """How a ridge on all other traces does on each."""
    squares = np.array([x.T @ x for x in features])
    products = np.array([x.T @ y for x, y in zip(features, effects, strict=True)])
    penalty, found = PENALTY * np.eye(squares.shape[1]), []
    for held, (x, y) in enumerate(zip(features, effects, strict=True)):
        fitted = np.linalg.solve(squares.sum(0) - squares[held] + penalty, products.sum(0) - products[held])
        found.append(float(_correlation((x @ fitted)[:, None], y)[0]))
    return np.array(found)


def _correlation(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Spearman's, of each column; 0 where a prediction does not tell sentences apart."""
    ranks, own = stats.rankdata(x.round(9), axis=0), stats.rankdata(y)
    ranks, own = ranks - ranks.mean(0), own - own.mean()
    length = np.linalg.norm(ranks, axis=0) * np.linalg.norm(own)
    found: np.ndarray = np.divide(own @ ranks, length, out=np.zeros(ranks.shape[1]), where=length > 0)
    return found


def rounded(of: pd.DataFrame, column: str) -> Float[np.ndarray, " sentence"]:
    """An effect or a signal without what rounding errors make of nothing."""
    values: np.ndarray = of[column].to_numpy(dtype=float)
    return values.round(DIGITS if column in CAUSAL else SIGNAL_DIGITS)


def _ranked(of: pd.DataFrame, causal: str) -> _Ranked | None:
    """None for short reasonings and where all sentences have the same effect. A signal that is missing counts as the
    mean of the others."""
    known = of.dropna(subset=[causal])
    effect, n = rounded(known, causal), len(known)
    if n < LEAST or np.ptp(effect) == 0:
        return None
    ranks = pd.DataFrame({name: rounded(known, name) for name in SIGNALS}).rank()
    signals = ((ranks - ranks.mean()) * 2 / n).fillna(0.0).to_numpy()
    place = np.linspace(-1, 1, n)
    ends = np.eye(n)[:, [0, 1, n - 3, n - 2, n - 1]]
    features = np.column_stack([place, place**2, ends])
    return _Ranked(signals, features - features.mean(0), (stats.rankdata(effect) - (n + 1) / 2) * 2 / n)
