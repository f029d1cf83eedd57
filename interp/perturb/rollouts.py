"""Counterfactual rollouts: force a token somewhere in a trace and let the model go on (Paper B, Table 1).

All rollouts of a trace share the keys and values of one pass over it. Forks at different places run side by side: each
row of a batch gets the part of the cache before its fork, padded on the left and masked out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from interp.model.generate import Generator, Sampling, by_room, continue_ids, ends_of
from interp.model.lens import Lens
from interp.model.pieces import in_pieces
from interp.model.prefixes import prefixes_are_right
from interp.model.shared import KeysValues
from interp.model.unembedding import logits_of, trunk_of
from interp.stats import seed_for


@dataclass(frozen=True)
class Fork:
    """At `position` of the trace stands `token` instead, and everything behind it is written anew."""

    position: int
    token: int


@dataclass(frozen=True)
class Trunk:
    """What forks of one trace share."""

    ids: tuple[int, ...]
    prefix: KeysValues | None
    """What forks may go on from, found out by comparison (interp/model/prefixes.py); None = nothing."""
    predicted: Callable[[int], Float[Tensor, " vocab"]]
    """Logits of the token at a position."""

    def candidates(self, position: int, n: int) -> list[int]:
        """The likeliest tokens at a position but for its own, best first."""
        row = self.predicted(position).clone()
        row[self.ids[position]] = -torch.inf
        found: list[int] = row.topk(n).indices.tolist()
        return found


@torch.no_grad()
def trunk(lens: Lens, ids: Sequence[int]) -> Trunk:
    """One pass over an unpadded sequence. Memory: positions x (width + keys and values), and a row of logits."""
    tokens = torch.tensor([list(ids)], device=lens.device)
    below = trunk_of(lens)
    try:
        cache = DynamicCache()
        with in_pieces(lens, tokens):
            hidden = below(tokens, past_key_values=cache, use_cache=True).last_hidden_state[0]
        shared = KeysValues.of(cache)
    except (AttributeError, IndexError, TypeError, ValueError):  # layers that keep something else
        hidden, shared = below(tokens).last_hidden_state[0], None

    def predicted(position: int) -> Float[Tensor, " vocab"]:
        return logits_of(lens, hidden[position - 1 : position])[0].float()

    if shared is None:
        return Trunk(tuple(ids), None, predicted)
    places = sorted({max(1, len(ids) // 2), len(ids) - 1})
    right = prefixes_are_right(lens, [ids[: place + 1] for place in places], lambda: shared.before(places))
    return Trunk(tuple(ids), shared if right else None, predicted)


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
    engine: Generator | None = None,
    reasoning: range = range(0),
    closing: range = range(0),
) -> list[tuple[tuple[int, ...], bool]]:
    """For each fork what follows the forced token, and whether it ended by itself (the end token is kept).

    Forks that force an end token end there. `sampling.max_new_tokens` counts from the fork. `cached=False` computes
    every prefix again: the reference that the tests compare with. `engine`: what writes in place of the model at hand,
    all at once; it has its own way of sharing prefixes. `reasoning`, `closing`: where the trace's thought and the tag
    behind it stand; a thought that a fork leaves open `sampling.thought` closes as it closed the trace's own.
    """
    ends = ends_of(lens)
    found: dict[int, tuple[tuple[int, ...], bool]] = {i: ((), True) for i, f in enumerate(forks) if f.token in ends}
    # Forks of about the same place share a batch: little padding.
    order = sorted((i for i in range(len(forks)) if i not in found), key=lambda i: forks[i].position)
    if engine is not None and order:
        rows = [[*shared.ids[: forks[i].position], forks[i].token] for i in order]
        written = engine.continued(rows, sampling, seed, "rollouts", *labels)
        found |= {i: (one.ids, one.finished) for i, one in zip(order, written, strict=True)}
        return [found[i] for i in range(len(forks))]
    near = by_room(lens, [forks[i].position + 1 for i in order], sampling.max_new_tokens)
    groups = [[order[i] for i in group] for group in near]
    draws = _draws(forks, seed, *labels)
    for chosen in [group[at : at + batch] for group in groups for at in range(0, len(group), batch)]:
        part = [forks[i] for i in chosen]
        rows = [[*shared.ids[: fork.position], fork.token] for fork in part]
        cache = shared.prefix.before([fork.position for fork in part]) if cached and shared.prefix else None
        begun = [_begun(shared.ids, fork, reasoning, closing) for fork in part]
        written = continue_ids(
            lens, rows, sampling, past_key_values=cache, begun=begun, draws=[draws[i] for i in chosen]
        )
        found |= {i: (one.ids, one.finished) for i, one in zip(chosen, written, strict=True)}
    return [found[i] for i in range(len(forks))]


def _draws(forks: Sequence[Fork], seed: int, *labels: object) -> list[int]:
    """A seed for each fork, by its place, its token and how many forks like it stand before it: its draws do not depend
    on how many run side by side, or on which."""
    before: Counter[Fork] = Counter()
    found = []
    for fork in forks:
        found.append(seed_for(seed, "rollouts", *labels, fork.position, fork.token, before[fork]))
        before[fork] += 1
    return found


def _begun(ids: Sequence[int], fork: Fork, reasoning: range, closing: range) -> list[int] | None:
    """What a fork has of an open thought; None where none is open. One at the token before the first leaves it open,
    and so does one that puts something else into the closing tag."""
    inside = reasoning.start - 1 <= fork.position < reasoning.stop
    instead = fork.position in closing and fork.token != ids[fork.position]
    if not reasoning or not (inside or instead):
        return None
    return [] if fork.position < reasoning.start else [*ids[reasoning.start : fork.position], fork.token]
