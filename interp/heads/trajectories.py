"""Do heads walk along the reasoning as the answer is written, and do they stop at reflection tokens? (Paper A, Fig. 4)

The paper shows this on three attention maps. Here it is measured for every head and trace, each with a null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from interp.text.trace import Segment, Span, Trace

MIN_QUERIES = 8
"""Fewer answer tokens than this give no trajectory."""


@dataclass(frozen=True)
class Trajectory:
    """How far a head's attended reasoning position moves along with the answer position.

    `rho`: Spearman's rank correlation of answer position and attended centre of mass, -1..1; 1 = strictly forward.
    `weighted`: the same correlation of ranks, each answer token counting by the attention that it gives the reasoning:
    a head that looks there at one token in five, and rests at the others, is judged by the one.
    `slope`: least-squares slope with both axes scaled to 0..1; 1 = the whole diagonal from start to end.
    Two one-sided p-values of this one trace. Neighbouring queries look alike, so both are optimistic for heads that
    wander slowly: `p_permutation` permutes the answer positions and ignores that likeness altogether; `p_shift` takes
    all circular shifts of the attended positions, which keep it but for the place where the ends meet (smallest value
    1 / number of answer tokens). `p_permutation` is None where nothing was permuted. What several
    traces say together is judged by `forward_p`, which assumes neither.
    """

    rho: float
    weighted: float
    slope: float
    p_permutation: float | None
    p_shift: float


def trajectory(
    centre: Float[np.ndarray, " query"],
    reasoning: Span,
    rng: np.random.Generator,
    permutations: int = 200,
    mass: Float[np.ndarray, " query"] | None = None,
) -> Trajectory | None:
    """The trajectory of one head from the centres of mass of its answer tokens, in order; NaN centres are left out.

    `mass` is what each answer token gives the reasoning (None = all the same).

    None where fewer than MIN_QUERIES centres are known or all are the same.
    """
    known = np.flatnonzero(~np.isnan(centre))
    # Centres that differ by rounding alone are no movement: a head that spreads evenly has the same one everywhere.
    values = np.round(centre[known], 3)
    n = len(known)
    if n < MIN_QUERIES or np.ptp(values) == 0:
        return None
    ranks = _standardised(stats.rankdata(values))
    along = _standardised(np.arange(n, dtype=float))
    rho = float(ranks @ along)
    weighted = rho if mass is None else _weighted_correlation(ranks, along, mass[known])
    at_least = rho - 1e-9
    shifted = np.lib.stride_tricks.sliding_window_view(np.concatenate([ranks, ranks[:-1]]), n) @ along
    p_permutation = None
    if permutations:
        permuted = rng.permuted(np.tile(ranks, (permutations, 1)), axis=1) @ along
        p_permutation = float(((permuted >= at_least).sum() + 1) / (permutations + 1))
    slope = np.polyfit(known / (len(centre) - 1), (values - reasoning.start) / max(1, len(reasoning) - 1), 1)[0]
    return Trajectory(
        rho=rho,
        weighted=weighted,
        slope=float(slope),
        p_permutation=p_permutation,
        p_shift=float((shifted >= at_least).mean()),
    )


def forward_p(rho: Float[np.ndarray, " trace"], rng: np.random.Generator) -> float:
    """One-sided p-value of a head's mean trajectory over traces, against reading each answer backwards or not.

    If a head wanders without regard to the answer's direction, each trace's rho is as likely with either sign, however
    alike neighbouring queries are: a sign-flip permutation test with traces as units. 1 for fewer than two traces.
    """
    if len(rho) < 2:
        return 1.0
    return float(
        stats.permutation_test(
            (rho,),
            np.mean,
            permutation_type="samples",
            alternative="greater",
            n_resamples=2000,
            vectorized=True,
            rng=rng,
        ).pvalue
    )


def _standardised(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    centred = values - values.mean()
    return centred / np.linalg.norm(centred)


def _weighted_correlation(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    covariance = np.cov(x, y, aweights=weights, ddof=0)
    spread = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    # All the weight on one token, or on tokens that look at the same place: nothing moves.
    return float(covariance[0, 1]) / spread if spread > 1e-12 else 0.0


def reflection_positions(trace: Trace, words: Sequence[str]) -> Int[np.ndarray, " reflection"]:
    """Positions in the sequence of the first tokens of reflection words in the reasoning, in order.

    Whole words, whatever their case; a space in a word also stands for a hyphen or a line break.
    """
    span = trace[Segment.REASONING]
    if not len(span) or not words:
        return np.zeros(0, dtype=int)
    patterns = [r"[\s-]+".join(re.escape(part) for part in word.split()) for word in words]
    found = re.finditer(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", trace.text, re.IGNORECASE)
    starts = [m.start() for m in found]
    ends = np.array([trace.offsets[i][1] for i in range(span.start, span.end)])
    first, last = trace.offsets[span.start][0], int(ends[-1])
    tokens = {span.start + int(np.searchsorted(ends, s, side="right")) for s in starts if first <= s < last}
    return np.array(sorted(tokens), dtype=int)


def stops(
    peak: Int[np.ndarray, " query"], min_run: int = 4, max_step: int = 16, slack: int = 1
) -> Int[np.ndarray, " stop"]:
    """Where forward runs of attended positions end.

    `peak` is the reasoning position that each answer token attends most. A run is a stretch of at least `min_run`
    answer tokens in which it moves on by -slack to max_step tokens at a time and forward in all; its stop is the
    furthest position it reaches. The last run ends with the answer and counts as well.
    """
    found, start = [], 0
    steps = np.diff(peak)
    breaks = [*(np.flatnonzero((steps < -slack) | (steps > max_step)) + 1), len(peak)]
    for start, end in pairwise([0, *breaks]):
        run = peak[start:end]
        if len(run) >= min_run and run.max() - run[0] >= min_run - 1:
            found.append(int(run.max()))
    return np.array(found, dtype=int)


@dataclass(frozen=True)
class ReflectionStops:
    """How many stops of a head lie at reflection tokens.

    `at_reflection` of `n` stops have a reflection token within `near` tokens; `expected` is its mean, and `p` the share
    of cases with at least as many, over all circular shifts of the reflection tokens along the reasoning; `shifted` is
    the number at SHIFTS of them, evenly spaced and alike for all heads of a trace.
    """

    n: int
    at_reflection: int
    expected: float
    p: float
    shifted: list[int]


SHIFTS = 64
"""Circular shifts whose counts are kept."""


def reflection_stops(
    stopped: Int[np.ndarray, " stop"], reflections: Int[np.ndarray, " reflection"], reasoning: Span, near: int = 3
) -> ReflectionStops | None:
    """Compares stops with reflection tokens; None without any of either."""
    if not len(stopped) or not len(reflections):
        return None
    length = len(reasoning)
    marked = np.zeros(length)
    for position in reflections - reasoning.start:
        marked[max(0, position - near) : position + near + 1] = 1
    places = stopped - reasoning.start
    by_shift = marked[(places[None] + np.arange(length)[:, None]) % length].sum(axis=1)
    return ReflectionStops(
        n=len(stopped),
        at_reflection=int(by_shift[0]),
        expected=float(by_shift.mean()),
        p=float((by_shift >= by_shift[0]).mean()),
        shifted=by_shift[((np.arange(SHIFTS) + 0.5) * length / SHIFTS).astype(int)].astype(int).tolist(),
    )
