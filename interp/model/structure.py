"""Where a model's layers, attention and MLPs are, found by watching a short forward pass, and edits of what they make.

Everything acts on the Hugging Face model's own modules by PyTorch hooks, so the forward pass stays the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Edit, Site

WATCHED_TOKENS = 4
FUSED_NAMES = {Site.Q: "q_proj", Site.K: "k_proj", Site.V: "v_proj"}


@dataclass(frozen=True)
class Parts:
    """One layer's modules; None where it has no such part, or none that could be told from others."""

    layer: nn.Module
    kind: str
    """What tells layers of different construction apart."""
    output: nn.Module | None
    """The attention's output projection: its input is every head's output, its output what attention writes."""
    mlp: nn.Module | None
    projections: Mapping[Site, nn.Module]
    """Those of queries, keys and values, where each has one of its own."""


def parts_of(lens: Lens) -> list[Parts]:
    """Every layer's parts. Raises UserError where the layers cannot be found."""
    if "parts" not in lens.memo:
        lens.memo["parts"] = _watched(lens)
    found: list[Parts] = lens.memo["parts"]
    return found


def _layers(lens: Lens) -> list[nn.Module]:
    for module in lens.hf.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == lens.n_layers:
            return list(module)
    raise UserError(f"{lens.name}: the layers of {type(lens.hf).__name__} cannot be found: it cannot be patched")


def _is_matrix(module: nn.Module) -> bool:
    """A leaf that multiplies by a matrix."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and not list(module.children())


@torch.no_grad()
def _watched(lens: Lens) -> list[Parts]:
    layers = _layers(lens)
    calls: dict[nn.Module, list[tuple[Any, ...]]] = {}
    order: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.setdefault(module, []).append((*inputs, *kwargs.values(), output))
        order.append(module)

    with ExitStack() as stack:
        for layer in layers:
            for module in layer.modules():
                if module is not layer:
                    handle = module.register_forward_hook(note, with_kwargs=True)
                    stack.callback(handle.remove)
        lens.hf(input_ids=torch.arange(WATCHED_TOKENS, device=lens.device)[None])
    types = getattr(lens.config, "layer_types", None) or [None] * len(layers)
    return [_parts(lens, layer, types[i], calls, order) for i, layer in enumerate(layers)]


def _parts(
    lens: Lens, layer: nn.Module, kind: str | None, calls: dict[nn.Module, list[Any]], order: list[nn.Module]
) -> Parts:
    children = [child for child in layer.children() if child in calls]
    attention = next((child for child in children if _attends(child)), None)
    output, projections = None, {}
    if attention is not None:
        inside = set(attention.modules())
        matrices = [module for module in order if module in inside and _is_matrix(module)]
        width = calls[matrices[-1]][0][0].shape[-1] if matrices else 1
        if matrices and width % lens.n_heads == 0:
            output = matrices[-1]
            named = {name: module for name, module in attention.named_modules() if module in matrices}
            projections = {site: named[name] for site, name in FUSED_NAMES.items() if name in named}
            # Wider ones hold something else beside the queries, such as a gate.
            if Site.Q in projections and calls[projections[Site.Q]][0][-1].shape[-1] != width:
                projections = {}
    # Beside an attention, what is left is the MLP; without one it may as well be what mixes positions instead.
    mlps = [one for one in children if attention is not None and one is not attention and _is_mlp(one, calls[one])]
    attributes = {
        name: value
        for module in layer.modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int) and name not in ("layer_idx", "training") and not name.startswith("_")
    }
    classes = [type(module).__name__ for module in layer.modules()]
    return Parts(layer, f"{kind} {classes} {attributes}", output, mlps[0] if len(mlps) == 1 else None, projections)


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _is_mlp(module: nn.Module, calls: list[Any]) -> bool:
    """A block with matrices of its own that takes the stream alone: one that adds the residual itself takes two."""
    heavy = any(weight.dim() >= 2 for weight in module.parameters())
    values = calls[0][:-1]
    return heavy and not _is_matrix(module) and len(calls) == 1 and sum(isinstance(v, Tensor) for v in values) == 1


def edited(lens: Lens, layer: int, edits: Mapping[Site, Edit]) -> AbstractContextManager[Any]:
    """While open, a layer's activations are replaced. Edits see (row, position, d) or (row, position, head, d_head).

    Raises UserError for a site that the layer does not have.
    """
    parts = parts_of(lens)[layer]
    stack = ExitStack()
    for site, edit in edits.items():
        handle = _installed(lens, parts, layer, site, edit)
        stack.callback(handle.remove)
    return stack


def require_sites(lens: Lens, sites: Mapping[Site, Any] | list[Site]) -> None:
    """Raises UserError, naming it, for a site that some layer does not have."""
    for layer, parts in enumerate(parts_of(lens)):
        for site in sites:
            _module(lens, parts, layer, site)


def _module(lens: Lens, parts: Parts, layer: int, site: Site) -> nn.Module:
    found = {
        Site.RESID_PRE: parts.layer,
        Site.ATTN_OUT: parts.output,
        Site.Z: parts.output,
        Site.MLP_OUT: parts.mlp,
        **parts.projections,
    }.get(site)
    if found is None:
        raise UserError(f"{site} of {lens.name} cannot be patched: layer {layer} has no module that makes it alone")
    return found


def _installed(lens: Lens, parts: Parts, layer: int, site: Site, edit: Edit) -> Any:
    module = _module(lens, parts, layer, site)
    if site == Site.RESID_PRE:
        return module.register_forward_pre_hook(_first_input(edit), with_kwargs=True)
    if site == Site.Z:
        return module.register_forward_pre_hook(_first_input(_by_head(edit, lens.n_heads)), with_kwargs=True)
    if site == Site.Q:
        return module.register_forward_hook(_output(_by_head(edit, lens.n_heads)))
    if site in (Site.K, Site.V):
        heads = getattr(lens.config, "num_key_value_heads", None) or lens.n_heads
        return module.register_forward_hook(_output(_by_head(edit, heads)))
    return module.register_forward_hook(_output(edit))


def _by_head(edit: Edit, heads: int) -> Edit:
    return lambda flat: edit(flat.unflatten(-1, (heads, -1))).flatten(-2)


def _first_input(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001 - PyTorch's
        if inputs:
            return (edit(inputs[0]), *inputs[1:]), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return inputs, {**kwargs, name: edit(kwargs[name])}

    return hook


def _output(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001 - PyTorch's
        first = output[0] if isinstance(output, tuple) else output
        # Some experts take and give all tokens of all rows in one axis.
        changed = edit(first) if first.dim() > 2 else edit(first[None])[0]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
