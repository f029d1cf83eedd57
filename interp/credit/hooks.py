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


def check_hooks(trainer: type) -> None:
    """Raises UserError where a trainer lacks one of the HOOKS, or has it with other parameters."""
    for name, wanted in HOOKS.items():
        method = getattr(trainer, name, None)
        found = [] if method is None else list(inspect.signature(method).parameters)[1:]
        if tuple(found[: len(wanted)]) != wanted:
            raise UserError(
                f"TRL {version('trl')} has no {trainer.__name__}.{name}({', '.join(wanted)}), which credit builds on: "
                "install trl 1.16"
            )
