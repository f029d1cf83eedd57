"""One pass whose graph is kept, and what the logit difference owes to the activations in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.attention import Attend, LayerAttention, attending
from interp.model.lens import Lens
from interp.model.sites import Edit, Site
from interp.model.structure import edited, require_sites
from interp.model.trial import some_ids, tried
from interp.model.unembedding import last_logits
from interp.patching.nld import Answers
from interp.patching.patches import Run

Place = tuple[Site, int]
"""A site of one layer."""
GRADIENTS = "gradients"


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
        found = torch.autograd.grad(
            self.ld, list(wanted), torch.ones_like(self.ld), allow_unused=True, retain_graph=more_to_come
        )
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
    require_gradients(lens)
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


def require_gradients(lens: Lens) -> None:
    """Raises UserError where gradients stop on the way, as in kernels for quantized weights that know no derivative:
    what remains, the way round them, would be no estimate of anything."""
    tried(lens, GRADIENTS, lambda: _trial(lens))


def _trial(lens: Lens) -> dict[str, int]:
    """One pass from embeddings that want gradients, and what each module makes of those that do."""
    names = {module: name for name, module in lens.hf.base_model.named_modules()}
    stopped: list[str] = []

    def watch(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        asked = any(isinstance(one, Tensor) and one.requires_grad for one in inputs)
        if asked and isinstance(first, Tensor) and first.is_floating_point() and not first.requires_grad:
            stopped.append(names[module])

    ids = torch.tensor([some_ids(lens)], device=lens.device)
    with torch.enable_grad(), ExitStack() as stack:
        embeddings = lens.hf.get_input_embeddings()
        wanting = embeddings.register_forward_hook(lambda *call: call[-1].detach().requires_grad_(True))
        stack.callback(wanting.remove)
        for module in (one for one in names if list(one.state_dict())):  # those that have weights
            stack.callback(module.register_forward_hook(watch).remove)
        last_logits(lens, ids).float().sum().backward()
    if stopped:
        raise UserError(f"gradients stop at {stopped[0]} of {lens.name}: attribution cannot be trusted, patch exactly")
    return {"modules": len(names)}


def gradients(lens: Lens, run: Run, answers: Answers, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """d LD / d activation at every layer and position of `run`: (layer, pos, d) or (layer, pos, head, d_head).

    Costs one forward and one backward pass.
    """
    places = [(site, layer) for site in sites for layer in range(lens.n_layers)]
    traced = trace(lens, torch.tensor([run.ids], device=lens.device), answers, places)
    found = iter(traced.gradients([traced.kept[place] for place in places]))
    return {site: torch.stack([next(found)[0].to(lens.device) for _ in range(lens.n_layers)]) for site in sites}
