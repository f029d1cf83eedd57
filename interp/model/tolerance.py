"""How far two ways of computing the same logits may lie apart, and in which layers they are compared."""

from __future__ import annotations

import torch

from interp.model.lens import Lens
from interp.model.structure import parts_of

SHARE_OF_EFFECT = 0.01
"""A difference up to this share of an intervention's effect is rounding."""
ROUNDING = {torch.float64: 1e-10, torch.float32: 3e-5}
HALF_ROUNDING = 0.02
"""And so is one up to this share of the largest logit, whatever the effect."""


def representative_layers(lens: Lens) -> list[int]:
    """The first, the middle and the last layer, and the first of each kind of construction."""
    kinds: dict[str, int] = {}
    for layer, parts in enumerate(parts_of(lens)):
        kinds.setdefault(parts.kind, layer)
    return sorted({0, lens.n_layers // 2, lens.n_layers - 1, *kinds.values()})
