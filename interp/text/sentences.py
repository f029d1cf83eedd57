"""The sentences of a reasoning or another segment, as they stand and in another order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from interp.text.token_kinds import Boundary, boundary_positions, sentence_ends
from interp.text.trace import Segment, Trace


def reasoning_sentences(trace: Trace) -> list[tuple[int, int]]:
    """The sentences of the reasoning as positions, end exclusive."""
    return segment_sentences(trace, Segment.REASONING)


def segment_sentences(trace: Trace, segment: Segment) -> list[tuple[int, int]]:
    """The sentences of a segment as positions, end exclusive; none of an empty one."""
    span = trace[segment]
    if not len(span):
        return []
    inside = span.positions
    starts = [span.start + int(i) for i in np.flatnonzero(boundary_positions(trace, Boundary.SENTENCE, inside))]
    borders = [span.start, *starts, span.end]
    return [(a, b) for a, b in pairwise(borders) if b > a]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text by the same rule, without blanks around them."""
    borders = [0, *(end.end() for end in sentence_ends(text)), len(text)]
    return [part for a, b in pairwise(borders) if (part := text[a:b].strip())]


@dataclass(frozen=True)
class Shuffled:
    """A trace whose reasoning has its sentences in another order; all else stays where it was."""

    ids: tuple[int, ...]
    origin: tuple[int, ...]
    """Where each token of the reasoning stood before."""


def shuffled_sentences(trace: Trace, rng: np.random.Generator) -> Shuffled | None:
    """The sentences of the reasoning in a random other order; None where there are fewer than two."""
    steps = reasoning_sentences(trace)
    if len(steps) < 2:
        return None
    order = rng.permutation(len(steps))
    while (order == np.arange(len(steps))).all():
        order = rng.permutation(len(steps))
    origin = tuple(place for i in order for place in range(*steps[i]))
    reasoning, ids = trace[Segment.REASONING], trace.measured_ids
    moved = [ids[place] for place in origin]
    return Shuffled((*ids[: reasoning.start], *moved, *ids[reasoning.end :]), origin)
