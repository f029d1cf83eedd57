"""The largest attention weights of every row of a trace, of single heads and of means over sets: what a page can hold.

Rows of single heads are cut down as they come; those of sets only when the last layer is added, so a long trace is
passed several times, so many of its rows at a time that they stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.model.streaming import stream
from interp.runs.columns import EXAMPLE, FLOAT, IDS, INT, TEXT, Column, Table
from interp.text.trace import Trace

ATTENTION_TABLE = Table(
    "attention",
    EXAMPLE,
    Column("layer", INT, "layer, from 0", null="mean over a set of heads"),
    Column("head", INT, "head, from 0", null="mean over a set of heads"),
    Column("head_set", TEXT, "the mean over this set of `head_sets`, or over `all` heads", null="one head"),
    Column("position", INT, "a position of the whole sequence, from 0"),
    Column("keys", IDS, "the positions that it attends to most, up to its own, in order; none below .001"),
    Column("weights", pa.list_(pa.float32()), "its attention to these, to four digits; a whole row sums to 1"),
    Column("received", FLOAT, "attention that it gets from all later positions, their weights added up"),
)
ALL = "all"
LEAST = 0.001
"""Smaller weights are not kept."""
DIGITS = 4
ROWS_BYTES = 256 * 2**20
"""Whole rows of means that are in memory at once."""


class LargestWeights:
    """The largest weights of some rows of heads and of means over sets, and what each key receives from these rows.

    Memory O(sets x rows x keys).
    """

    def __init__(
        self, rows: range, heads: Sequence[Head], sets: Mapping[str, Sequence[Head]], largest: int, n_heads: int
    ) -> None:
        self.rows, self._heads, self._largest = rows, heads, largest
        self._of_layer = {name: _by_layer(members, n_heads) for name, members in sets.items()}
        self._n = {name: len(members) for name, members in sets.items()}
        self._means = {name: torch.zeros(len(rows), rows.stop) for name in sets}
        shape = (len(rows), largest)
        self._kept: dict[str | Head, tuple[Tensor, Tensor]] = {
            head: (torch.zeros(shape, dtype=torch.long), torch.zeros(shape)) for head in heads
        }
        self.received: dict[str | Head, Float[Tensor, " key"]] = {one: torch.zeros(rows.stop) for one in heads}

    def add(self, layer: int, first_row: int, pattern: Float[Tensor, "head row key"]) -> None:
        n_rows, n_keys = pattern.shape[1:]
        start = first_row - self.rows.start
        for name, of_layer in self._of_layer.items():
            if layer in of_layer:
                members = of_layer[layer]
                part = (pattern if members is None else pattern[members]).sum(0) / self._n[name]
                self._means[name][start : start + n_rows, :n_keys] += part.float().cpu()
        for head in self._heads:
            if head.layer == layer:
                rows = pattern[head.head].float().cpu()
                self.received[head][:n_keys] += _from_later(rows, first_row)
                for whole, part in zip(self._kept[head], _largest(rows, self._largest), strict=True):
                    whole[start : start + n_rows, : part.shape[1]] = part

    def rows_of(self) -> Iterator[tuple[str | Head, Int[np.ndarray, "row largest"], Float[np.ndarray, "row largest"]]]:
        """Each set and head with the keys and weights of its rows; entries that hold nothing have weight 0."""
        for name, mean in self._means.items():
            self.received[name] = _from_later(mean, self.rows.start)
            keys, weights = _largest(mean, self._largest)
            yield name, keys.numpy(), weights.numpy()
        for head, (keys, weights) in self._kept.items():
            yield head, keys.numpy(), weights.numpy()


def _by_layer(heads: Sequence[Head], n_heads: int) -> dict[int, list[int] | None]:
    """The heads of a set in each layer; None = all of them."""
    layers = sorted({head.layer for head in heads})
    found = {layer: [head.head for head in heads if head.layer == layer] for layer in layers}
    return {layer: None if len(members) == n_heads else members for layer, members in found.items()}


def _from_later(rows: Float[Tensor, "row key"], first_row: int) -> Float[Tensor, " key"]:
    """What each key gets from these rows, its own excepted."""
    received = rows.sum(0)
    own = torch.arange(rows.shape[0])
    received[first_row + own] -= rows[own, first_row + own]
    return received


def _largest(rows: Float[Tensor, "row key"], n: int) -> tuple[Int[Tensor, "row n"], Float[Tensor, "row n"]]:
    """Keys and weights in the order of the keys."""
    weights, keys = rows.topk(min(n, rows.shape[1]))
    keys, order = keys.sort(1)
    return keys, weights.gather(1, order)


def attention_rows(
    lens: Lens,
    trace: Trace,
    heads: Sequence[Head],
    sets: Mapping[str, Sequence[Head]],
    largest: int,
    block_bytes: int | None = None,
) -> list[dict[str, Any]]:
    """The rows of attention.parquet for one trace: the `largest` weights of each row of these heads, and of the means
    over these sets and over all heads."""
    everywhere = [Head(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    sets = {ALL: everywhere, **{name: members for name, members in sets.items() if members}}
    n = trace.n_measured
    step = max(1, ROWS_BYTES // (4 * n * len(sets)))
    shown: list[str | Head] = [*sets, *heads]
    rows: dict[str | Head, list[dict[str, Any]]] = {one: [] for one in shown}
    received: dict[str | Head, np.ndarray] = {one: np.zeros(n) for one in shown}
    for start in range(0, n, step):
        kept = LargestWeights(range(start, min(n, start + step)), heads, sets, largest, lens.n_heads)
        stream(lens, trace.measured_ids, kept, block_bytes=block_bytes)
        for one, keys, weights in kept.rows_of():
            rows[one] += _rows(one, start, keys, weights)
            received[one][: kept.rows.stop] += kept.received[one].double().numpy()
    return [
        {"example": trace.example, **row, "received": max(0.0, float(received[one][row["position"]]))}
        for one, of_one in rows.items()
        for row in of_one
    ]


def _rows(
    one: str | Head, start: int, keys: Int[np.ndarray, "row largest"], weights: Float[np.ndarray, "row largest"]
) -> Iterator[dict[str, Any]]:
    named = {"head_set": one} if isinstance(one, str) else {"layer": one.layer, "head": one.head}
    for i, (of_row, values) in enumerate(zip(keys, np.round(weights, DIGITS), strict=True)):
        held = values >= LEAST
        yield {**named, "position": start + i, "keys": of_row[held], "weights": values[held]}
