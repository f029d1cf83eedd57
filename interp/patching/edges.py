"""Edges: what a head or MLP does through the queries, keys or values of one later head, one later MLP, or straight to
the answer.

An edge is patched by giving only its receiver what it would read if the sender's output were the source run's: the
residual stream before the receiver is the target's plus the sender's change, and every other head and MLP reads the
target's (path patching, Goldowsky-Dill et al. 2023). The estimate is first order in the receiver's queries, keys or
values, or the MLP's output (edge attribution patching, Syed et al. 2023), whose own change is exact, the norm before
them included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.unembedding import logits_of
from interp.patching.attribution import gradients
from interp.patching.blocks import like_llama
from interp.patching.exact import Patch, Run, sweep
from interp.patching.nld import Answers

READ = (Site.Q, Site.K, Site.V)
NEEDED = (Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT, Site.Z, *READ)
"""The sites that both runs must have been recorded with."""
MULTIPLIED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Weights that can be multiplied as they are: what a head sends is split by the output projection's."""
Node = tuple[int, int | None]
"""Layer and head, for k and v of a receiver the key-value head; None for the layer's MLP."""


def require_edges(lens: Lens) -> None:
    """Raises UserError for a model whose edges cannot be told apart here."""
    if not like_llama(lens):
        raise UserError(f"edges of {lens.name} cannot be patched: its layers are not built as Llama's")
    model: Any = lens.hf.base_model
    weights = [getattr(layer.self_attn.o_proj, "weight", None) for layer in model.layers]
    if any(not isinstance(one, Tensor) or one.dtype not in MULTIPLIED for one in weights):
        raise UserError(f"edges of {lens.name} cannot be patched: its matrices are quantized")


@dataclass(frozen=True)
class Edge:
    """One edge and the change of LD through it."""

    sender: Node | None
    """None = the embeddings."""
    through: Site | None
    """q, k or v of the receiver, mlp_out for an MLP; None where it is the answer."""
    receiver: Node | None
    """None = the answer: the final norm and the unembedding at the last position."""
    estimate: float
    exact: float | None = None
    """None where it was not patched. Edges to the answer always are: they cost nothing more."""


@dataclass(frozen=True)
class Edges:
    """All edges between two runs at some positions of the target, which take the source's at `sources`."""

    lens: Lens
    target: Run
    source: Run
    answers: Answers
    positions: tuple[int, ...]
    sources: tuple[int, ...]

    def __post_init__(self) -> None:
        require_edges(self.lens)
        for run in (self.target, self.source):
            if missing := [site for site in NEEDED if site not in run.sites]:
                raise ValueError(f"a run was recorded without {', '.join(missing)}")

    def estimates(self) -> list[Edge]:
        """Every edge, largest change of LD first (in size). Costs one forward and one backward pass, and each
        receiver's projections once for every sender before it."""
        slopes = gradients(self.lens, self.target, self.answers, (*READ, Site.MLP_OUT))
        at, found = list(self.positions), []
        with torch.no_grad():
            for senders, changes in self._senders():
                heads_from, mlps_from = self._reached(senders[0])
                for layer in range(mlps_from, self.lens.n_layers):
                    read = self.read(layer, changes, at) if layer >= heads_from else {}
                    for site, made in (read | {Site.MLP_OUT: self.read_by_mlp(layer, changes, at)}).items():
                        change = (made - self.target.sites[site][layer, at]).double()
                        values = torch.einsum("sp...d,p...d->s...", change, slopes[site][layer, at].double())
                        values = values.reshape(len(senders), -1).cpu()
                        found += [
                            Edge(sender, site, (layer, None if site == Site.MLP_OUT else head), float(values[i, head]))
                            for i, sender in enumerate(senders)
                            for head in range(values.shape[1])
                        ]
                found += self._to_the_answer(senders, changes)
        return sorted(found, key=lambda edge: -abs(edge.estimate))

    def verified(self, edges: Sequence[Edge]) -> list[Edge]:
        """The same edges with exact patches: one a head that receives."""
        with torch.no_grad():
            return [replace(edge, exact=self._patched(edge)) for edge in edges]

    def _reached(self, sender: Node | None) -> tuple[int, int]:
        """The first layers whose heads and whose MLP read what a sender writes."""
        if sender is None:
            return 0, 0
        layer, head = sender
        return layer + 1, layer + 1 if head is None else layer

    def _senders(self) -> Iterator[tuple[Sequence[Node | None], Float[Tensor, "sender pos d"]]]:
        """The embeddings, then each layer's heads and its MLP: what each writes more in the source run than in the
        target."""
        at, theirs = list(self.positions), list(self.sources)
        embedded = self.source.sites[Site.RESID_PRE][0, theirs] - self.target.sites[Site.RESID_PRE][0, at]
        yield [None], embedded[None]
        for layer in range(self.lens.n_layers):
            z = self.source.sites[Site.Z][layer, theirs] - self.target.sites[Site.Z][layer, at]
            yield [(layer, head) for head in range(z.shape[1])], self.written(layer, z)
            mlp = self.source.sites[Site.MLP_OUT][layer, theirs] - self.target.sites[Site.MLP_OUT][layer, at]
            yield [(layer, None)], mlp[None]

    def written(self, layer: int, z: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "head pos d"]:
        """What each head adds to the residual stream."""
        heads, size = z.shape[1:]
        weight = self._layer(layer).self_attn.o_proj.weight.view(-1, heads, size)
        return torch.einsum("phd,mhd->hpm", z.to(weight.device), weight).to(self.lens.device)

    def _layer(self, layer: int) -> Any:
        model: Any = self.lens.hf.base_model
        return model.layers[layer]

    def read(self, layer: int, changes: Float[Tensor, "change pos d"], at: Sequence[int]) -> dict[Site, Tensor]:
        """What a layer's heads make of the target's residual stream at some positions with each change added: (change,
        pos, head, d_head)."""
        module = self._layer(layer)
        resid = self.target.sites[Site.RESID_PRE][layer, list(at)] + changes
        normed = module.input_layernorm(resid.to(module.input_layernorm.weight.device))
        attention = module.self_attn
        made = {Site.Q: attention.q_proj, Site.K: attention.k_proj, Site.V: attention.v_proj}
        # `forward` leaves out hooks: a pass that is edited calls this from one.
        return {
            site: made[site].forward(normed).unflatten(-1, (-1, attention.head_dim)).to(self.lens.device)
            for site in READ
        }

    def read_by_mlp(
        self, layer: int, changes: Float[Tensor, "change pos d"], at: Sequence[int]
    ) -> Float[Tensor, "change pos d"]:
        """What a layer's MLP makes of the same."""
        module = self._layer(layer)
        middle = self.target.sites[Site.RESID_PRE][layer, list(at)] + self.target.sites[Site.ATTN_OUT][layer, list(at)]
        norm = module.post_attention_layernorm
        found: Tensor = module.mlp.forward(norm((middle + changes).to(norm.weight.device)))
        return found.to(self.lens.device)

    def read_by_answer(self, changes: Float[Tensor, "change d"]) -> Float[Tensor, " change"]:
        """The LD of the target's last residual stream with each change added."""
        end, model = self.lens.n_layers - 1, self.lens.hf.base_model
        sites = (Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT)
        final = torch.stack([self.target.sites[site][end, len(self.target.ids) - 1] for site in sites]).sum(0)
        norm: Any = model.norm
        return self.answers.ld(logits_of(self.lens, norm(final + changes))).double()

    def _to_the_answer(self, senders: Sequence[Node | None], changes: Tensor) -> list[Edge]:
        last = len(self.target.ids) - 1
        if last not in self.positions:
            return []
        change = changes[:, self.positions.index(last)]
        ld = self.read_by_answer(torch.cat([torch.zeros_like(change[:1]), change]))
        return [Edge(s, None, None, float(v), float(v)) for s, v in zip(senders, ld[1:] - ld[0], strict=True)]

    def _patched(self, edge: Edge) -> float | None:
        if edge.receiver is None or edge.through is None:
            return edge.exact
        layer, head = edge.receiver
        senders, changes = next((s, c) for s, c in self._senders() if edge.sender in s)
        change = changes[[senders.index(edge.sender)]]
        values = self.target.sites[edge.through].clone()
        at = list(self.positions)
        if head is None:
            values[layer, at] = self.read_by_mlp(layer, change, at)[0]
        else:
            values[layer, at] = self.read(layer, change, at)[edge.through][0]
        given = replace(self.target, sites={edge.through: values})
        patch = Patch(edge.through, layer, self.positions, head)
        ld = sweep(self.lens, self.target, given, [patch], lambda rows: {"ld": self.answers.ld(rows)})["ld"]
        return float(ld[0]) - float(self.answers.ld(self.target.logits))
