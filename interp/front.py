"""The front door: what notebooks use, without Hydra and without a run directory."""

from __future__ import annotations

from typing import Any

from interp.ablation.interventions import require_interventions
from interp.model.instrument import check_instrument, require_unembedding
from interp.model.lens import Lens
from interp.model.streaming import require_masses
from interp.patching.engine import require_patching

MEASURES = (require_unembedding, require_masses, require_interventions, require_patching)


def check(lens: Lens) -> dict[str, Any]:
    """The self-check of all measures: what the comparisons with the model's own forward pass found."""
    return check_instrument(lens, MEASURES)
