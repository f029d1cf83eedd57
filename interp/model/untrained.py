"""Does a model have the weights that it was initialised with? What agrees with a paper there is no finding."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

UNTRAINED = "the model's weights are random: whatever agrees here is no finding about trained models"
SAMPLE = 2**16
"""Values looked at of every matrix, evenly spaced."""
LEAST = 512
"""Values below which a spread says little."""
WITHIN = 0.1
"""How far the standard deviation may be from the configuration's, relative to it."""


def looks_untrained(model: PreTrainedModel) -> bool:
    """Whether every norm still has one value throughout, and nine of ten matrices the spread that initialisation gives
    (`initializer_range`). One step of an optimizer on all weights changes the first. Architectures that start otherwise
    (GPT-2 scales by depth) are not recognised."""
    spread = float(getattr(model.config.get_text_config(), "initializer_range", None) or 0.02)
    alike = []
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and "norm" in name.lower() and bool((weight != weight[0]).any()):
            return False
        if weight.ndim == 2 and weight.numel() >= LEAST:
            values: Tensor = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)].float()
            alike.append(abs(float(values.std()) / spread - 1) < WITHIN)
    return bool(alike) and float(torch.tensor(alike).float().mean()) >= 0.9
