"""The rows of sentences.parquet and sentence_edges.parquet for one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.ablation.effects import answer_position
from interp.heads.reductions import AttentionRows
from interp.model.generate import Sampling
from interp.model.lens import Lens
from interp.model.streaming import stream
from interp.perturb.rollouts import Fork, Trunk, rollouts, trunk
from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.sentences.demands import demanded, lead_to_answer
from interp.sentences.suppression import Sentence, suppressed
from interp.stats import or_null
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace

APART = 4
"""Sentences that a sentence must lie before those that it receives attention from, as in thought-anchors."""
NO_ROLLOUTS = "no rollouts, or the trace gives no answer"
SENTENCES_TABLE = Table(
    "sentences",
    EXAMPLE,
    Column("sentence", INT, "number in the reasoning, from 0"),
    Column("start", INT, "position of its first token"),
    Column("end", INT, "position behind its last token"),
    Column("text", TEXT, "what it says"),
    Column("suppressed", FLOAT, "what the answer's first token loses in log-probability, nats, where nothing sees it"),
    Column("known", FLOAT, "log-probability of the answer's first token, demanded behind it, nats"),
    Column("demanded", FLOAT, "`known` minus the same before the sentence"),
    Column("same", FLOAT, "share of rollouts from behind it that end in the trace's answer, 0..1", null=NO_ROLLOUTS),
    Column("resampled", FLOAT, "`same` minus the same before the sentence", null=NO_ROLLOUTS),
    Column("unfinished", FLOAT, "share of rollouts from behind it that the limit cuts off, 0..1", null=NO_ROLLOUTS),
    Column("answer_mass", FLOAT, "attention of the answer's tokens to it, mean over tokens and all heads"),
    Column(
        "received",
        FLOAT,
        "attention to a token of it from one of the sentences at least four later, mean over all heads",
        null="no such sentence",
    ),
    Column("entropy", FLOAT, "of the prediction of its first token, nats"),
    Column("tokens", INT, "its length"),
)
SENTENCE_EDGES_TABLE = Table(
    "sentence_edges",
    EXAMPLE,
    Column("sentence", INT, "that nothing sees"),
    Column("later", INT, "a later one"),
    Column("value", FLOAT, "what a token of it loses in log-probability, mean, nats"),
)
CAUSAL = ("suppressed", "demanded", "resampled")
"""Three ways in which a sentence may matter to the answer."""
SIGNALS = ("answer_mass", "received", "entropy", "tokens", "sentence")
"""What is cheap to see; `sentence` is the place."""


@dataclass(frozen=True)
class Rollouts:
    """How the reasoning is written anew from behind each sentence; `draws` = 0: not at all."""

    draws: int
    sampling: Sampling
    answer: Callable[[Sequence[int]], str | None]
    """The answer that a whole sequence gives."""


def sentence_rows(
    lens: Lens, trace: Trace, settings: Rollouts, seed: int, batch: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """Both tables' rows; None where there is no reasoning or no answer."""
    lead, position = lead_to_answer(trace), answer_position(trace)
    sentences = reasoning_sentences(trace)
    if lead is None or position is None or not sentences:
        return None
    ids = trace.measured_ids
    shared = trunk(lens, ids)
    cut = suppressed(lens, ids, sentences, batch, shared.prefix)
    borders = [sentences[0][0], *(end for _, end in sentences)]
    known = demanded(lens, shared, borders, *lead, batch)
    same, unfinished = _rolled_out(lens, shared, borders, settings, seed, trace.example, batch)
    mass, received = _attention(lens, trace, sentences)
    rows = []
    for k, (start, end) in enumerate(sentences):
        rows.append(
            {
                "example": trace.example,
                "sentence": k,
                "start": start,
                "end": end,
                "text": trace.text[trace.offsets[start][0] : trace.offsets[end - 1][1]].strip(),
                "suppressed": float(-cut.change[k, position]),
                "known": float(known[k + 1]),
                "demanded": float(known[k + 1] - known[k]),
                "same": or_null(float(same[k + 1])),
                "resampled": or_null(float(same[k + 1] - same[k])),
                "unfinished": or_null(float(unfinished[k + 1])),
                "answer_mass": float(mass[k]),
                "received": or_null(float(received[k])),
                "entropy": float(cut.entropy[start]),
                "tokens": end - start,
            }
        )
    edges = [
        {"example": trace.example, "sentence": k, "later": m, "value": -cut.of_span(k, *sentences[m])}
        for k in range(len(sentences))
        for m in range(k + 1, len(sentences))
    ]
    return rows, edges


def _rolled_out(
    lens: Lens, shared: Trunk, borders: Sequence[int], settings: Rollouts, seed: int, example: str, batch: int
) -> tuple[Float[np.ndarray, " border"], Float[np.ndarray, " border"]]:
    """Shares of rollouts from each border that end in the trace's own answer, and that the limit cuts off."""
    nothing = np.full(len(borders), np.nan)
    ids = shared.ids
    own = settings.answer(ids) if settings.draws else None
    if own is None:
        return nothing, nothing
    forks = [Fork(border - 1, ids[border - 1]) for border in borders for _ in range(settings.draws)]
    about = (seed, "sentences", example)
    found = rollouts(lens, shared, forks, settings.sampling, *about, batch=batch)
    shape = (len(borders), settings.draws)
    same, unfinished = np.zeros(shape), np.zeros(shape)
    for i, (new, finished) in enumerate(found):
        border, draw = divmod(i, settings.draws)
        unfinished[border, draw] = not finished
        same[border, draw] = finished and settings.answer([*ids[: borders[border]], *new]) == own
    return same.mean(1), unfinished.mean(1)


def _attention(
    lens: Lens, trace: Trace, sentences: Sequence[Sentence]
) -> tuple[Float[np.ndarray, " sentence"], Float[np.ndarray, " sentence"]]:
    """The mean over all heads of the answer's attention to each sentence, and of what a token of it receives from a
    token of those at least APART later."""
    answer, first = trace[Segment.ANSWER], sentences[0][0]
    kept = AttentionRows(range(first, answer.end), [], lens.n_layers, lens.n_heads)
    stream(lens, trace.measured_ids, kept)
    rows = kept.mean.numpy()
    mass, received = [], []
    for k, (start, end) in enumerate(sentences):
        mass.append(rows[answer.start - first :, start:end].sum(1).mean())
        later = sentences[k + APART : k + APART + 1]
        received.append(
            rows[later[0][0] - first : sentences[-1][1] - first, start:end].mean() if later else float("nan")
        )
    return np.array(mass), np.array(received)
