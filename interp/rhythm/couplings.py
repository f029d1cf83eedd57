"""The preplan-and-anchor rhythm: peaks, couplings with null models, lags, partial effects (Paper B, section 4.2).

Every coupling asks the same thing: is a value higher at certain events (peaks of one curve) than over all tokens? It is
measured trace by trace and averaged over traces, so that long traces do not count more.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import signal, stats

from interp.heads.reductions import LEAST
from interp.stats import FEWEST, RESAMPLES, Estimate, bootstrap_mean, rng_for, wide_enough

NULL_DRAWS = 2000
MIN_TOKENS = 20
"""Traces with fewer tokens than this where both curves are defined say nothing about a rhythm."""


class PeakRule(StrEnum):
    """Which tokens are peaks of a curve; the paper does not say."""

    PROMINENCE = "prominence"
    """Local maxima that stand out by a share of the curve's standard deviation (scipy's find_peaks)."""
    QUANTILE = "quantile"
    """The tokens with the highest values."""


@dataclass(frozen=True)
class Peaks:
    """How peaks are found: `prominence` in standard deviations of the curve, `share` of tokens from 0 to 1."""

    rule: PeakRule = PeakRule.PROMINENCE
    prominence: float = 0.5
    share: float = 0.2

    def possible(self, curve: Float[np.ndarray, " token"]) -> Bool[np.ndarray, " token"]:
        """The tokens that may be peaks: where the curve is known, and no first or last one of a curve whose peaks are
        local maxima. A null that puts peaks on others as well, or counts these, finds couplings in noise."""
        marks = ~np.isnan(curve)
        if self.rule == PeakRule.PROMINENCE:
            known = np.flatnonzero(marks)
            marks[known[:1]] = marks[known[-1:]] = False
        return marks

    def of(self, curve: Float[np.ndarray, " token"]) -> Bool[np.ndarray, " token"]:
        """The peaks, all among the `possible`. A curve that varies by LEAST or less has none."""
        marks = np.zeros(len(curve), dtype=bool)
        known = np.flatnonzero(~np.isnan(curve))
        values = curve[known]
        # Neither what is flat but for rounding has peaks nor what is nothing beside a whole weight of attention.
        if len(known) < 3 or np.ptp(values) <= max(1e-9 * np.abs(values).max(), LEAST):
            return marks
        if self.rule == PeakRule.PROMINENCE:
            found, _ = signal.find_peaks(values, prominence=self.prominence * values.std())
            marks[known[found]] = True
        else:
            n = max(1, round(self.share * len(known)))
            marks[known[np.argsort(-values, kind="stable")[:n]]] = True
        return marks


@dataclass(frozen=True)
class Curves:
    """What one trace's response looks like to one set of heads; NaN where a measure is undefined."""

    waad: Float[np.ndarray, " token"]
    fai: Float[np.ndarray, " token"]
    receiver: Float[np.ndarray, " token"]
    """FAI by receiver heads."""
    entropy: Float[np.ndarray, " token"]
    sentence: Int[np.ndarray, " token"]


class Coupling(StrEnum):
    """The couplings of Paper B, Table 2."""

    ENTROPY = "entropy_at_waad_peaks"
    """(1) Entropy of the prediction at WAAD peaks, in nats, against that over all tokens."""
    RECEIVER = "receiver_peaks_in_fai_peaks"
    """(2) Share of the receiver heads' FAI peaks that are also FAI peaks, against the share of FAI peaks."""
    FOLLOWING = "fai_peaks_at_or_after_waad_peaks"
    """(3) Share of FAI peaks with a WAAD peak at the same or the previous token, against that share of all tokens."""


@dataclass(frozen=True)
class Coupled:
    """One trace's events and values, over the tokens where each may be."""

    events: Bool[np.ndarray, " token"]
    values: Float[np.ndarray, " token"]
    sentence: Int[np.ndarray, " token"]

    @property
    def observed(self) -> float:
        return float(self.values[self.events].mean())

    @property
    def baseline(self) -> float:
        """The same at random tokens: the mean over all of them."""
        return float(self.values.mean())

    def shifted(self) -> Float[np.ndarray, " shift"]:
        """`observed` after each circular shift of the values: keeps the spacing and the autocorrelation of both."""
        n = len(self.values)
        spectrum = np.fft.rfft(self.values) * np.conj(np.fft.rfft(self.events.astype(float)))
        return np.fft.irfft(spectrum, n) / self.events.sum()

    def permuted_in_sentences(self, draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draw"]:
        """`observed` after permuting the values within each sentence: keeps what makes whole sentences differ."""
        noise = rng.random((draws, len(self.values)))
        order = np.argsort(self.sentence + noise, axis=1)
        return self.values[order][:, self.events].mean(axis=1)


def coupled(coupling: Coupling, curves: Curves, peaks: Peaks) -> Coupled | None:
    """The events and values of a coupling, over the tokens that may be an event and have a value that may be any; None
    without events or with fewer than MIN_TOKENS such tokens."""
    may, marked = peaks.possible, peaks.of
    match coupling:
        case Coupling.ENTROPY:
            events, kept = marked(curves.waad), may(curves.waad) & ~np.isnan(curves.entropy)
            values = curves.entropy
        case Coupling.RECEIVER:
            events, kept = marked(curves.receiver), may(curves.receiver) & may(curves.fai)
            values = marked(curves.fai)
        case Coupling.FOLLOWING:
            events, kept = marked(curves.fai), may(curves.fai) & behind_possible(may(curves.waad))
            values = onset_window(marked(curves.waad))
    if kept.sum() < MIN_TOKENS or not events[kept].any():
        return None
    return Coupled(events[kept], values[kept].astype(float), curves.sentence[kept])


def onset_window(waad_peaks: Bool[np.ndarray, " token"]) -> Bool[np.ndarray, " token"]:
    """Tokens that are a WAAD peak or directly follow one."""
    return waad_peaks | np.concatenate([[False], waad_peaks[:-1]])


def behind_possible(possible: Bool[np.ndarray, " token"]) -> Bool[np.ndarray, " token"]:
    """Tokens whose `onset_window` is whole: they and those before them may be peaks."""
    return possible & np.concatenate([[False], possible[:-1]])


@dataclass(frozen=True)
class CouplingResult:
    """A coupling over traces. `lift` = observed / baseline - 1; p-values are two-sided."""

    observed: Estimate
    baseline: float
    lift: Estimate
    p_shift: float | None
    p_sentence: float | None
    null_low: float | None
    """Lower end of the middle 95 % of `observed` under circular shifts."""
    null_high: float | None
    n_events: int

    def as_row(self) -> dict[str, Any]:
        """Columns of couplings.parquet."""
        return {
            "value": self.observed.value,
            "low": self.observed.low,
            "high": self.observed.high,
            "baseline": self.baseline,
            "lift": self.lift.value,
            "lift_low": self.lift.low,
            "lift_high": self.lift.high,
            "null_low": self.null_low,
            "null_high": self.null_high,
            "p_shift": self.p_shift,
            "p_sentence": self.p_sentence,
            "n": self.observed.n,
            "n_events": self.n_events,
        }


def couple(traces: Sequence[Coupled], seed: int, *labels: object, sentence_draws: int = 200) -> CouplingResult | None:
    """A coupling averaged over traces with its interval (bootstrap over traces) and both nulls; None for no trace.

    A null draw takes one random shift (or one permutation) of every trace and averages over traces as the observed
    value does.
    """
    if not traces:
        return None
    rng = rng_for(seed, "coupling", *labels)
    observed = np.array([t.observed for t in traces])
    baseline = np.array([t.baseline for t in traces])
    shifted = np.mean([rng.choice(t.shifted(), NULL_DRAWS) for t in traces], axis=0)
    p_sentence = None
    if sentence_draws:
        in_sentences = np.mean([t.permuted_in_sentences(sentence_draws, rng) for t in traces], axis=0)
        p_sentence = two_sided(observed.mean(), in_sentences)
    low, high = np.quantile(shifted, [0.025, 0.975])
    return CouplingResult(
        bootstrap_mean(observed, rng),
        float(baseline.mean()),
        ratio_lift(observed, baseline, rng),
        two_sided(observed.mean(), shifted),
        p_sentence,
        float(low),
        float(high),
        int(sum(t.events.sum() for t in traces)),
    )


def two_sided(value: float, null: Float[np.ndarray, " draw"]) -> float:
    """Monte Carlo p-value: twice the smaller tail, the observed value counted as one of the draws; at most 1."""
    slack = 1e-12 * max(1.0, abs(value))
    tails = ((null >= value - slack).sum(), (null <= value + slack).sum())
    return float(min(1.0, 2 * (min(tails) + 1) / (len(null) + 1)))


def ratio_lift(
    observed: Float[np.ndarray, " trace"], baseline: Float[np.ndarray, " trace"], rng: np.random.Generator
) -> Estimate:
    """Mean observed / mean baseline - 1 with a bootstrap interval over traces, both resampled together."""
    if baseline.mean() == 0:
        return Estimate(float("nan"), len(observed))
    value = float(observed.mean() / baseline.mean() - 1)
    if len(observed) < FEWEST:
        return Estimate(value, len(observed))
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (observed, baseline),
            lambda o, b, axis: o.mean(axis=axis) / b.mean(axis=axis) - 1,
            paired=True,
            vectorized=True,
            confidence_level=wide_enough(len(observed)),
            n_resamples=RESAMPLES,
            method="percentile",
            rng=rng,
        ).confidence_interval
    if not np.isfinite([interval.low, interval.high]).all():
        return Estimate(value, len(observed))  # some resamples have a baseline of 0
    return Estimate(value, len(observed), float(interval.low), float(interval.high))


@dataclass(frozen=True)
class LagPoint:
    """A curve around the events of another one, relative to its mean over the trace."""

    lag: int
    ratio: Estimate
    null_low: float
    null_high: float


def lag_curve(
    pairs: Sequence[tuple[Bool[np.ndarray, " token"], Float[np.ndarray, " token"]]],
    lags: range,
    seed: int,
    *labels: object,
) -> list[LagPoint]:
    """Mean of a curve `lag` tokens after each event, divided by the curve's mean, over traces; 1 = no relation.

    The band is the middle 95 % under one circular shift per trace; it is the same at all lags. Traces without events,
    with fewer than MIN_TOKENS defined tokens or with a mean of 0 are left out.
    """
    rng = rng_for(seed, "lags", *labels)
    kept = []
    for events, curve in pairs:
        known = ~np.isnan(curve)
        inside = curve[known]
        if len(inside) >= MIN_TOKENS and events[known].any() and inside.mean() > 0:
            kept.append((np.flatnonzero(events[known]), inside / inside.mean(), events[known]))
    if not kept:
        return []
    shifts = (Coupled(events, curve, np.zeros(len(curve), dtype=int)).shifted() for _, curve, events in kept)
    null = np.mean([rng.choice(by_shift, NULL_DRAWS) for by_shift in shifts], axis=0)
    low, high = (float(x) for x in np.quantile(null, [0.025, 0.975]))
    points = []
    for lag in lags:
        values = []
        for places, curve, _ in kept:
            there = places + lag
            there = there[(there >= 0) & (there < len(curve))]
            values.append(curve[there].mean() if len(there) else np.nan)
        points.append(LagPoint(lag, bootstrap_mean(np.array(values), rng), low, high))
    return points


def partial_effect(
    outcome: Float[np.ndarray, " token"],
    event: Bool[np.ndarray, " token"],
    covariates: Float[np.ndarray, "token covariate"],
) -> float:
    """How much higher the outcome is at events, given the covariates, in standard deviations of its ranks.

    Least squares within one trace on the outcome's normalised ranks; NaN without enough tokens, events or variation.
    """
    known = ~np.isnan(outcome) & ~np.isnan(covariates).any(axis=1)
    y, x, rest = outcome[known], event[known].astype(float), covariates[known]
    if len(y) < max(MIN_TOKENS, rest.shape[1] + 3) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    ranks = stats.rankdata(y)
    ranks = (ranks - ranks.mean()) / ranks.std()
    others = np.column_stack([np.ones(len(y)), rest])
    # Frisch-Waugh: what is left of the event once the covariates are taken out.
    left = x - others @ np.linalg.lstsq(others, x, rcond=None)[0]
    return float(left @ ranks / (left @ left)) if left @ left > 1e-9 * len(y) else float("nan")


@dataclass(frozen=True)
class Detection:
    """How well marked tokens find boundaries, within one trace."""

    precision: float
    recall: float
    chance_precision: float
    chance_recall: float


def detect(
    found: Bool[np.ndarray, " token"],
    truth: Bool[np.ndarray, " token"],
    possible: Bool[np.ndarray, " token"],
    tolerance: int,
) -> Detection | None:
    """Precision and recall of `found` against `truth` when a hit may lie up to `tolerance` tokens away, and the same
    averaged over all circular shifts of `found` among the tokens that it is `possible` to find. None where either has
    no mark."""
    if not found.any() or not truth.any():
        return None
    near_truth, near_found = _widened(truth, tolerance), _widened(found, tolerance)
    within = np.convolve(possible, np.ones(2 * tolerance + 1, int), "same")[truth]  # how many could have hit each
    sizes, places = np.unique(within, return_inverse=True)
    hit = np.array([_any_of(found[possible], int(size)) for size in sizes])[places]
    return Detection(
        float(near_truth[found].mean()),
        float(near_found[truth].mean()),
        float(near_truth[possible].mean()),
        float(hit.mean()),
    )


def _any_of(marks: Bool[np.ndarray, " token"], size: int) -> float:
    """In which share of the places of a circle any of `size` tokens in a row is marked."""
    return float(np.any([np.roll(marks, -i) for i in range(size)], axis=0).mean()) if size else 0.0


def _widened(marks: Bool[np.ndarray, " token"], tolerance: int) -> Bool[np.ndarray, " token"]:
    """Tokens with a mark at most `tolerance` away."""
    return np.convolve(marks, np.ones(2 * tolerance + 1), "same") > 0.5
