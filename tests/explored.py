"""Made runs for the explorer: the tables that `heads` and other parts of a report would have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from interp.data.rows import trace_row
from interp.runs.columns import table_of
from interp.text.trace import Segment, Span, Trace

Tables = Callable[[str], pd.DataFrame]
ABOUT = {"experiment": "heads", "model": "made", "data": "by hand", "seed": 0}

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202e txet",
    "\u2028",
    "&lt;",
    " العربية",
    "\x00",
]
"""What a model may write: nothing of it may run, or turn the direction of writing."""


def tables(**rows: Sequence[Mapping[str, Any]]) -> Tables:
    """Tables out of rows; columns that a row leaves out are null, and tables without rows are empty."""

    def read(name: str) -> pd.DataFrame:
        columns = table_of(name).schema.names
        return pd.DataFrame([{**ABOUT, **row} for row in rows.get(name, [])], columns=columns)

    return read


def trace_of(words: Sequence[str], borders: Sequence[int], example: str = "one") -> Trace:
    """A trace of these tokens; `borders` are where its six segments begin and end."""
    offsets, text = [], ""
    for word in words:
        offsets.append((len(text), len(text) + len(word)))
        text += word
    spans = tuple(Span(s, a, b) for s, (a, b) in zip(Segment, pairwise(borders), strict=True))
    return Trace(example, text, tuple(range(len(words))), tuple(offsets), spans, "made")


def small_trace(example: str = "one") -> Trace:
    """Twelve tokens: a prompt, two sentences of reasoning, an answer."""
    words = ["<bos>", " Add", " 2", "<think>", " 2", " +", " 2.", " Wait,", " 4.", "</think>", " answer is", " 4"]
    return trace_of(words, [0, 1, 3, 4, 9, 10, 12], example)


def attention_of(trace: Trace, seed: int = 0, largest: int = 4) -> list[dict[str, Any]]:
    """Random rows of the mean over all heads, a set of one head and that head."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, named in enumerate(({"head_set": "all"}, {"head_set": "rfh"}, {"layer": 1, "head": 0})):
        for position in range(trace.n_measured):
            n = min(largest, position + 1)
            keys = np.sort(rng.choice(position + 1, n, replace=False))
            weights = np.round(rng.dirichlet(np.ones(n)) * 0.9, 4)
            rows.append({"position": position, "keys": keys, "weights": weights, "received": float(number), **named})
    return [{"example": trace.example, **row} for row in rows]


def heads_run(traces: Sequence[Trace], attention: Sequence[Mapping[str, Any]] | None = None, **more: Any) -> Tables:
    """The tables of `heads` on some traces, of a model with 2 layers of 2 heads."""
    if attention is None:
        attention = [row for i, trace in enumerate(traces) for row in attention_of(trace, i)]
    masses = [
        {"example": trace.example, "layer": layer, "head": head, "answer_reasoning": 0.1 + 0.2 * layer + 0.1 * head}
        for trace in traces
        for layer in range(2)
        for head in range(2)
    ]
    sets = [{"kind": "rfh", "layers": "all", "sinks": "kept", "layer": 1, "head": 0, "value": 0.3}]
    rows = [trace_row(trace) for trace in traces]
    return tables(traces=rows, attention=attention, heads=masses, head_sets=sets, **more)


def hostile_trace(n: int = 10_000) -> Trace:
    words = [HOSTILE[i % len(HOSTILE)] if i % 5 == 0 else f" w{i}{'.' if i % 17 == 0 else ''}" for i in range(n)]
    return trace_of(words, [0, 1, 200, 201, n - 301, n - 300, n], "x</script><b>")
