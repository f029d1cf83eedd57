"""The hand-over (Paper A, Fig. 8): the answer moves from the reasoning's token to the predicting one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.stats import RESAMPLES, Estimate, around

Curves = Float[np.ndarray, "pair layer"]


def falls_below_half(curve: Float[np.ndarray, " layer"]) -> float:
    """First layer, after the one with its peak, where a curve lies below half of that peak; NaN if there is none.

    Interpolated between layers, so a fraction of a layer is possible. A curve that never rises above 0 has no peak.
    """
    peak = int(np.argmax(curve))
    return _crossing(-curve[peak:], -curve[peak] / 2) + peak if curve[peak] > 0 else np.nan


def rises_above_half(curve: Float[np.ndarray, " layer"]) -> float:
    """First layer where a curve lies above half of its peak; NaN if it never rises above 0."""
    peak = float(np.max(curve))
    return _crossing(curve, peak / 2) if peak > 0 else np.nan


def _crossing(curve: Float[np.ndarray, " layer"], level: float) -> float:
    above = np.flatnonzero(curve > level)
    if not len(above):
        return np.nan
    i = int(above[0])
    if i == 0:
        return 0.0
    return float(i - (curve[i] - level) / (curve[i] - curve[i - 1]))


@dataclass(frozen=True)
class HandOver:
    """Layers, with 95 % intervals over pairs (the curves' mean is made again in each resample of the pairs)."""

    token_falls: Estimate
    """Where the reasoning token's effect falls below half of its peak."""
    predicting_rises: Estimate
    """Where the predicting token's effect rises above half of its peak."""


def hand_over(
    token: Curves, predicting: Curves, rng: np.random.Generator, layers: Sequence[int] | None = None
) -> HandOver:
    """The hand-over of the mean curves. Both have the same pairs in the same order, and the same layers: `layers`
    (ascending; None = 0, 1, ...). A curve that lies above half where patching begins, past layer 0, rose before: NaN.
    """
    n = len(token)
    draws = rng.integers(n, size=(RESAMPLES, n))
    known = np.arange(token.shape[1]) if layers is None else np.asarray(layers)

    def layer_of(place: float) -> float:
        return np.nan if place == 0 and known[0] > 0 else float(np.interp(place, np.arange(len(known)), known))

    def estimate(curves: Curves, find: Callable[[np.ndarray], float]) -> Estimate:
        value = layer_of(find(curves.mean(axis=0)))
        return around(value, np.array([layer_of(find(curves[draw].mean(axis=0))) for draw in draws]), n)

    return HandOver(estimate(token, falls_below_half), estimate(predicting, rises_above_half))


def mean_layer(heads: Sequence[tuple[int, int]]) -> float:
    """Mean layer of a set of heads."""
    return float(np.mean([layer for layer, _ in heads]))
