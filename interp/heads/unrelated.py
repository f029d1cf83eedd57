"""What a head would give the reasoning whatever the answer said: the answer of another trace in the answer's place.

A head that looks at the reasoning out of habit does so behind any answer. Query-focused scores take off what a query
without content gets (Zhang et al. 2025, arXiv 2506.09944, who write "N/A"); here it is a real answer to another
question, so that the text stays text. A head may well look at the reasoning always and still read there what it needs:
the mass says how often it looks, not at what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from interp.heads.reductions import SegmentMasses
from interp.model.lens import Lens
from interp.model.streaming import stream
from interp.runs.columns import EXAMPLE, FLOAT, INT, Column, Table
from interp.text.trace import Segment, Trace

UNRELATED_TABLE = Table(
    "unrelated",
    EXAMPLE,
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
    Column("answer_reasoning", FLOAT, "mass to `reasoning` from another trace's answer in this one's place, 0..1"),
)
COLUMN = "answer_reasoning_unrelated"
"""Of heads.parquet once both are joined."""


def with_unrelated_answer(traces: Sequence[Trace], index: int) -> Trace | None:
    """A trace with its answer's tokens replaced by as many of the next traces' answers, which begin again behind the
    last trace; None where no other answer differs. Its text stays the old one: only its tokens are to be read."""
    trace = traces[index]
    span = trace[Segment.ANSWER]
    own = trace.token_ids[span.start : span.end]
    others = [*traces[index + 1 :], *traces[:index]]
    answers = [one.token_ids[one[Segment.ANSWER].start : one[Segment.ANSWER].end] for one in others]
    answers = [answer for answer in answers if answer and answer != own]
    if not answers:
        return None
    ids = [token for answer in answers for token in answer]
    ids = (ids * (len(own) // len(ids) + 1))[: len(own)]
    return replace(trace, token_ids=(*trace.token_ids[: span.start], *ids, *trace.token_ids[span.end :]))


def unrelated_rows(lens: Lens, trace: Trace, block_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of unrelated.parquet for a trace whose answer is another's."""
    masses = SegmentMasses(trace, lens.n_layers, lens.n_heads)
    stream(lens, trace.measured_ids, masses, block_bytes=block_bytes)
    mass = masses.mass[:, :, 0, list(Segment).index(Segment.REASONING)]
    for layer, heads in enumerate(mass.tolist()):
        for head, value in enumerate(heads):
            yield {"example": trace.example, "layer": layer, "head": head, "answer_reasoning": value}


def joined(heads: pd.DataFrame, unrelated: pd.DataFrame) -> pd.DataFrame:
    """heads.parquet with the mass of the unrelated answer; as it is where none was measured."""
    if unrelated.empty:
        return heads
    place = ["example", "layer", "head"]
    found = unrelated[[*place, "answer_reasoning"]].rename(columns={"answer_reasoning": COLUMN})
    return heads.merge(found, on=place, how="left", validate="one_to_one")
