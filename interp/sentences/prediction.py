"""How well cheap signals together foretell what a sentence does, on traces that the fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from interp.runs.columns import FLOAT, INT, TEXT, Column, Table
from interp.sentences.measure import CAUSAL
from interp.sentences.signals import SIGNALS
from interp.stats import Comparison, adjust, bootstrap_mean, rng_for

LEAST = 5
"""Reasonings with fewer sentences give no correlation."""
LEAST_TRACES = 4
"""With fewer, there is nothing to fit on."""
DIGITS, SIGNAL_DIGITS = 4, 8
"""Effects and signals are rounded to so many: what rounding leaves of nothing has no rank."""
PENALTY = 1.0
"""Of the ridge, in rows: a coefficient needs more than that many sentences' evidence."""
PERMUTATIONS = 199
"""A fit on all other traces errs against the one left out, so that signs of correlations are no fair coin."""
TOGETHER, PLACE, BEST = "together", "place", "best"
SENTENCE_PREDICTION_TABLE = Table(
    "sentence_prediction",
    Column("causal", TEXT, f"what is foretold: {', '.join(f'`{name}`' for name in CAUSAL)}"),
    Column(
        "by",
        TEXT,
        f"`{TOGETHER}`: all cheap signals, a ridge on their ranks; `{PLACE}` alone; `{BEST}`: the single signal that "
        "foretells it best on the other traces, place included",
    ),
    Column("value", FLOAT, "mean over held-out traces of the rank correlation of prediction and effect, -1..1"),
    Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
    Column("high", FLOAT, "upper end of it", null="n < 2"),
    Column(
        "p", FLOAT, f"share of {PERMUTATIONS} shuffles of the effects within traces that, fitted anew, give as much"
    ),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table"),
    Column("over_place", FLOAT, "how far it exceeds place alone, mean over traces", null="place itself"),
    Column("over_place_low", FLOAT, "lower end of its interval", null="place itself"),
    Column("over_place_high", FLOAT, "upper end of it", null="place itself"),
    Column("over_place_p", FLOAT, "two-sided sign-flip p-value of its being 0", null="place itself"),
    Column("chosen", TEXT, f"the signal that is `{BEST}` most often", null=f"not `{BEST}`"),
    Column("n", INT, "number of traces"),
)
Ranks = tuple[Float[np.ndarray, "sentence signal"], Float[np.ndarray, " sentence"]]
"""Of one trace, each between -1 and 1: the signals' and the effect's."""


def prediction_rows(sentences: pd.DataFrame, seed: int, permutations: int = PERMUTATIONS) -> list[dict[str, Any]]:
    """The rows of sentence_prediction.parquet: every trace is foretold by a fit on all others."""
    rows: list[dict[str, Any]] = []
    for causal in CAUSAL:
        traces = [ranks for _, of in sentences.groupby("example", sort=False) if (ranks := _ranks(of, causal))]
        if len(traces) < LEAST_TRACES:
            continue
        found, chosen = _held_out(traces)
        rng = rng_for(seed, "prediction", causal)
        shuffled = [_held_out([(x, rng.permutation(y)) for x, y in traces])[0] for _ in range(permutations)]
        for by in (TOGETHER, PLACE, BEST):
            rng = rng_for(seed, "prediction", causal, by)
            value = bootstrap_mean(found[by], rng)
            as_much = sum(one[by].mean() >= value.value - 1e-9 for one in shuffled)
            row = {"causal": causal, "by": by, "value": value.value, "low": value.low, "high": value.high}
            if by != PLACE:
                beside = Comparison.paired(found[by], found[PLACE], rng)
                if beside is not None:
                    more = beside.difference
                    row |= {"over_place": more.value, "over_place_low": more.low, "over_place_high": more.high}
                    row["over_place_p"] = beside.p
            if by == BEST:
                row["chosen"] = max(sorted(set(chosen)), key=chosen.count)
            rows.append({**row, "p": (1 + as_much) / (1 + permutations), "n": value.n})
    adjust(rows)
    return rows


def _held_out(traces: Sequence[Ranks]) -> tuple[dict[str, Float[np.ndarray, " trace"]], list[str]]:
    """The correlations of each way on every trace in turn, and the single signal that was chosen for it."""
    single = np.array([_correlation(x, y) for x, y in traces])
    place = SIGNALS.index("sentence")
    found: dict[str, list[float]] = {TOGETHER: [], PLACE: [], BEST: []}
    chosen = []
    squares, products = (
        np.array([x.T @ other for x, other in pairs]) for pairs in ([(x, x) for x, _ in traces], traces)
    )
    for held, (x, y) in enumerate(traces):
        fitted = np.linalg.solve(
            squares.sum(0) - squares[held] + PENALTY * np.eye(x.shape[1]), products.sum(0) - products[held]
        )
        found[TOGETHER].append(float(_correlation((x @ fitted)[:, None], y)[0]))
        means = np.delete(single, held, axis=0).mean(0)
        best = int(np.abs(means).argmax())
        chosen.append(SIGNALS[best])
        for by, j in ((PLACE, place), (BEST, best)):  # its sign is learnt from the others too
            found[by].append(float(np.sign(means[j]) * single[held, j]))
    return {by: np.array(values) for by, values in found.items()}, chosen


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


def _ranks(of: pd.DataFrame, causal: str) -> Ranks | None:
    """None for short reasonings and where all sentences have the same effect. A signal that is missing counts as its
    middle."""
    known = of.dropna(subset=[causal])
    effect = rounded(known, causal)
    if len(known) < LEAST or np.ptp(effect) == 0:
        return None
    signals = pd.DataFrame({name: rounded(known, name) for name in SIGNALS}).rank()
    n = len(known)
    centred = ((signals - (signals.max() + 1) / 2) * 2 / n).fillna(0.0)
    return centred.to_numpy(), (stats.rankdata(effect) - (n + 1) / 2) * 2 / n
