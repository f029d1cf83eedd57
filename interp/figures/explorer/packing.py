"""Attention rows of attention.parquet as few bytes: what the page unpacks again (unpack.js)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVELS = 255
"""A weight w is kept as round(255 sqrt(w)), at least 1: small ones are told apart better than large ones."""


@dataclass(frozen=True)
class Rows:
    """The kept rows of one trace and one head, or one set of heads: `counts[p]` entries belong to position p."""

    counts: np.ndarray
    keys: np.ndarray
    weights: np.ndarray
    received: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> Rows:
        """From rows of attention.parquet, one a position."""
        ordered = table.sort_values("position")
        keys, weights = list(ordered["keys"]), list(ordered["weights"])
        return cls(
            np.array([len(one) for one in keys]),
            np.concatenate([*keys, np.zeros(0, int)]).astype(np.int64),
            np.concatenate([*weights, np.zeros(0)]).astype(np.float64),
            ordered["received"].to_numpy(dtype=np.float64),
        )

    def cut(self, largest: int) -> Rows:
        """The same with only so many of the largest weights of each row."""
        if not len(self.counts) or self.counts.max() <= largest:
            return self
        rows = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.lexsort((self.keys, -self.weights, rows))
        place = np.empty(len(rows), dtype=int)
        place[order] = np.arange(len(rows)) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        held = place < largest
        return Rows(np.minimum(self.counts, largest), self.keys[held], self.weights[held], self.received)


def packed(maps: Sequence[Rows]) -> str:
    """Base64 of deflated bytes: of all maps first the counts, then the low and the high bytes of the steps from key to
    key (the first from 0), then the weights, then what each position receives as half-precision numbers."""
    counts = np.concatenate([one.counts for one in maps])
    if (counts > LEVELS).any():
        raise ValueError("a row has more weights than a byte can count")
    steps = np.concatenate([_steps(one) for one in maps])
    if (steps >= 2**16).any():
        raise ValueError("a trace is too long for keys of two bytes")
    weights = np.concatenate([one.weights for one in maps])
    codes = np.maximum(1, np.round(LEVELS * np.sqrt(weights.clip(0, 1))))
    received = np.concatenate([one.received for one in maps]).astype("<f2")
    parts = [counts, steps & 255, steps >> 8, codes]
    raw = b"".join(part.astype(np.uint8).tobytes() for part in parts) + received.tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def _steps(rows: Rows) -> np.ndarray:
    steps = np.diff(rows.keys, prepend=0)
    starts = (np.cumsum(rows.counts) - rows.counts)[rows.counts > 0]
    steps[starts] = rows.keys[starts]
    return steps
