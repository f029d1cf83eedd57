"""What a patch is, what a recorded run is, and the edits that write the one into the other: for every engine alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError, member
from interp.model.lens import Lens
from interp.model.sites import Edit, Site

BUDGET_BYTES = 2**30
"""Default memory for the activations of one batch of patches."""

Measure = Callable[[Float[Tensor, "row vocab"]], Mapping[str, Float[Tensor, " row"]]]


class Engine(StrEnum):
    """What computes a patched run."""

    FAST = "fast"
    """Only what a patch can change, on the keys and values of what comes before (suffix.py)."""
    PLAIN = "plain"
    """The model's own full forward pass for every patch (plain.py): slow, right on every architecture."""


@dataclass(frozen=True)
class Patch:
    """One intervention: at `layer` (and `head`, None = all), `positions` take the source run's activations.

    `sources` are the source run's positions, in the same order; None = the same as `positions`.
    """

    site: Site
    layer: int
    positions: tuple[int, ...]
    head: int | None = None
    sources: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", member(Site, self.site, "site"))


@dataclass
class Run:
    """What one unpatched pass leaves: enough to start again at any layer and position.

    What is kept by layer in one tensor lies on the model's first device; keys and values lie where their layer does.
    """

    engine: Engine
    ids: tuple[int, ...]
    resid: Float[Tensor, "layer pos d"]
    keys: list[Float[Tensor, "1 kv pos d_head"]]
    """Of every layer, after rotation; none where the plain engine recorded."""
    values: list[Float[Tensor, "1 kv pos d_head"]]
    sites: dict[Site, Tensor]
    """(layer, pos, d) or (layer, pos, head, d_head)."""
    logits: Float[Tensor, " vocab"]
    """At the last position, float32."""


@dataclass(frozen=True)
class Freeze:
    """After the patched positions, heads outside `heads` keep the unpatched run's output: path patching.

    What is left of the effect went through `heads` (and, inside a position, through anything). The target run must have
    been recorded with Site.Z.
    """

    heads: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Layout:
    """Where rows lie: row i holds positions starts[i]..stop-1. Rows fill `entries` batch entries, one after another.

    One entry holds rows of any widths behind one another, kept apart by the mask, on one copy of the keys before them;
    several entries hold one row each, all of the same width.
    """

    starts: tuple[int, ...]
    stop: int
    entries: int = 1

    def __post_init__(self) -> None:
        if self.entries > 1 and (len(set(self.starts)) > 1 or self.entries != len(self.starts)):
            raise ValueError("several entries hold one row each, all from the same start")

    @property
    def widths(self) -> list[int]:
        return [self.stop - start for start in self.starts]

    @property
    def offsets(self) -> list[int]:
        """Index of each row's first token among all tokens."""
        return [0, *np.cumsum(self.widths)[:-1].tolist()]

    @property
    def cached(self) -> int:
        """How many cached keys are put before the rows' own."""
        return max(self.starts)

    def positions(self) -> Int[Tensor, " token"]:
        return torch.cat([torch.arange(start, self.stop) for start in self.starts])


def check_patch(lens: Lens, target: Run, source: Run, patch: Patch) -> None:
    lens.require_layer(patch.layer)
    if patch.site not in source.sites:
        raise ValueError(f"the source run was recorded without {patch.site}")
    if patch.head is not None:
        if not patch.site.per_head:
            raise UserError(f"{patch.site} has no heads: leave the head out")
        n_heads = source.sites[patch.site].shape[2]
        if not 0 <= patch.head < n_heads:
            raise UserError(
                f"head {patch.head} is out of range: {patch.site} of {lens.name} has heads 0 to {n_heads - 1}"
            )
    sources = patch.positions if patch.sources is None else patch.sources
    if not patch.positions or len(sources) != len(patch.positions):
        raise UserError(f"a patch needs positions, as many in both runs: {patch.positions} and {sources}")
    for run, positions in ((target, patch.positions), (source, sources)):
        if not all(0 <= p < len(run.ids) for p in positions):
            raise UserError(f"positions {positions} lie outside a sequence of {len(run.ids)} tokens")


def start_of(patch: Patch) -> int:
    return min(patch.positions)


def keep(into: list[Tensor]) -> Edit:
    """An edit that changes nothing and takes note."""

    def take(activation: Tensor) -> Tensor:
        into.append(activation.clone())
        return activation

    return take


def edits_of(source: Run, joining: Sequence[Patch], offsets: Sequence[int]) -> dict[Site, Edit]:
    """For each site that the joining rows patch, what writes the source's activations into them.

    `offsets[i]` is where row i's first patched position lies among all tokens.
    """
    edits: dict[Site, Edit] = {}
    for site in sorted({patch.site for patch in joining}):
        chosen = [(offset, patch) for offset, patch in zip(offsets, joining, strict=True) if patch.site is site]

        def write(activation: Tensor, site: Site = site, chosen: Any = chosen) -> Tensor:
            edited = activation.clone()
            for offset, patch in chosen:
                at = [offset + p - start_of(patch) for p in patch.positions]
                values = source.sites[site][patch.layer, list(patch.sources or patch.positions)].to(edited)
                if patch.head is None:
                    edited[at] = values
                else:
                    edited[at, patch.head] = values[:, patch.head]
            return edited

        edits[site] = write
    return edits


def frozen(target: Run, freeze: Freeze, layout: Layout, last: Sequence[int], layer: int) -> Edit:
    """Gives every head but the chosen ones the unpatched output, behind each row's last patched position."""
    positions = layout.positions().to(target.resid.device)
    base = target.sites[Site.Z][layer, positions]
    frozen = torch.tensor([(layer, head) not in freeze.heads for head in range(base.shape[1])], device=base.device)
    ends = torch.repeat_interleave(torch.tensor(last), torch.tensor(layout.widths)).to(base.device)
    held = (positions > ends)[:, None, None] & frozen[None, :, None]
    return lambda z: torch.where(held.to(z.device), base.to(z), z)


def both(first: Edit | None, second: Edit) -> Edit:
    return second if first is None else lambda activation: second(first(activation))
