"""Queries and keys in attribution: the softmax is followed exactly, and only what lies behind it to first order.

A softmax that is sure of one key has no gradient, though another query or key may turn it over. AtP* (Kramar et al.
2024, section 3.1) therefore computes the attention weights under each patch exactly and multiplies their change by the
gradient of the weights, which is the gradient of the head's output times the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.attention import LayerAttention, attending, attention_rows
from interp.model.lens import Lens
from interp.model.sites import Edit, Site
from interp.model.structure import edited
from interp.model.unembedding import last_logits
from interp.patching.patches import Run


@dataclass(frozen=True)
class QueryKey:
    """One layer's attention in the target run, and its queries and keys if the source's stood in their place."""

    own: LayerAttention
    query: Float[Tensor, "head pos d"]
    """The source's at `positions`, rotated as they are rotated there."""
    key: Float[Tensor, "kv_head pos d"]
    positions: tuple[int, ...]

    def effects(self, gradient: Float[Tensor, "pos head d"]) -> dict[Site, Float[Tensor, "pos head"]]:
        """First-order change of LD behind exact softmax weights, for each query head's and each key head's patch.

        `gradient` is that of the layer's attention output. Memory: heads x positions x (8 bytes x tokens).
        """
        own = self.own
        mask = None if own.mask is None else own.allowed(own.mask)
        # In double precision: a weight of 1 - 1e-10 is not one of 1 where the key that had it all is patched.
        weights = attention_rows(own.query.double(), own.key.double(), 0, own.scale, mask)[0]
        at = list(self.positions)
        group = weights.shape[0] // self.key.shape[0]
        values = self.own.value[0].double().repeat_interleave(group, 0)
        downstream = gradient.double().transpose(0, 1)
        q = self._queries(weights[:, at], values, downstream[:, at])
        k = self._keys(weights, values, downstream).unflatten(0, (-1, group)).sum(1)
        return {Site.Q: q.T, Site.K: k.T}

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scaled products of (head, i, d) and (kv_head, j, d)."""
        group = query.shape[0] // key.shape[0]
        return query.double() @ key.double().repeat_interleave(group, 0).transpose(1, 2) * self.own.scale

    def _queries(self, before: Tensor, values: Tensor, downstream: Tensor) -> Float[Tensor, "head pos"]:
        """A query's patch changes its own row of weights."""
        at = list(self.positions)
        seen = self.own.allowed(self.own.mask)[0][:, at]
        after = self._scores(self.query, self.own.key[0]).masked_fill(~seen, -torch.inf).softmax(-1)
        return ((after - before) @ values * downstream).sum(-1)

    def _keys(self, weights: Tensor, values: Tensor, downstream: Tensor) -> Float[Tensor, "head pos"]:
        """A key's patch changes one score of each row that sees it, and by the softmax the whole row.

        With weight w and a change c of its score, the row's output moves by s (value - output), where
        s = w (e^c - 1) / (1 + w (e^c - 1)).
        """
        at = list(self.positions)
        w = weights[:, :, at]
        change = self._scores(self.own.query[0], self.key) - self._scores(self.own.query[0], self.own.key[0][:, at])
        less, rest = torch.expm1(-change.abs()), torch.exp(-change.abs())  # written so that neither sign overflows
        up = -w * less / (w + (1 - w) * rest).clamp_min(1e-300)
        down = w * less / (1 - w + w * rest).clamp_min(1e-12)
        share = torch.where(change > 0, up, down)
        to_value = torch.einsum("hip,hid->hpd", share, downstream)
        output = weights @ values
        return (to_value * values[:, at]).sum(-1) - torch.einsum("hip,hi->hp", share, (downstream * output).sum(-1))


@torch.no_grad()
def source_queries_keys(
    lens: Lens, target: Run, source: Run, positions: Sequence[int], sources: Sequence[int]
) -> Mapping[int, tuple[Float[Tensor, "head pos d"], Float[Tensor, "kv_head pos d"]]]:
    """Each layer's rotated queries and keys at `positions` if the projections gave the source run's at `sources`.

    The model norms and rotates them itself, in one forward pass whose output is thrown away.
    """
    at, caught = list(positions), {}

    def note(layer: LayerAttention) -> Tensor:
        caught[layer.layer] = (layer.query[0][:, at], layer.key[0][:, at])
        return layer.output(layer.mask)

    def write(site: Site, layer: int) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            changed = activation.clone()
            changed[:, at] = source.sites[site][layer, list(sources)].to(changed)
            return changed

        return edit

    with ExitStack() as stack:
        for layer in range(lens.n_layers):
            stack.enter_context(edited(lens, layer, {site: write(site, layer) for site in (Site.Q, Site.K)}))
        stack.enter_context(attending(lens.hf, note))
        last_logits(lens, torch.tensor([target.ids], device=lens.device))
    return caught
