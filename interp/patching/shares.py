"""Effects as shares of a whole, as ratios of means over pairs: the logit difference moved, what goes through heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from interp.heads.scores import Head
from interp.patching.align import Role
from interp.patching.profiles import curves, select
from interp.runs.headlines import Headline
from interp.stats import (
    FEWEST,
    RESAMPLES,
    Comparison,
    Estimate,
    Sets,
    among_draws,
    layers_of,
    relabelled,
    rng_for,
    wide_enough,
)


def path_sets(rfhs: Sequence[Head], shape: tuple[int, ...], most: int, seed: int) -> Sets:
    """The random sets of heads, at most so many, beside the RFHs of a model of so many layers and heads: the same in
    every pair, for a statement about heads has heads as its unit."""
    layers, heads = shape
    every = [Head(layer, head) for layer in range(layers) for head in range(heads)]
    return relabelled([rfhs], layers_of(every), most, rng_for(seed, "paths"))


def moved(effects: pd.DataFrame, role: Role, layer: int, where: str, kind: str, seed: int) -> Headline:
    """The mean change of the logit difference as a share of the mean difference of the runs. Pairs whose runs hardly
    differ weigh as little as they say here; in the mean of NLD, a ratio by pair, they may outweigh all others."""
    part = curves(effects, role, metric="ld")[layer]
    control = curves(effects, role, metric="ld", control="unrelated_pair").get(layer)
    runs = select(effects, "patch_resid_pre", "ld", role).groupby("example", sort=False)[["clean", "corrupted"]].first()
    whole = runs["clean"] - runs["corrupted"]
    name = f"share of the logit difference moved, {where}, layer {layer}"
    found = _ratio(part, whole, rng_for(seed, "moved", role))
    if control is None:
        return Headline(name, found)
    compared = Comparison.paired(*_shares(part, control, whole), rng_for(seed, "moved", role, "paired"))
    return Headline(name, found, kind, _ratio(control, whole, rng_for(seed, "moved", role, "control")), compared)


def through(effects: pd.DataFrame, layer: int, sets: Sets, seed: int) -> list[Headline]:
    """Which share of the effect of the phrase's answer, patched at a layer, goes through the RFHs, beside the shares of
    the random sets. Its own interval is over pairs, that of its difference over sets."""
    whole = curves(effects, Role.PHRASE_ANSWER)[layer]
    own = curves(effects, Role.PHRASE_ANSWER, verb="through").get(layer)
    if own is None:
        return []
    share = _ratio(own, whole, rng_for(seed, "through"))
    rows = select(effects, "through_resid_pre", "nld", Role.PHRASE_ANSWER, sets.control)
    by_set = (rows[rows["layer"] == layer].groupby("draw")["value"].mean() / whole.mean()).to_numpy(dtype=float)
    name = f"share of the effect of the phrase's answer (layer {layer}) that goes through the RFHs"
    if not len(by_set):
        return [Headline(name, share)]
    return [Headline(name, share, sets.named, *among_draws(share.value, by_set))]


def _shares(part: pd.Series, control: pd.Series, whole: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """By pair, both as shares of the mean whole effect: a single pair's effect may be near 0."""
    mean = float(whole.mean())
    return (part / mean).to_numpy(dtype=float), (control.reindex(part.index) / mean).to_numpy(dtype=float)


def _ratio(part: pd.Series, whole: pd.Series, rng: np.random.Generator) -> Estimate:
    both = pd.concat([part, whole], axis=1, keys=["part", "whole"]).dropna()
    n = len(both)
    value = float(both["part"].mean() / both["whole"].mean())
    if n < FEWEST:
        return Estimate(value, n)
    interval = stats.bootstrap(
        (both["part"], both["whole"]), lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis), paired=True,
        vectorized=True, confidence_level=wide_enough(n), n_resamples=RESAMPLES, method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    return Estimate(value, n, float(interval.low), float(interval.high))
