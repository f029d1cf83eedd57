"""All measures of every head on one trace, from one streaming pass: the rows of heads.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.heads.reductions import (
    AttendedPositions,
    AttentionRows,
    ReceivedAttention,
    ReceivedBySentences,
    SegmentMasses,
    even_mass,
)
from interp.heads.scores import Head
from interp.heads.trajectories import reflection_positions, reflection_stops, stops, trajectory
from interp.model.lens import Lens
from interp.model.streaming import stream
from interp.stats import or_null, rng_for
from interp.text.sentences import reasoning_sentences, shuffled_sentences
from interp.text.trace import Segment, Trace

RECEIVER_GAP = 10
"""Attention to the last few tokens is syntax: what a token receives counts from this distance on (Paper B's H_lo)."""
MIN_QUERIES = 10
"""Tokens with fewer later queries than this say little about who receives attention."""
SEGMENT_PAIRS = tuple((s, d) for i, s in enumerate(Segment) for d in list(Segment)[: i + 1])
"""Source and destination, as far as causal attention allows."""


@dataclass(frozen=True)
class HeadMeasures:
    """What is measured beside the masses."""

    reflection_words: Sequence[str] = ("wait", "alternatively", "double check")
    permutations: int = 200
    min_mass: float = 0.05
    """Heads that give the reasoning less than this have no trajectory: there is too little to follow."""
    shuffled: bool = False
    """Also follow each head along the reasoning with its sentences in another order: one more pass."""


def measure_heads(
    lens: Lens, trace: Trace, options: HeadMeasures, seed: int, block_bytes: int | None = None
) -> list[dict[str, Any]]:
    """The rows of heads.parquet for one trace. Raises TraceError without reasoning or answer."""
    trace.require(Segment.REASONING, Segment.ANSWER)
    shape = (lens.n_layers, lens.n_heads)
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    masses = SegmentMasses(trace, *shape, [span.segment for span in trace.spans if len(span)])
    response = range(reasoning.start, answer.end)
    received = ReceivedAttention(response, response, *shape, gap=RECEIVER_GAP)
    look = AttendedPositions(range(answer.start, answer.end), range(reasoning.start, reasoning.end), *shape)
    by_sentence = ReceivedBySentences(reasoning_sentences(trace), *shape)
    stream(lens, trace.measured_ids, masses, received, by_sentence, look, block_bytes=block_bytes)

    columns = _mass_columns(trace, masses)
    columns["kurtosis"] = received.kurtosis(MIN_QUERIES)
    columns["kurtosis_sentences"] = by_sentence.kurtosis()
    columns["answer_focus"] = look.focus.nanmean(-1).numpy()
    rows = []
    for layer, head in np.ndindex(*shape):
        row = {name: or_null(float(values[layer, head])) for name, values in columns.items()}
        rows.append({"example": trace.example, "layer": layer, "head": head, **row})
    _add_trajectories(rows, trace, look, options, seed)
    if options.shuffled:
        _add_shuffled(lens, rows, trace, options, seed, block_bytes)
    return rows


def _add_shuffled(
    lens: Lens, rows: list[dict[str, Any]], trace: Trace, options: HeadMeasures, seed: int, block_bytes: int | None
) -> None:
    """The trajectory of each head on the reasoning in another order, once by where a token is from and once by where it
    stands: heads that read content follow the first, heads that drift along follow the second."""
    other = shuffled_sentences(trace, rng_for(seed, "shuffled", trace.example))
    if other is None:
        return
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    shape, keys = (lens.n_layers, lens.n_heads), range(reasoning.start, reasoning.end)
    look = AttendedPositions(range(answer.start, answer.end), keys, *shape, origin=other.origin)
    stream(lens, other.ids, look, block_bytes=block_bytes)
    mass = look.mass.mean(-1).numpy()
    for row in rows:
        place = row["layer"], row["head"]
        if mass[place] < options.min_mass:
            continue
        for name, centres in (("trajectory_content", look.centre_of_origin), ("trajectory_place", look.centre)):
            path = trajectory(centres[place].numpy(), reasoning, rng_for(seed, name), permutations=0)
            row[name] = None if path is None else path.rho


def _mass_columns(trace: Trace, masses: SegmentMasses) -> dict[str, np.ndarray]:
    present = {s for s in Segment if len(trace[s])}
    segments = list(Segment)
    columns: dict[str, np.ndarray] = {}
    for source, destination in SEGMENT_PAIRS:
        if {source, destination} <= present:
            i, j = masses.sources.index(source), segments.index(destination)
            columns[f"{source}_{destination}"] = masses.mass[:, :, i, j].numpy()
            columns[f"{source}_{destination}_per_token"] = masses.per_token[:, :, i, j].numpy()
    for source in (Segment.REASONING, Segment.ANSWER):
        columns[f"{source}_first_tokens"] = masses.first_tokens[:, :, masses.sources.index(source)].numpy()
    even = even_mass(trace, Segment.ANSWER, Segment.REASONING)
    columns["answer_reasoning_even"] = np.full(masses.mass.shape[:2], even)
    # The response is reasoning and answer together (Paper B), without the tag between them.
    lengths = np.array([len(trace[s]) for s in (Segment.REASONING, Segment.ANSWER)])
    places = [masses.sources.index(s) for s in (Segment.REASONING, Segment.ANSWER)]
    columns["distance"] = masses.distance[:, :, places].numpy() @ lengths / lengths.sum()
    return columns


def _add_trajectories(
    rows: list[dict[str, Any]], trace: Trace, look: AttendedPositions, options: HeadMeasures, seed: int
) -> None:
    reasoning = trace[Segment.REASONING]
    reflections = reflection_positions(trace, options.reflection_words)
    centres, peaks, mass = look.centre.numpy(), look.peak.numpy(), look.mass.numpy()
    for row in rows:
        layer, head = row["layer"], row["head"]
        if mass[layer, head].mean() < options.min_mass:
            continue
        rng = rng_for(seed, "trajectory", trace.example, layer, head)
        path = trajectory(centres[layer, head], reasoning, rng, options.permutations, mass[layer, head])
        if path is not None:
            row |= {
                "trajectory": path.rho,
                "trajectory_weighted": path.weighted,
                "trajectory_slope": path.slope,
                "trajectory_p": path.p_shift,
                "trajectory_p_permutation": path.p_permutation,
            }
        stopped = stops(peaks[layer, head])
        row["stops"] = len(stopped)
        near = reflection_stops(stopped, reflections, reasoning)
        if near is not None:
            row |= {"stops_at_reflection": near.at_reflection, "stops_expected": near.expected, "stops_p": near.p}
            row["stops_shifted"] = near.shifted


def map_rows(lens: Lens, trace: Trace, heads: Sequence[Head], block_bytes: int | None = None) -> list[dict[str, Any]]:
    """The rows of maps.parquet for one trace: whole attention rows of its answer tokens, by head and over all heads."""
    answer = trace[Segment.ANSWER]
    kept = AttentionRows(range(answer.start, answer.end), heads, lens.n_layers, lens.n_heads)
    stream(lens, trace.measured_ids, kept, block_bytes=block_bytes)
    weights = [(None, kept.mean.numpy()), *zip(heads, kept.of_head.numpy(), strict=True)]
    return [
        {
            "example": trace.example,
            "layer": None if head is None else head.layer,
            "head": None if head is None else head.head,
            "position": position,
            "weights": rows[i, : position + 1],
        }
        for head, rows in weights
        for i, position in enumerate(kept.rows)
    ]
