"""Attribution patching: all patches at once from one backward pass, a first-order screen (Nanda 2023).

The effect of replacing activation x by x' is taken as (x' - x) . d LD / d x. Exact where the rest of the model is
linear in x; elsewhere `sweep` of interp/patching.py says what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.blocks import Site
from interp.effects import Answers
from interp.lens import Lens
from interp.patching import Run


def gradients(lens: Lens, run: Run, answers: Answers, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """d LD / d activation at every layer and position of `run`: (layer, pos, d) or (layer, pos, head, d_head)."""
    kept: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 - TransformerLens passes it by name
            kept[name] = activation if activation.requires_grad else activation.detach().requires_grad_(True)
            return kept[name]

        return hook

    names = [site.hook(layer) for site in sites for layer in range(lens.n_layers)]
    first = Site.RESID_PRE.hook(0)
    ids = torch.tensor([run.ids], device=lens.device)
    with torch.enable_grad(), lens.bridge.hooks(fwd_hooks=[(n, watch(n)) for n in dict.fromkeys([first, *names])]):
        logits = lens.bridge(ids, return_type="logits", logits_to_keep=1)[0, -1]
        ld = answers.ld(logits)
        grads = torch.autograd.grad(ld, [kept[name] for name in names], allow_unused=True)
    # After the last layer's attention, positions before the last have no way to the logits: no gradient is a zero one.
    dense = [torch.zeros_like(kept[n]) if g is None else g for n, g in zip(names, grads, strict=True)]
    by_name = dict(zip(names, (g[0].detach() for g in dense), strict=True))
    return {site: torch.stack([by_name[site.hook(layer)] for layer in range(lens.n_layers)]) for site in sites}


def attribute(
    gradient: Tensor, target: Run, source: Run, site: Site, positions: Sequence[int], sources: Sequence[int]
) -> Float[Tensor, "layer pos ..."]:
    """First-order change of LD at each layer and position (and head) if `sources` of the source run were patched in."""
    difference = source.sites[site][:, list(sources)] - target.sites[site][:, list(positions)]
    return (difference * gradient[:, list(positions)]).float().sum(-1)
