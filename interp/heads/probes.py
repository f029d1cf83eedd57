"""Known kinds of heads to compare Reasoning-Focus Heads with: induction heads and retrieval heads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformer_lens.head_detector import (
    compute_head_attention_similarity_score,
    get_induction_head_detection_pattern,
)

from interp.heads.haystack import Haystack, ordinary_ids
from interp.heads.reductions import AttendedPositions
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import Lens
from interp.model.streaming import eager_weights, stream
from interp.runs.columns import FLOAT, INT, TEXT, Column, Table
from interp.stats import rng_for

PROBES_TABLE = Table(
    "probes",
    Column("example", TEXT, "name of the probe prompt"),
    Column("kind", TEXT, "`induction` or `retrieval`"),
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
    Column("value", FLOAT, "the head's score on this prompt, 0..1: see interp/heads/probes.py"),
    Column("recalled", FLOAT, "share of the needle's tokens that the model wrote, 0..1", null="`induction`"),
)


HALF = 50
"""Longest half of a repeated sequence, in tokens."""


class Decoding(StrEnum):
    """What stands after the haystack while the heads are watched."""

    GENERATED = "generated"
    """The model's own greedy answer, as in Wu et al. 2024: a model that does not find the needle has no such heads."""
    FORCED = "forced"
    """The needle itself: works for models that cannot follow the request."""


@torch.no_grad()
def induction_scores(lens: Lens, seed: int, index: int) -> Float[np.ndarray, "layer head"]:
    """TransformerLens' induction score of every head on one sequence of distinct random tokens, repeated once.

    The share of all attention that goes to the token after the previous occurrence of the query's token, 0..1; only
    the second half of the sequence has one, so a perfect induction head that rests on itself before scores about .5.
    """
    words = ordinary_ids(lens.tokenizer)
    half = rng_for(seed, "induction", index).choice(words, min(HALF, len(words)), replace=False).tolist()
    bos = [] if lens.tokenizer.bos_token_id is None else [lens.tokenizer.bos_token_id]
    ids = [*bos, *half, *half]
    # The detector itself takes text and tokenizes it again; its two halves are called with exact ids instead.
    expected = get_induction_head_detection_pattern(torch.tensor([ids]))
    scores = np.zeros((lens.n_layers, lens.n_heads))

    for layer, patterns in enumerate(eager_weights(lens, ids)):
        for head, pattern in enumerate(patterns):
            scores[layer, head] = compute_head_attention_similarity_score(
                pattern.float().cpu(),
                detection_pattern=expected,
                exclude_bos=False,
                exclude_current_token=False,
                error_measure="mul",
            )
    return scores


@dataclass(frozen=True)
class Copied:
    """`scores[l, h]`: share of the needle's distinct tokens that the head copied; `recalled`: that the model wrote."""

    scores: Float[np.ndarray, "layer head"]
    recalled: float


def retrieval_scores(lens: Lens, haystack: Haystack, decoding: Decoding, max_new_tokens: int) -> Copied:
    """The copy-paste score of Wu et al. 2024 (arXiv 2404.15574, eq. 1) of every head on one haystack.

    A head copies a token when, at the step that writes it, the head attends most to a token of the needle and that
    token is the one written. With a cue, only what comes after it counts.
    """
    needle = haystack.ids[haystack.needle.start : haystack.needle.stop]
    wanted = needle[haystack.cue :]
    if decoding == Decoding.FORCED:
        written = list(wanted)
    else:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        written = list(continue_ids(lens, [haystack.ids], sampling)[0].ids)
    ids = [*haystack.ids, *written]
    rows = range(len(haystack.ids) - 1, len(ids) - 1)
    look = AttendedPositions(rows, range(len(ids)), lens.n_layers, lens.n_heads)
    stream(lens, ids, look)
    peak = look.peak.numpy()
    tokens = np.array(ids)
    copies = (peak >= haystack.needle.start) & (peak < haystack.needle.stop) & (tokens[peak] == np.array(written))
    distinct = sorted(set(wanted))
    by_token = [copies[:, :, np.array(written) == token].any(axis=-1) for token in distinct]
    return Copied(np.mean(by_token, axis=0), float(np.mean([token in written for token in distinct])))


def probe_rows(example: str, kind: str, scores: Any, recalled: float | None) -> list[dict[str, Any]]:
    """The rows of probes.parquet from the scores of one prompt."""
    return [
        {"example": example, "kind": kind, "layer": layer, "head": head, "value": float(value), "recalled": recalled}
        for layer, row in enumerate(scores)
        for head, value in enumerate(row)
    ]
