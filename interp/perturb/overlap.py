"""How far a forced token changes what follows, and which positions are compared (Paper B, Table 1 and Fig. 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float
from rapidfuzz.distance import Levenshtein

_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_STOP_TEXT = """
a about after again all also am an and any are as at be because been before but by can could did do does done for from
had has have he her here him his how i if in into is it its just let like may me more most my no nor not now of on once
only or other our out over own s she should so some such t than that the their them then there these they this those
through to too under up us very was we were what when where which while who will with would you your first next
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())
"""Words that carry grammar rather than content. The paper does not give its list."""


class Group(StrEnum):
    """Which positions of a trace are compared."""

    TOP = "top"
    """The highest values of the score."""
    BOTTOM = "bottom"
    """The lowest."""
    RANDOM = "random"
    """Any others but the top."""
    POSITION_MATCHED = "position_matched"
    """For each of the top, a near neighbour that is not one of them."""
    ENTROPY_MATCHED = "entropy_matched"
    """For each of the top, the position of the most similar entropy that is not one of them."""


def content_words(text: str) -> set[str]:
    """The words and numbers of a text in lower case, without stop words."""
    return {word for word in map(str.lower, _WORDS.findall(text)) if word not in STOP_WORDS}


def jaccard(first: str, second: str) -> float:
    """Overlap of the content words of two texts: shared / all, 0..1; 1 where both have none."""
    one, other = content_words(first), content_words(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def edit_distance(first: Sequence[int], second: Sequence[int]) -> float:
    """Levenshtein distance of two token sequences divided by the longer one's length, 0..1."""
    return float(Levenshtein.normalized_distance(first, second))


@dataclass(frozen=True)
class Scores:
    """Scores of each candidate position of one trace, NaN where undefined, and what controls are matched on."""

    values: Mapping[str, Float[np.ndarray, " token"]]
    entropy: Float[np.ndarray, " token"]

    def group(self, score: str, group: Group, k: int, rng: np.random.Generator) -> list[int]:
        """Indices of a group of k positions. Undefined scores are in no group, nothing is matched twice, and a trace
        without room for two groups apart has none: a smaller one would be another group under the same name."""
        values = self.values[score]
        known = np.flatnonzero(~np.isnan(values))
        if len(known) < 2 * k:
            return []
        # Of equal values the first ones must not win; the same order for all groups, so that they do not overlap.
        mixed = np.random.default_rng(len(known)).permutation(known)
        order = mixed[np.argsort(-values[mixed], kind="stable")]
        top = order[:k].tolist()
        match group:
            case Group.TOP:
                return top
            case Group.BOTTOM:
                return order[len(order) - k :].tolist()
            case Group.RANDOM:
                return sorted(rng.permutation(np.setdiff1d(known, top))[:k].tolist())
            case Group.POSITION_MATCHED:
                return _matched(top, known, np.arange(len(values), dtype=float), rng)
            case Group.ENTROPY_MATCHED:
                return _matched(top, known, self.entropy, rng)


def _matched(
    top: Sequence[int], known: Iterable[int], by: Float[np.ndarray, " token"], rng: np.random.Generator
) -> list[int]:
    """For each of the top, the nearest free position by some measure; ties by chance."""
    free = [int(p) for p in known if p not in set(top) and not np.isnan(by[p])]
    chosen: list[int] = []
    for p in top:
        if not free or np.isnan(by[p]):
            continue
        distance = np.abs(by[free] - by[p])
        nearest = np.flatnonzero(distance == distance.min())
        chosen.append(free.pop(int(rng.choice(nearest))))
    return chosen


def drop(waad: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
    """|WAAD[t] - WAAD[t+1]| (Paper B, section 5); NaN for the last token."""
    return np.abs(np.diff(waad, append=np.nan))
