"""What was measured, so that anyone can measure it again: the rows of traces."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from interp.runs.columns import EXAMPLE, IDS, SPANS, TEXT, Column, Table
from interp.text.trace import Trace

TRACES_TABLE = Table(
    "traces",
    EXAMPLE,
    Column("text", TEXT, "the whole text"),
    Column("token_ids", IDS, "the whole sequence"),
    Column("offsets", pa.list_(IDS), "for each token the characters of `text` that it stands for, end exclusive"),
    Column("segments", SPANS, "the six segments with their positions, end exclusive"),
    Column("source", TEXT, "where the trace comes from: `generated` or a file"),
    Column("forced", IDS, "positions of tokens that the model did not choose: what closed its thought"),
)


def trace_row(trace: Trace, forced: range = range(0)) -> dict[str, Any]:
    """The row of traces.parquet; `forced` are positions of the whole sequence."""
    return {
        "example": trace.example,
        "text": trace.text,
        "token_ids": list(trace.token_ids),
        "offsets": [list(pair) for pair in trace.offsets],
        "segments": [{"segment": s.segment, "start": s.start, "end": s.end} for s in trace.spans],
        "source": trace.source,
        "forced": list(forced),
    }
