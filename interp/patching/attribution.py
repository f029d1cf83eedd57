"""Attribution patching: all patches at once from one backward pass, a first-order screen (Nanda 2023).

The effect of replacing activation x by x' is taken as (x' - x) . d LD / d x. Exact where the rest of the model is
linear in x; elsewhere `sweep` of interp/patching/exact.py says what is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.lens import Lens
from interp.model.sites import Edit, Site
from interp.model.structure import edited, require_sites
from interp.model.unembedding import last_logits
from interp.patching.exact import Run
from interp.patching.nld import Answers


def gradients(lens: Lens, run: Run, answers: Answers, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """d LD / d activation at every layer and position of `run`: (layer, pos, d) or (layer, pos, head, d_head)."""
    kept: dict[tuple[Site, int], Tensor] = {}

    def watch(site: Site, layer: int) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            kept[site, layer] = activation if activation.requires_grad else activation.detach().requires_grad_(True)
            return kept[site, layer]

        return edit

    require_sites(lens, list(sites))
    ids = torch.tensor([run.ids], device=lens.device)
    lens.hf.set_attn_implementation("eager")
    try:
        with torch.enable_grad(), ExitStack() as stack:
            for layer in range(lens.n_layers):
                # The first layer's input is where the graph begins, whether or not it was asked for.
                here = {Site.RESID_PRE, *sites} if layer == 0 else set(sites)
                stack.enter_context(edited(lens, layer, {site: watch(site, layer) for site in here}))
            ld = answers.ld(last_logits(lens, ids)[-1])
            wanted = [kept[site, layer] for site in sites for layer in range(lens.n_layers)]
            grads = torch.autograd.grad(ld, wanted, allow_unused=True)
    finally:
        lens.hf.set_attn_implementation(lens.attention)
    # After the last layer's attention, positions before the last have no way to the logits: no gradient is a zero one.
    dense = iter(torch.zeros_like(w) if g is None else g.detach() for g, w in zip(grads, wanted, strict=True))
    return {site: torch.stack([next(dense)[0] for _ in range(lens.n_layers)]) for site in sites}


def attribute(
    gradient: Tensor, target: Run, source: Run, site: Site, positions: Sequence[int], sources: Sequence[int]
) -> Float[Tensor, "layer pos ..."]:
    """First-order change of LD at each layer and position (and head) if `sources` of the source run were patched in."""
    difference = source.sites[site][:, list(sources)] - target.sites[site][:, list(positions)]
    return (difference * gradient[:, list(positions)]).float().sum(-1)
