"""Counterfactual rollouts: force a token somewhere in a trace and let the model go on (Paper B, Table 1).

All rollouts of a trace share the keys and values of one pass over it. Forks at different places run side by side: each
row of a batch gets the part of the cache before its fork, padded on the left and masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.generate import Sampling
from interp.lens import Lens
from interp.stats import seed_for
from interp.trace import end_ids


@dataclass(frozen=True)
class Fork:
    """At `position` of the trace stands `token` instead, and everything behind it is written anew."""

    position: int
    token: int


@dataclass(frozen=True)
class Trunk:
    """What forks of one trace share."""

    ids: tuple[int, ...]
    keys: list[Float[Tensor, "1 kv pos d"]]
    values: list[Float[Tensor, "1 kv pos d"]]
    logits: Float[Tensor, "pos vocab"]
    """Row p predicts the token at p + 1."""

    def candidates(self, position: int, n: int) -> list[int]:
        """The likeliest tokens at a position but for its own, best first."""
        row = self.logits[position - 1].clone()
        row[self.ids[position]] = -torch.inf
        found: list[int] = row.topk(n).indices.tolist()
        return found


@torch.no_grad()
def trunk(lens: Lens, ids: Sequence[int]) -> Trunk:
    """One pass over an unpadded sequence. Memory: positions x (vocabulary + keys and values)."""
    cache = DynamicCache()
    out = lens.hf(torch.tensor([list(ids)], device=lens.device), past_key_values=cache, use_cache=True)
    keys, values = ([getattr(layer, name) for layer in cache.layers] for name in ("keys", "values"))
    return Trunk(tuple(ids), keys, values, out.logits[0].float())


@torch.no_grad()
def rollouts(
    lens: Lens,
    shared: Trunk,
    forks: Sequence[Fork],
    sampling: Sampling,
    seed: int,
    *labels: object,
    batch: int = 64,
    cached: bool = True,
) -> list[tuple[tuple[int, ...], bool]]:
    """For each fork what follows the forced token, and whether it ended by itself (the end token is kept).

    Forks that force an end token end there. `sampling.max_new_tokens` counts from the fork. `cached=False` computes
    every prefix again: the reference that the tests compare with.
    """
    ends = end_ids(lens.tokenizer)
    found: dict[int, tuple[tuple[int, ...], bool]] = {i: ((), True) for i, f in enumerate(forks) if f.token in ends}
    # Forks of about the same place share a batch: little padding.
    order = sorted((i for i in range(len(forks)) if i not in found), key=lambda i: forks[i].position)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        part = [forks[i] for i in chosen]
        width = max(fork.position for fork in part)
        ids, mask = _inputs(lens, shared, part, width)
        options: dict[str, object] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.temperature > 0:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if cached:
            options["past_key_values"] = _cache(shared, part, width)
        with torch.random.fork_rng(devices=[lens.device] if lens.device.type == "cuda" else []):
            torch.manual_seed(seed_for(seed, "rollouts", *labels, first))
            out = lens.hf.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=sorted(ends),
                pad_token_id=lens.tokenizer.pad_token_id,
                **options,
            )
        for i, row in zip(chosen, out[:, width + 1 :].tolist(), strict=True):
            stop = next((n + 1 for n, token in enumerate(row) if token in ends), None)
            found[i] = (tuple(row[:stop]), stop is not None)
    return [found[i] for i in range(len(forks))]


def _inputs(
    lens: Lens, shared: Trunk, forks: Sequence[Fork], width: int
) -> tuple[Int[Tensor, "fork pos"], Int[Tensor, "fork pos"]]:
    """Each fork's prefix and forced token, padded on the left."""
    pad = lens.tokenizer.pad_token_id
    rows = [[pad] * (width - f.position) + [*shared.ids[: f.position], f.token] for f in forks]
    mask = [[0] * (width - f.position) + [1] * (f.position + 1) for f in forks]
    return torch.tensor(rows, device=lens.device), torch.tensor(mask, device=lens.device)


def _cache(shared: Trunk, forks: Sequence[Fork], width: int) -> DynamicCache:
    """The trunk's keys and values before each fork, padded on the left."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(shared.keys, shared.values, strict=True)):
        padded = []
        for whole in (keys, values):
            part = whole.new_zeros(len(forks), whole.shape[1], width, whole.shape[3])
            for row, fork in enumerate(forks):
                part[row, :, width - fork.position :] = whole[0, :, : fork.position]
            padded.append(part)
        cache.update(padded[0], padded[1], layer)
    return cache
