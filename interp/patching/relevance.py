"""Propagation rules in place of derivatives: relevance patching (RelP, Jafari et al. 2025), for gated models.

The forward pass stays as it is. Backwards, the denominators of norms are constants (LN rule), a SiLU passes on in
proportion to what it lets through (identity rule: silu(x) = x * sigmoid(x) with the sigmoid held), and each factor of a
gate gets half (half rule). What these rules leave out is what makes derivatives vanish or explode in places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens

GATED = ("llama", "qwen2", "qwen3")
"""Configurations whose layers the rules are written for."""


def require_rules(name: str, config: Any) -> None:
    """Raises UserError for the (text) configuration of an architecture that has no rules here."""
    kind, act = config.model_type, getattr(config, "hidden_act", None)
    if kind not in GATED or act != "silu":
        raise UserError(
            f"relp has rules for {', '.join(GATED)} with SiLU gates, not for {name} ({kind}): use integrated"
        )


@contextmanager
def relevance_rules(lens: Lens) -> Iterator[None]:
    """While open, gradients follow the rules. Raises UserError for an architecture without rules."""
    require_rules(lens.name, lens.config)
    model: Any = lens.hf.base_model
    with ExitStack() as stack:
        for module in model.modules():
            hook = None
            if type(module).__name__.endswith("RMSNorm"):
                hook = module.register_forward_hook(_held_denominator)
            elif type(module).__name__.endswith("MLP"):
                stack.callback(module.act_fn.register_forward_hook(_held_sigmoid).remove)
                hook = module.down_proj.register_forward_pre_hook(_half_each)
            if hook is not None:
                stack.callback(hook.remove)
        yield


def _held_denominator(norm: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    wide = inputs[0].float() if inputs[0].dtype != torch.float64 else inputs[0]
    scale = torch.rsqrt(wide.detach().pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    linear = norm.weight * (wide * scale).to(inputs[0].dtype)
    return linear + (output - linear).detach()


def _held_sigmoid(activation: object, inputs: tuple[Tensor], output: Tensor) -> Tensor:  # noqa: ARG001 - PyTorch's
    linear = inputs[0] * torch.sigmoid(inputs[0]).detach()
    return linear + (output - linear).detach()


def _half_each(projection: object, inputs: tuple[Tensor]) -> tuple[Tensor]:  # noqa: ARG001 - PyTorch's
    product = inputs[0]
    return (product / 2 + (product / 2).detach(),)
