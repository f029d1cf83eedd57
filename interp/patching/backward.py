"""One pass whose graph is kept, and what the logit difference owes to the activations in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.model.attention import Attend, LayerAttention, attending
from interp.model.lens import Lens
from interp.model.sites import Edit, Site
from interp.model.structure import edited, require_sites
from interp.model.unembedding import last_logits
from interp.patching.nld import Answers
from interp.patching.patches import Run

Place = tuple[Site, int]
"""A site of one layer."""


@dataclass
class Traced:
    """What a pass leaves behind: the logit difference of every row, and the activations that it depends on."""

    ld: Float[Tensor, " row"]
    kept: dict[Place, Tensor]
    """(row, pos, d) or (row, pos, head, d_head)."""
    outputs: dict[int, Float[Tensor, "row pos head d"]] = field(default_factory=dict)
    """Each layer's attention output, where a function of our own made it."""

    def gradients(self, wanted: Sequence[Tensor], more_to_come: bool = False) -> list[Tensor]:
        """d (sum of LD over rows) / d each of them. `more_to_come` keeps the graph."""
        found = torch.autograd.grad(self.ld.sum(), list(wanted), allow_unused=True, retain_graph=more_to_come)
        # Behind the last layer's attention, positions before the last have no way to the logits: a gradient of zero.
        return [torch.zeros_like(w) if g is None else g.detach() for g, w in zip(found, wanted, strict=True)]


def trace(
    lens: Lens,
    ids: Int[Tensor, "row pos"],
    answers: Answers,
    places: Iterable[Place],
    edits: Mapping[Place, Edit] | None = None,
    attend: Callable[[LayerAttention], Tensor] | None = None,
) -> Traced:
    """One forward pass that keeps the activations of `places`, edited first where `edits` names them.

    The earliest of them are the leaves of the graph: nothing before them is kept. `attend` makes the layers' attention,
    else the model's own does. Raises UserError for a site that the model does not have.
    """
    changes = edits or {}
    wanted = {*places, *changes}
    require_sites(lens, sorted({site for site, _ in wanted}))
    traced = Traced(torch.empty(0), {})

    def watch(place: Place) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            value = changes[place](activation) if place in changes else activation
            traced.kept[place] = value if value.requires_grad else value.detach().requires_grad_(True)
            return traced.kept[place]

        return edit

    def noting(own: Attend) -> Attend:
        def attention(layer: LayerAttention) -> Tensor:
            traced.outputs[layer.layer] = own(layer)
            return traced.outputs[layer.layer]

        return attention

    with torch.enable_grad(), ExitStack() as stack:
        for layer in sorted({layer for _, layer in wanted}):
            here = {site: watch((site, layer)) for site, at in sorted(wanted) if at == layer}
            stack.enter_context(edited(lens, layer, here))
        if attend is not None:
            stack.enter_context(attending(lens.hf, noting(attend)))
        traced.ld = answers.ld(last_logits(lens, ids))
    return traced


def gradients(lens: Lens, run: Run, answers: Answers, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """d LD / d activation at every layer and position of `run`: (layer, pos, d) or (layer, pos, head, d_head).

    Costs one forward and one backward pass.
    """
    places = [(site, layer) for site in sites for layer in range(lens.n_layers)]
    traced = trace(lens, torch.tensor([run.ids], device=lens.device), answers, places)
    found = iter(traced.gradients([traced.kept[place] for place in places]))
    return {site: torch.stack([next(found)[0] for _ in range(lens.n_layers)]) for site in sites}
