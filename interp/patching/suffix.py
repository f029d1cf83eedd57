"""The fast engine: patches that compute only what they can change, many in one batch (Paper A, section 5).

A patch at layer l and position p changes nothing in earlier layers and at earlier positions. So only layers >= l and
positions >= p are computed, on the keys and values that the unpatched run has before p. Many patches share one batch: a
patch joins it at its own layer. Short suffixes lie behind one another in one batch entry, kept apart by the attention
mask, so that the keys before them are not copied for every row. `blocks.py` says what computes a layer.

This re-implements a part of the forward pass, for layers built as Llama's; engine.py compares it with the
model's own before any number of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Hook, Site
from interp.patching.blocks import Blocks
from interp.patching.patches import Engine, Freeze, Layout, Patch, Run, both, edits_of, frozen, keep, start_of

SHORT = 32
"""Suffixes of so many tokens or fewer share a batch entry, whatever their start."""
MIN_PACKED = 256
"""Tokens of short suffixes that may always share an entry, however short the sequence."""


class _Keep:
    """A cache that only takes note: keys and values of every layer, after rotation."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.append(key)
        self.values.append(value)
        return key, value


class _Prefix:
    """A cache that puts the unpatched run's keys and values of the first positions before those of the suffix."""

    def __init__(self, run: Run, length: int) -> None:
        self._run, self._length = run, length

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        def whole(before: Tensor, after: Tensor) -> Tensor:
            return torch.cat([before[:, :, : self._length].expand(len(after), -1, -1, -1), after], dim=2)

        return whole(self._run.keys[layer], key), whole(self._run.values[layer], value)


@torch.no_grad()
def record(lens: Lens, ids: Sequence[int], sites: Sequence[Site], hooks: Sequence[Hook], bridged: bool) -> Run:
    """One pass over an unpadded sequence that keeps what patching needs."""
    blocks = Blocks(lens, Layout((0,), len(ids)), hooks, bridged)
    cache = _Keep()
    kept: dict[Site, list[Tensor]] = {site: [] for site in Site if site in sites or site == Site.RESID_PRE}
    tokens = blocks.embed(ids)[0]
    for layer in range(lens.n_layers):
        tokens = blocks.run(layer, tokens, cache, {site: keep(into) for site, into in kept.items()})
    stacked = {site: torch.stack([one.to(lens.device) for one in into]) for site, into in kept.items()}
    logits = blocks.logits(tokens[-1:])[0]
    return Run(Engine.FAST, tuple(ids), stacked[Site.RESID_PRE], cache.keys, cache.values, stacked, logits)


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
    for indices in _batches(lens, len(target.ids), patches, budget_bytes, alone=bridged):
        yield indices, _run_batch(lens, target, source, [patches[i] for i in indices], hooks, freeze, bridged)


def _batches(lens: Lens, tokens: int, patches: Sequence[Patch], budget_bytes: int, alone: bool) -> Iterator[list[int]]:
    """Indices of the patches of each batch, sorted by layer.

    Short suffixes of any start share one batch entry; long ones, and all with hooks, get an entry each and a batch for
    each start.
    """
    order = sorted(range(len(patches)), key=lambda i: (start_of(patches[i]), patches[i].layer))
    short = [] if alone else [i for i in order if tokens - start_of(patches[i]) <= SHORT]
    long = [i for i in order if i not in set(short)]
    groups = [(short, True)] + [(list(same), False) for _, same in groupby(long, key=lambda i: start_of(patches[i]))]
    for group, packed in groups:
        by_layer = sorted(group, key=lambda i: patches[i].layer)
        while by_layer:
            starts = [start_of(patches[i]) for i in by_layer]
            rows = rows_within(lens, tokens, starts, budget_bytes, packed, alone)
            yield by_layer[:rows]
            by_layer = by_layer[rows:]


def rows_within(
    lens: Lens, tokens: int, starts: Sequence[int], budget_bytes: int, packed: bool, bridged: bool = False
) -> int:
    """How many of the rows fit into the budget. Raises UserError if not one does."""
    needed = bytes_for(lens, tokens, starts[:1], packed, bridged)
    if needed > budget_bytes:
        raise UserError(
            f"one patch at position {starts[0]} of {tokens} needs {needed / 2**20:.1f} MiB: raise experiment.budget_mb "
            f"above {budget_bytes // 2**20}"
        )
    low, high = 1, len(starts)
    while low < high:
        middle = (low + high + 1) // 2
        fits = bytes_for(lens, tokens, starts[:middle], packed, bridged) <= budget_bytes
        # More tokens in one entry than there are keys before them would mostly look at each other through the mask.
        sensible = not packed or sum(tokens - start for start in starts[:middle]) <= max(tokens, MIN_PACKED)
        low, high = (middle, high) if fits and sensible else (low, middle - 1)
    return low


def bytes_for(lens: Lens, tokens: int, starts: Sequence[int], packed: bool, bridged: bool = False) -> int:
    """About the memory of one layer on a batch of rows: mask, scores, keys and values for every head, MLP, logits."""
    config, size = lens.config, lens.hf.dtype.itemsize
    own = sum(tokens - start for start in starts)
    keys = (max(starts) + own) if packed else tokens
    entries = 1 if packed else len(starts)
    queries = own // entries
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // lens.n_heads
    scores = entries * lens.n_heads * queries * keys * (3 * size + 4) if bridged else queries * keys
    keys_values = 4 * entries * lens.n_heads * keys * head_dim * size
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    rest = own * (6 * config.hidden_size + 3 * intermediate) * size
    return int(scores + keys_values + rest + len(starts) * config.vocab_size * 8)


def _run_batch(
    lens: Lens,
    target: Run,
    source: Run,
    patches: Sequence[Patch],
    hooks: Sequence[Hook],
    freeze: Freeze | None,
    bridged: bool,
) -> Float[Tensor, "row vocab"]:
    """Logits of the patches, which are sorted by layer: a row joins at its patch's layer."""
    stop = len(target.ids)
    packed = not bridged and all(stop - start_of(patch) <= SHORT for patch in patches)
    tokens = target.resid.new_zeros(0, target.resid.shape[-1])
    blocks: Blocks | None = None
    n_rows = 0
    for layer in range(patches[0].layer, lens.n_layers):
        joining = [patch for patch in patches[n_rows:] if patch.layer == layer]
        if joining or blocks is None:
            tokens = torch.cat(
                [tokens.to(target.resid.device), *(target.resid[layer, start_of(patch) :] for patch in joining)]
            )
            n_rows += len(joining)
            starts = tuple(start_of(patch) for patch in patches[:n_rows])
            blocks = Blocks(lens, Layout(starts, stop, 1 if packed else n_rows), hooks, bridged)
            cache = _Prefix(target, blocks.layout.cached)
        first = blocks.layout.offsets[n_rows - len(joining) :]
        edits = edits_of(source, joining, first)
        if freeze is not None:
            last = [max(patch.positions) for patch in patches[:n_rows]]
            edits[Site.Z] = both(edits.get(Site.Z), frozen(target, freeze, blocks.layout, last, layer))
        if layer == lens.n_layers - 1:
            return blocks.finish(tokens, cache, edits)
        tokens = blocks.run(layer, tokens, cache, edits)
    raise AssertionError("the last layer returns")
