"""Keys and values that are computed once and shared: by the forks of a trace, by prompts that begin alike, by passes
that change nothing before the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of every layer."""

    layers: list[tuple[Float[Tensor, "row kv_head pos d"], Float[Tensor, "row kv_head pos d"]]]

    @classmethod
    def of(cls, cache: Cache) -> KeysValues:
        """What a pass has left in its cache. Raises AttributeError for layers that keep something else."""
        layers: list[Any] = cache.layers
        return cls([(layer.keys, layer.values) for layer in layers])

    def cache(self) -> DynamicCache:
        """A cache that a pass may add to: these tensors stay as they are."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, layer)
        return cache

    def before(self, lengths: Sequence[int], width: int | None = None) -> DynamicCache:
        """A row with the first so many positions of one sequence for each length, padded on the left to the longest,
        or to a width."""
        width = width or max(lengths)

        def side_by_side(whole: Float[Tensor, "1 kv_head pos d"]) -> Float[Tensor, "row kv_head width d"]:
            rows = whole.new_zeros(len(lengths), whole.shape[1], width, whole.shape[3])
            for row, length in enumerate(lengths):
                rows[row, :, width - length :] = whole[0, :, :length]
            return rows

        return KeysValues([(side_by_side(keys), side_by_side(values)) for keys, values in self.layers]).cache()
