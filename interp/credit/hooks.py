"""Which parts of TRL's GRPOTrainer credit builds on. They are not public, so each is looked for before a training."""

from __future__ import annotations

import inspect
from importlib.metadata import version

from interp.errors import UserError

HOOKS = {
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": (
        *("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"),
    ),
    "_compute_loss": ("model", "inputs"),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "log": ("logs", "start_time"),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_tokenize_prompts": ("prompts",),
}
"""Methods that are overridden or called, and their first parameters."""

STATE = ("_metrics", "_tokenizer", "_is_vlm", "importance_sampling_level", "num_iterations")
"""Attributes that are read or changed."""


def check_hooks(trainer: type) -> None:
    """Raises UserError where a trainer lacks one of the HOOKS, or has it with other parameters."""
    for name, wanted in HOOKS.items():
        method = getattr(trainer, name, None)
        found = [] if method is None else list(inspect.signature(method).parameters)[1:]
        if tuple(found[: len(wanted)]) != wanted:
            raise _lacks(f"{trainer.__name__}.{name}({', '.join(wanted)})")


def check_state(trainer: object) -> None:
    """Raises UserError where a trainer that has been made lacks one of the attributes of STATE."""
    for name in STATE:
        if not hasattr(trainer, name):
            raise _lacks(f"{type(trainer).__name__}.{name}")


def _lacks(what: str) -> UserError:
    return UserError(f"TRL {version('trl')} has no {what}, which credit builds on: install trl 1.16")
