"""The reasoning written anew from behind each sentence: on-policy, as in thought-anchors (Bogdan et al. 2025).

Rollouts behind all sentences run side by side. Where a precision is asked for, a place gets no more of them once its
share is known that well, so that places whose answer is settled cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.model.generate import Generator, Sampling
from interp.model.lens import Lens
from interp.perturb.overlap import jaccard
from interp.perturb.rollouts import Fork, Trunk, rollouts
from interp.stats import binomial_estimate, confidence_sequence, or_null
from interp.text.sentences import sentences_of
from interp.text.trace import decode_response

ROUND = 8
"""Rollouts of a place between two looks at how well its share is known."""
ALIKE = 0.5
"""Two sentences with the same numbers and signs and at least this overlap of content words say the same."""
_STATED = re.compile(r"\d+(?:\.\d+)?|[-+*/^<>=≠≤≥±]|\b(?:not|no|never|cannot)\b|n't\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")


@dataclass(frozen=True)
class Rollouts:
    """How the reasoning is written anew from behind each sentence; `draws` = 0: not at all."""

    draws: int
    """Rollouts of a place; with `within` the most of them."""
    sampling: Sampling
    answer: Callable[[Sequence[int]], str | None]
    """The answer that a whole sequence gives."""
    within: float | None = None
    """A place gets no more rollouts once its share is known to plus or minus this."""
    engine: Generator | None = None
    """What writes them; None = the model at hand."""


@dataclass(frozen=True)
class Rollout:
    """What one of them came to."""

    same: bool
    """In the trace's own answer, where it finished."""
    finished: bool
    steps: tuple[str, ...]
    """The sentences of its reasoning."""
    written: int = 0
    """Tokens."""


def says_the_same(first: str, second: str) -> bool:
    """Whether two sentences state the same: the same numbers, signs and negations in the same order, and content words
    that overlap by at least ALIKE. Takes no model: `15 apples` and `16 apples` differ, `so it is 15` and `thus, it is
    15.` do not."""
    one, other = (_THOUSANDS.sub("", text).lower() for text in (first, second))
    return _STATED.findall(one) == _STATED.findall(other) and jaccard(one, other) >= ALIKE


def resample(
    lens: Lens,
    shared: Trunk,
    borders: Sequence[int],
    settings: Rollouts,
    close: str,
    seed: int,
    example: str,
    batch: int,
    reasoning: range = range(0),
) -> list[list[Rollout]]:
    """The rollouts from each border on; none at all where the trace itself gives no answer.

    `close`: the text behind which there is no reasoning. `reasoning`: its positions, for a thought rule. With
    `settings.within` a border has had enough when the interval of its share, one that holds at all looks at once
    (Robbins 1970), is no wider than twice that.
    """
    own = settings.answer(shared.ids) if settings.draws else None
    found: list[list[Rollout]] = [[] for _ in borders]
    if own is None:
        return found
    at_once = settings.draws if settings.within is None else min(ROUND, settings.draws)
    for first in range(0, settings.draws, at_once):
        more = min(at_once, settings.draws - first)
        open_ones = [k for k, drawn in enumerate(found) if not _decided(drawn, settings.within)]
        which = [k for k in open_ones for _ in range(more)]
        forks = [Fork(borders[k] - 1, shared.ids[borders[k] - 1]) for k in which]
        about = ("sentences", example, *([first] if first else []))
        more_of_each = rollouts(
            lens, shared, forks, settings.sampling, seed, *about, batch=batch, engine=settings.engine,
            reasoning=reasoning,
        )  # fmt: skip
        for k, (new, finished) in zip(which, more_of_each, strict=True):
            same = finished and settings.answer([*shared.ids[: borders[k]], *new]) == own
            text = decode_response(lens.tokenizer, new).partition(close)[0]
            found[k].append(Rollout(same, finished, tuple(sentences_of(text)), len(new)))
    return found


def _decided(drawn: Sequence[Rollout], within: float | None) -> bool:
    if within is None or not drawn:
        return False
    _, low, high = _share(drawn, stopped=True)
    return high - low <= 2 * within


def resampled_columns(
    before: Sequence[Rollout], behind: Sequence[Rollout], text: str, *, stopped: bool = False
) -> dict[str, Any]:
    """What rollouts from before and from behind a sentence say of it: columns of sentences.parquet. `stopped`: how many
    there are was decided by what they came to, so that intervals must hold at every look.

    Shares are over rollouts that finished: what the others would have answered is not known, and those from an earlier
    place have more left to write, so that counting them as another answer would make an effect of the limit. Who
    finishes is decided by the limit too: where many do not, only a higher one helps."""
    if not before or not behind:
        return dict.fromkeys(RESAMPLED)
    (share, low_share, high_share), (base, low_base, high_base) = (_share(drawn, stopped) for drawn in (behind, before))
    difference = share - base
    # Newcombe's way to an interval of a difference of two proportions from that of each (1998, method 10).
    low = difference - float(np.hypot(share - low_share, high_base - base))
    high = difference + float(np.hypot(high_share - share, base - low_base))
    others = [one for one in before if not one.steps or not says_the_same(one.steps[0], text)]
    returned = [any(says_the_same(step, text) for step in one.steps[1:]) for one in others]
    instead = _share(others, stopped)[0]
    return {
        "same": or_null(share),
        "resampled": or_null(difference),
        "resampled_low": or_null(low),
        "resampled_high": or_null(high),
        "drawn": len(behind),
        "written": sum(one.written for one in behind),
        "unfinished": float(np.mean([not one.finished for one in behind])),
        "unfinished_before": float(np.mean([not one.finished for one in before])),
        "different": len(others) / len(before),
        "counterfactual": or_null(share - instead),
        "returned": or_null(float(np.mean(returned)) if returned else float("nan")),
    }


def _share(drawn: Sequence[Rollout], stopped: bool) -> tuple[float, float, float]:
    """Of those that finished the share with the trace's own answer, and the ends of its 95 % interval."""
    ended = [one.same for one in drawn if one.finished]
    same, n = sum(ended), len(ended)
    if not ended:
        return float("nan"), 0.0, 1.0
    if stopped:
        return same / n, *confidence_sequence(same, n)
    found = binomial_estimate(same, n)
    return found.value, found.low or 0.0, found.high or 0.0


RESAMPLED = (
    "same",
    "resampled",
    "resampled_low",
    "resampled_high",
    "drawn",
    "written",
    "unfinished",
    "unfinished_before",
    "different",
    "counterfactual",
    "returned",
)
"""The columns of `resampled_columns`."""
