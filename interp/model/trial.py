"""A measure is tried on a few tokens before it is first used on a model; what it cannot measure is said in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from interp.errors import UserError
from interp.model.checkpoints import first_line
from interp.model.lens import Lens

TRIAL_TOKENS = 24


def some_ids(lens: Lens, n: int = TRIAL_TOKENS) -> list[int]:
    """Ordinary tokens, all with an embedding of their own."""
    return [i * 7919 % lens.n_tokens for i in range(1, n + 1)]


def tried(lens: Lens, what: str, trial: Callable[[], Mapping[str, Any]]) -> None:
    """Runs a trial once for a lens and keeps what it found in `lens.checked`. Raises UserError where it failed.

    A trial compares a measure with the model's own forward pass and raises UserError if the two disagree. Any other
    exception means that the architecture is not one that the measure can run on.
    """
    if what not in lens.checked:
        try:
            lens.checked[what] = dict(trial())
        except UserError as error:
            lens.checked[what] = {"refused": str(error)}
        except Exception as error:
            said = f"{what}: {lens.name} cannot be measured ({type(lens.hf).__name__}: {first_line(error)})"
            lens.checked[what] = {"refused": said}
    refused = lens.checked[what].get("refused")
    if refused is not None:
        raise UserError(refused)
