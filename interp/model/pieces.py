"""Long sequences in pieces: what a forward pass over tens of thousands of tokens must hold at a time.

Fused attention holds no pattern, so the largest thing of a long pass is what the MLPs hold inside: several times the
model's width for every token. An MLP treats each token by itself, so it is run on some tokens at a time, which changes
nothing but the order of sums; that it does treat each by itself is tested on the sequence at hand. (The same as tiled
MLPs in trainings on long sequences: Bekman et al. 2025, arXiv 2506.13996.) A pass that keeps no keys and values needs
no other pieces. Prompts that are continued go through the model piece by piece (interp/model/generate.py), for their
keys and values are kept anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.structure import parts_of
from interp.model.tolerance import HALF_ROUNDING, ROUNDING

log = logging.getLogger(__name__)

PIECE_TOKENS = 2048
"""So many tokens of all rows are in an MLP at a time."""
CHECKED_TOKENS = 4
"""So many on either side of a border between two pieces are computed once more, together."""
PIECES = "MLPs in pieces"


@contextmanager
def in_pieces(lens: Lens, ids: Tensor) -> Iterator[None]:
    """While open, MLPs take the tokens of a long pass over `ids` (row, position) a piece at a time.

    Nothing changes for short passes, for activations whose gradients are wanted, for layers whose MLP cannot be told
    from their other parts, and where a token's output depends on its neighbours.
    """
    if ids.numel() <= PIECE_TOKENS or not lens.checked.get(PIECES, {}).get("used", True):
        yield
        return
    try:
        mlps = [parts.mlp for parts in parts_of(lens) if parts.mlp is not None]
    except UserError:  # layers that cannot be found
        mlps = []
    with ExitStack() as stack:
        for mlp in mlps:
            stack.enter_context(patch.object(mlp, "forward", _piecewise(lens, mlp.forward)))
        yield


def _piecewise(lens: Lens, whole: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **options: Any) -> Any:
        taken = inputs[0] if len(inputs) == 1 and not options and isinstance(inputs[0], Tensor) else None
        if taken is None or taken.dim() < 2 or taken.requires_grad:
            return whole(*inputs, **options)
        tokens = taken.shape[-2]
        size = max(2 * CHECKED_TOKENS, PIECE_TOKENS * tokens * taken.shape[-1] // taken.numel())
        if size >= tokens or not lens.checked.get(PIECES, {}).get("used", True):
            return whole(taken)

        def piece(start: int, stop: int) -> Any:
            return whole(taken[..., start:stop, :].contiguous())

        first = piece(0, size)
        if not isinstance(first, Tensor) or first.shape[:-1] != taken[..., :size, :].shape[:-1] or first.requires_grad:
            return whole(taken)  # one that also gives out something else, or is being trained
        found = first.new_empty(*taken.shape[:-1], first.shape[-1])
        found[..., :size, :] = first
        for start in range(size, tokens, size):
            found[..., start : start + size, :] = piece(start, start + size)
        around = slice(size - CHECKED_TOKENS, size + CHECKED_TOKENS)
        right = _same(lens, piece(around.start, around.stop), found[..., around, :])
        return found if right else whole(taken)

    return forward


def _same(lens: Lens, together: Tensor, found: Tensor) -> bool:
    """Whether tokens round a border get in pieces what they get together."""
    difference = float((found.float() - together.float()).abs().max())
    scale = float(together.float().abs().max())
    right = difference <= ROUNDING.get(found.dtype, HALF_ROUNDING) * scale
    known = lens.checked.setdefault(PIECES, {"used": True, "largest_difference": 0.0})
    known["largest_difference"] = max(known["largest_difference"], difference)
    if not right:
        known["used"] = False
        log.warning("%s cannot be used on %s (off by %.2g of %.2g): long texts need more memory", PIECES, lens.name,
                    difference, scale)  # fmt: skip
    return right
