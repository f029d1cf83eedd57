"""The places where an activation is replaced, and what replaces it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from torch import Tensor

Hook = tuple[str, Callable[..., Any]]
"""A TransformerLens hook: its name and a function of (activation, hook=)."""
Edit = Callable[[Tensor], Tensor]
"""From an activation to what stands in its place."""


class Site(StrEnum):
    """Where an activation is replaced; each is TransformerLens' hook of that name."""

    RESID_PRE = "resid_pre"
    """Residual stream before a layer."""
    ATTN_OUT = "attn_out"
    MLP_OUT = "mlp_out"
    Z = "z"
    """A head's output before the output projection; all heads if none is named."""
    Q = "q"
    """Queries, keys and values before rotation; keys and values have the model's key-value heads."""
    K = "k"
    V = "v"

    @property
    def per_head(self) -> bool:
        return self in (Site.Z, Site.Q, Site.K, Site.V)

    def hook(self, layer: int) -> str:
        return f"blocks.{layer}.{'attn.' if self.per_head else ''}hook_{self}"


def as_hook(edit: Edit) -> Callable[..., Tensor]:
    """An edit as TransformerLens calls its hooks."""

    def hook(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 - TransformerLens passes it by name
        return edit(activation)

    return hook


def flat(edit: Edit) -> Edit:
    """An edit of (token, ...) for activations of shape (entry, position, ...)."""

    def edited(activation: Tensor) -> Tensor:
        return edit(activation.flatten(0, 1)).reshape(activation.shape)

    return edited
