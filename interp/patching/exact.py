"""Activation patching, exact (Paper A, section 5): recorded runs, and what many patches of them do.

Every number equals one full forward pass of the model with the activation replaced, up to rounding. It is computed many
times cheaper where that is shown to be right on the sequence at hand (engine.py), else by just such a pass.

Patching clean activations into the corrupted run is *denoising*; corrupted ones into the clean run, *noising*: call
`sweep` with the runs exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.bridge_check import require_bridge
from interp.model.lens import Lens
from interp.model.sites import Hook, Site
from interp.patching import plain, suffix
from interp.patching.engine import engine_for
from interp.patching.patches import BUDGET_BYTES, Engine, Freeze, Measure, Patch, Run, check_patch

__all__ = ["BUDGET_BYTES", "Freeze", "Measure", "Patch", "Run", "record", "sweep"]


@torch.no_grad()
def record(lens: Lens, ids: Sequence[int], sites: Sequence[Site] = (), hooks: Sequence[Hook] = ()) -> Run:
    """One pass over an unpadded sequence that keeps what patching needs; `hooks` act as in any TransformerLens run.

    Memory: layers x positions x (d_model, twice the keys and values, and each of `sites`). Raises UserError for a site
    that the model does not have.
    """
    bridged = bool(hooks)
    if bridged:
        require_bridge(lens)
    engine = engine_for(lens, ids, sites, bridged)
    return (suffix if engine == Engine.FAST else plain).record(lens, ids, sites, hooks, bridged)


@torch.no_grad()
def sweep(
    lens: Lens,
    target: Run,
    source: Run,
    patches: Sequence[Patch],
    measure: Measure,
    *,
    budget_bytes: int = BUDGET_BYTES,
    hooks: Sequence[Hook] = (),
    freeze: Freeze | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float[Tensor, " patch"]]:
    """`measure` of the logits at the last position under each patch, in the order of `patches`.

    `hooks` act on the computed part of the sequence, all of it or a suffix, one row a batch entry: shapes (row,
    position, ...); the target run must have been recorded with them. `progress` is called with the number of patches
    done. Raises UserError for a patch outside the model or the sequence, for a site that the model does not have, and
    for a budget that cannot hold one patch.
    """
    for patch in patches:
        check_patch(lens, target, source, patch)
    bridged = bool(hooks)
    sites = {patch.site for patch in patches} | ({Site.Z} if freeze is not None else set())
    fast = target.engine == Engine.FAST and engine_for(lens, target.ids, sites, bridged) == Engine.FAST
    batches = (suffix if fast else plain).patched(lens, target, source, patches, budget_bytes, hooks, freeze, bridged)
    found: dict[str, Tensor] = {}
    for indices, logits in batches:
        for name, values in measure(logits).items():
            found.setdefault(name, torch.full((len(patches),), torch.nan, dtype=torch.float64))
            found[name][indices] = values.double().cpu()
        if progress is not None:
            progress(len(indices))
    return found
