"""What a route does alone and what is left without it (faithfulness and completeness, Wang et al. 2023, section 4).

The embeddings at the aligned positions become the source run's. A head or MLP reads the target's residual stream and,
of what earlier ones changed, only what comes by an edge that is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.sites import Edit, Site
from interp.model.structure import edited
from interp.model.unembedding import trunk_of
from interp.patching.edges import READ, Edge, Edges, Node

Reader = tuple[Site | None, Node | None]
"""q, k or v of a head, the output of an MLP, or (None, None): the answer."""


def effect(edges: Edges, kept: Iterable[Edge]) -> float:
    """Change of LD where changes travel by these edges alone. One forward pass."""
    return _Run(edges, _by_reader(kept), without=False).change()


def effect_without(edges: Edges, removed: Iterable[Edge]) -> float:
    """Change of LD where they travel by all other edges; with none removed, what the embeddings' patch does."""
    return _Run(edges, _by_reader(removed), without=True).change()


def keeps(alone: float, share: float) -> bool:
    """Whether an effect, as a share of the whole one, lies as near to it as this share does: above or below."""
    return abs(alone - 1) <= 1 - share + 1e-9


def smallest_route(edges: Edges, ranked: Sequence[Edge], share: float, most: int) -> list[tuple[int, float]]:
    """Numbers of first edges, each larger by a half or a third, and the change of LD by so many alone; the last is the
    first whose effect lies as near to the whole one as this share does. Where `most` are too few, all of these."""
    whole, n = effect_without(edges, ()), 1
    tried: list[tuple[int, float]] = []
    while True:
        n = min(n, most, len(ranked))
        alone = effect(edges, ranked[:n])
        tried.append((n, alone))
        if n in (most, len(ranked)) or (whole and keeps(alone / whole, share)):
            return tried
        n += max(1, n // 2)


def _by_reader(edges: Iterable[Edge]) -> dict[Reader, set[Node | None]]:
    found: dict[Reader, set[Node | None]] = defaultdict(set)
    for edge in edges:
        found[edge.through, edge.receiver].add(edge.sender)
    return found


@dataclass
class _Run:
    """One pass over the target whose heads and MLPs are given what they may read."""

    edges: Edges
    named: dict[Reader, set[Node | None]]
    without: bool
    """The named edges are cut; else they are the only ones."""
    changes: dict[Node | None, Float[Tensor, "pos d"]] = field(default_factory=dict)
    """What each sender so far writes more than in the target."""

    @torch.no_grad()
    def change(self) -> float:
        target, lens = self.edges.target, self.edges.lens
        start = torch.zeros_like(target.sites[Site.RESID_PRE][0])
        at, theirs = list(self.edges.positions), list(self.edges.sources)
        start[at] = self.edges.source.sites[Site.RESID_PRE][0, theirs] - target.sites[Site.RESID_PRE][0, at]
        self.changes[None] = start
        with ExitStack() as stack:
            for layer in range(lens.n_layers):
                edits: dict[Site, Edit] = {site: self._given(site, layer) for site in READ}
                edits |= {Site.Z: self._heads(layer), Site.MLP_OUT: self._mlp(layer)}
                stack.enter_context(edited(lens, layer, edits))
            trunk_of(lens)(torch.tensor([target.ids], device=lens.device), use_cache=False)
        read = self._incoming((None, None))
        if read is None:
            return 0.0
        ld = self.edges.read_by_answer(torch.stack([torch.zeros_like(read[-1]), read[-1]]))
        return float(ld[1] - ld[0])

    def _incoming(self, reader: Reader) -> Float[Tensor, "pos d"] | None:
        """The sum of the changes that a reader sees; None for none."""
        named = self.named.get(reader, set())
        seen = [c for sender, c in self.changes.items() if (sender in named) is not self.without]
        return torch.stack(seen).sum(0) if seen else None

    def _given(self, site: Site, layer: int) -> Edit:
        """Each head's own q, k or v."""

        def edit(activation: Float[Tensor, "row pos head d"]) -> Tensor:
            values = self.edges.target.sites[site][layer].clone()
            every = range(len(self.edges.target.ids))
            shared = None  # heads none of whose edges is named read the same
            for head in range(values.shape[1]):
                reader = (site, (layer, head))
                alike = self.without and reader not in self.named
                if not alike or shared is None:
                    read = self._incoming(reader)
                    made = None if read is None else self.edges.read(layer, read[None], every)[site][0]
                    shared = made if alike else shared
                else:
                    made = shared
                if made is not None:
                    values[:, head] = made[:, head]
            return values[None].to(activation)

        return edit

    def _heads(self, layer: int) -> Edit:
        def edit(z: Float[Tensor, "row pos head d"]) -> Tensor:
            own = self.edges.target.sites[Site.Z][layer]
            written = self.edges.written(layer, z[0].to(own) - own)
            self.changes |= {(layer, head): one for head, one in enumerate(written)}
            return z

        return edit

    def _mlp(self, layer: int) -> Edit:
        def edit(output: Float[Tensor, "row pos d"]) -> Tensor:
            own, read = self.edges.target.sites[Site.MLP_OUT][layer], self._incoming((Site.MLP_OUT, (layer, None)))
            if read is not None:
                made = self.edges.read_by_mlp(layer, read[None], range(len(own)))[0]
                self.changes[layer, None] = made - own
            return output

        return edit
