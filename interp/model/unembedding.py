"""The one way from the last layer's output to logits: the model's own, whatever it scales, caps or adds on the way."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.pieces import in_pieces

HALF = (torch.float16, torch.bfloat16)
VOCABULARY_PART = 16384
"""So many rows of a half-precision unembedding are turned into float32 at a time."""


@torch.no_grad()
def logits_of(lens: Lens, hidden: Float[Tensor, "row d"]) -> Float[Tensor, "row vocab"]:
    """Logits from the last layer's *normalised* output, float32 or better even for half-precision models.

    The model's own forward pass is run with this output in place of its layers. Raises UserError where a model has no
    layers apart from its head.
    """
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=lens.device)
    with patch.object(trunk_of(lens), "forward", lambda *_, **__: _Output(hidden[None])), exact_head(lens):
        logits: Tensor = lens.hf(input_ids=ids, **_without_cache(lens)).logits[0]
    return logits


class _Output:
    """A trunk's output that has nothing but its last hidden state, whatever else an architecture would ask it for."""

    def __init__(self, hidden: Float[Tensor, "1 row d"]) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


@torch.no_grad()
def trunk_of(lens: Lens) -> Any:
    """What lies below the head and returns its input: the module that the model's own forward pass calls first.

    Raises UserError where there is none.
    """
    if "trunk" not in lens.memo:
        candidates = (lens.hf.base_model, getattr(lens.hf, "model", None), lens.hf.get_decoder())
        called: list[Any] = []
        for module in dict.fromkeys(one for one in candidates if isinstance(one, torch.nn.Module)):
            handle = module.register_forward_hook(lambda module, *_: called.append(module))
            lens.hf(input_ids=torch.zeros(1, 1, dtype=torch.long, device=lens.device))
            handle.remove()
            if called and module is not lens.hf:
                break
            called.clear()
        else:
            raise UserError(f"{lens.name}: {type(lens.hf).__name__} has no head apart from its layers")
        lens.memo["trunk"] = called[0]
    return lens.memo["trunk"]


def _without_cache(lens: Lens) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in parameters(lens) else {}


def parameters(lens: Lens) -> set[str]:
    """The names of what the model's forward pass takes."""
    if "parameters" not in lens.memo:
        lens.memo["parameters"] = set(inspect.signature(type(lens.hf).forward).parameters)
    found: set[str] = lens.memo["parameters"]
    return found


def last_logits(lens: Lens, ids: Tensor, **inputs: Any) -> Float[Tensor, "row vocab"]:
    """Logits at the last position from the model's own full forward pass, float32 or better."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters(lens) else {}
    with exact_head(lens), in_pieces(lens, ids):
        logits: Tensor = lens.hf(input_ids=ids, **_without_cache(lens), **keep, **inputs).logits[:, -1]
    return logits


@contextmanager
def exact_head(lens: Lens) -> Iterator[None]:
    """While open, a half-precision model's unembedding is multiplied in float32: its own logits are too coarse."""
    head = lens.hf.get_output_embeddings()
    if lens.hf.dtype not in HALF or not isinstance(head, torch.nn.Linear):
        yield
        return

    def multiply(module: torch.nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:  # noqa: ARG001 - PyTorch's
        hidden = inputs[0].float()
        parts = [hidden @ part.float().T for part in module.weight.split(VOCABULARY_PART)]
        logits = torch.cat(parts, dim=-1)
        return logits if module.bias is None else logits + module.bias.float()

    handle = head.register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()
