"""The self-check of a lens: does every measure say what the model's own forward pass says?

Made on a few tokens when a model is loaded; a measure that cannot be trusted is named here and refuses itself when it
is used, so that no experiment is refused for what it does not need. Measures whose rightness depends on length are
compared again on the sequences that are measured (interp/patching/engine.py, interp/model/streaming.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from interp.errors import UserError
from interp.model.checkpoints import quantized_by
from interp.model.lens import Lens
from interp.model.tolerance import HALF_ROUNDING, ROUNDING
from interp.model.trial import some_ids, tried
from interp.model.unembedding import last_logits, logits_of, trunk_of


def check_instrument(lens: Lens, measures: Iterable[Callable[[Lens], None]]) -> dict[str, Any]:
    """Tries the measures, each of which raises UserError where it cannot be trusted, and returns what was found
    (`lens.checked`). Raises UserError for a model that nothing can be measured on: its logits are not finite, or look
    at later tokens."""
    check_model(lens)
    for require in measures:
        try:
            require(lens)
        except UserError:
            continue  # noted in lens.checked
    return lens.checked


@torch.no_grad()
def check_model(lens: Lens) -> None:
    """Raises UserError unless the logits are finite and causal."""
    ids = torch.tensor([some_ids(lens)], device=lens.device)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % lens.n_tokens
    before, after = (lens.hf(input_ids=one).logits[0, :-1].float() for one in (ids, other))
    if not bool(before.isfinite().all()):
        raise UserError(f"model {lens.name} gives logits that are not finite numbers in {lens.hf.dtype}")
    leak, scale = float((before - after).abs().max()), float(before.abs().max())
    lens.checked["model"] = {"attention": lens.attention, "logit_scale": scale, "causal_leak": leak}
    if not leak <= ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * scale:
        how = quantized_by(lens.hf.config)
        why = f" ({how} applies its weights by what all tokens of the text are like)" if how is not None else ""
        raise UserError(f"a later token changes earlier logits of {lens.name}{why}: only causal models can be measured")


def require_unembedding(lens: Lens) -> None:
    """Raises UserError where logits cannot be made from the last layer's output."""

    def trial() -> dict[str, float]:
        ids = torch.tensor([some_ids(lens)], device=lens.device)
        hidden = trunk_of(lens)(ids).last_hidden_state[0, -1:]
        expected = last_logits(lens, ids)
        difference = float((logits_of(lens, hidden) - expected).abs().max())
        if not difference <= ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * float(expected.abs().max()):
            raise UserError(f"logits made from the last layer of {lens.name} are off by {difference:.2g}")
        return {"largest_difference": difference}

    with torch.no_grad():
        tried(lens, "unembedding", trial)
