"""The plain engine: one full forward pass of the model's own for every patch, with hooks on its modules.

Slow, and right on every architecture whose modules can be found (interp/model/structure.py); what the fast engine is
compared with, and what takes over where the two disagree. With TransformerLens hooks the full pass is the bridge's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Edit, Hook, Site, as_hook, flat
from interp.model.structure import edited, require_sites
from interp.model.unembedding import last_logits
from interp.patching.patches import Engine, Freeze, Layout, Patch, Run, both, edits_of, frozen, keep


@torch.no_grad()
def record(lens: Lens, ids: Sequence[int], sites: Sequence[Site], hooks: Sequence[Hook], bridged: bool) -> Run:
    """One full pass over an unpadded sequence that keeps the activations of some sites in every layer."""
    kept: dict[Site, list[Tensor]] = {site: [] for site in Site if site in sites or site == Site.RESID_PRE}
    if not bridged:
        require_sites(lens, list(kept))
    noting = {site: keep(into) for site, into in kept.items()}
    tokens = torch.tensor([list(ids)], device=lens.device)
    logits = _full_pass(lens, tokens, dict.fromkeys(range(lens.n_layers), noting), hooks, bridged)[0]
    for site, into in kept.items():
        if len(into) != lens.n_layers:
            raise UserError(f"{site} of {lens.name} cannot be recorded: {len(into)} of {lens.n_layers} layers have it")
    stacked = {site: torch.stack([one.flatten(0, 1).to(lens.device) for one in into]) for site, into in kept.items()}
    return Run(Engine.PLAIN, tuple(ids), stacked[Site.RESID_PRE], [], [], stacked, logits)


@torch.no_grad()
def patched(
    lens: Lens,
    target: Run,
    source: Run,
    patches: Sequence[Patch],
    budget_bytes: int,
    hooks: Sequence[Hook],
    freeze: Freeze | None,
    bridged: bool,
) -> Iterator[tuple[list[int], Float[Tensor, "row vocab"]]]:
    """Batches of patches: which they are, and their logits at the last position."""
    n = len(target.ids)
    rows = budget_bytes // _bytes_a_row(lens, n, bridged)
    if rows < 1:
        raise UserError(
            f"one forward pass over {n} tokens needs {_bytes_a_row(lens, n, bridged) / 2**20:.1f} MiB: raise "
            f"experiment.budget_mb above {budget_bytes // 2**20}"
        )
    if not bridged:
        require_sites(lens, list({patch.site for patch in patches} | ({Site.Z} if freeze is not None else set())))
    for first in range(0, len(patches), rows):
        part = patches[first : first + rows]
        layout = Layout((0,) * len(part), n, len(part))
        edits: dict[int, dict[Site, Edit]] = {}
        for layer in sorted({patch.layer for patch in part}):
            here = [(row * n + min(p.positions), p) for row, p in enumerate(part) if p.layer == layer]
            edits[layer] = edits_of(source, [patch for _, patch in here], [offset for offset, _ in here])
        if freeze is not None:
            last = [max(patch.positions) for patch in part]
            for layer in range(lens.n_layers):
                here_too = edits.setdefault(layer, {})
                here_too[Site.Z] = both(here_too.get(Site.Z), frozen(target, freeze, layout, last, layer))
        whole = {layer: {site: flat(edit) for site, edit in here.items()} for layer, here in edits.items()}
        tokens = torch.tensor([target.ids] * len(part), device=lens.device)
        yield list(range(first, first + len(part))), _full_pass(lens, tokens, whole, hooks, bridged)


def _full_pass(
    lens: Lens,
    ids: Int[Tensor, "row pos"],
    edits: Mapping[int, Mapping[Site, Edit]],
    hooks: Sequence[Hook],
    bridged: bool,
) -> Float[Tensor, "row vocab"]:
    """Logits at the last position. Edits see (row, pos, ...)."""
    if bridged:
        own = [(site.hook(layer), as_hook(edit)) for layer, here in edits.items() for site, edit in here.items()]
        logits = lens.bridge.run_with_hooks(ids, fwd_hooks=[*own, *hooks], return_type="logits", logits_to_keep=1)
        return logits[:, -1]
    with ExitStack() as stack:
        for layer, here in edits.items():
            stack.enter_context(edited(lens, layer, here))
        return last_logits(lens, ids)


def _bytes_a_row(lens: Lens, tokens: int, bridged: bool) -> int:
    """About the memory of one layer on one whole sequence, with the logits of its last position."""
    config, size = lens.config, lens.hf.dtype.itemsize
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    scores = (
        lens.n_heads * tokens * tokens * (3 * size + 4) if bridged or lens.attention == "eager" else tokens * tokens
    )
    return int(scores + tokens * (10 * config.hidden_size + 3 * intermediate) * size + config.vocab_size * 8)
