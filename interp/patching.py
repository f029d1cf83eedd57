"""Activation patching, exact and many times cheaper than one forward pass a patch (Paper A, section 5).

A patch at layer l and position p changes nothing in earlier layers and at earlier positions. So only layers >= l and
positions >= p are computed, on the keys and values that the unpatched run has before p. Many patches share one batch: a
patch joins it at its own layer. Short suffixes lie behind one another in one batch entry, kept apart by the attention
mask, so that the keys before them are not copied for every row. The result equals `run_with_hooks` on the
whole sequence up to rounding (`interp/blocks.py` says what computes a layer).

Patching clean activations into the corrupted run is *denoising*; corrupted ones into the clean run, *noising*: call
`sweep` with the runs exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.blocks import Blocks, Edit, Hook, Layout, Site, like_llama
from interp.errors import UserError
from interp.lens import Lens

BUDGET_BYTES = 2**30
"""Default memory for the activations of one batch of patches."""
SHORT = 32
"""Suffixes of so many tokens or fewer share a batch entry, whatever their start."""
MIN_PACKED = 256
"""Tokens of short suffixes that may always share an entry, however short the sequence."""


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


@dataclass
class Run:
    """What one unpatched pass leaves: enough to start again at any layer and position."""

    ids: tuple[int, ...]
    resid: Float[Tensor, "layer pos d"]
    keys: list[Float[Tensor, "1 kv pos d_head"]]
    values: list[Float[Tensor, "1 kv pos d_head"]]
    sites: dict[Site, Tensor]
    """(layer, pos, d) or (layer, pos, head, d_head)."""
    logits: Float[Tensor, " vocab"]
    """At the last position, float32."""


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
def record(lens: Lens, ids: Sequence[int], sites: Sequence[Site] = (), hooks: Sequence[Hook] = ()) -> Run:
    """One pass over an unpadded sequence that keeps what patching needs; `hooks` act as in any TransformerLens run.

    Memory: layers x positions x (d_model, twice the keys and values, and each of `sites`).
    """
    blocks = Blocks(lens, Layout((0,), len(ids)), hooks)
    cache = _Keep()
    kept: dict[Site, list[Tensor]] = {site: [] for site in Site if site in sites or site is Site.RESID_PRE}
    tokens = blocks.embed(ids)[0]
    for layer in range(lens.n_layers):
        tokens = blocks.run(layer, tokens, cache, {site: _keep(into) for site, into in kept.items()})
    stacked = {site: torch.stack(into) for site, into in kept.items()}
    logits = blocks.logits(tokens[-1:])[0]
    return Run(tuple(ids), stacked[Site.RESID_PRE], cache.keys, cache.values, stacked, logits)


def _keep(into: list[Tensor]) -> Edit:
    def take(activation: Tensor) -> Tensor:
        into.append(activation.clone())
        return activation

    return take


Measure = Callable[[Float[Tensor, "row vocab"]], Mapping[str, Float[Tensor, " row"]]]


@dataclass(frozen=True)
class Freeze:
    """After the patched positions, heads outside `heads` keep the unpatched run's output: path patching.

    What is left of the effect went through `heads` (and, inside a position, through anything). The target run must have
    been recorded with Site.Z.
    """

    heads: frozenset[tuple[int, int]]


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

    `hooks` act on the computed suffix, one row a batch entry: shapes (row, suffix position, ...); the target run must
    have been recorded with them. `progress` is called with the number of patches done. Raises UserError for a patch
    outside the model or the sequence, and for a budget that cannot hold one patch.
    """
    for patch in patches:
        _check(lens, target, source, patch)
    found: dict[str, Tensor] = {}
    for indices in _batches(lens, len(target.ids), patches, budget_bytes, alone=bool(hooks)):
        logits = _run_batch(lens, target, source, [patches[i] for i in indices], hooks, freeze)
        for name, values in measure(logits).items():
            found.setdefault(name, torch.full((len(patches),), torch.nan, dtype=torch.float64))
            found[name][indices] = values.double().cpu()
        if progress is not None:
            progress(len(indices))
    return found


def _check(lens: Lens, target: Run, source: Run, patch: Patch) -> None:
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


def _start(patch: Patch) -> int:
    return min(patch.positions)


def _batches(lens: Lens, tokens: int, patches: Sequence[Patch], budget_bytes: int, alone: bool) -> Iterator[list[int]]:
    """Indices of the patches of each batch, sorted by layer.

    Short suffixes of any start share one batch entry; long ones, and all with hooks, get an entry each and a batch for
    each start.
    """
    order = sorted(range(len(patches)), key=lambda i: (_start(patches[i]), patches[i].layer))
    short = [] if alone else [i for i in order if tokens - _start(patches[i]) <= SHORT]
    long = [i for i in order if i not in set(short)]
    groups = [(short, True)] + [(list(same), False) for _, same in groupby(long, key=lambda i: _start(patches[i]))]
    for group, packed in groups:
        by_layer = sorted(group, key=lambda i: patches[i].layer)
        while by_layer:
            starts = [_start(patches[i]) for i in by_layer]
            rows = rows_within(lens, tokens, starts, budget_bytes, packed)
            yield by_layer[:rows]
            by_layer = by_layer[rows:]


def rows_within(lens: Lens, tokens: int, starts: Sequence[int], budget_bytes: int, packed: bool) -> int:
    """How many of the rows fit into the budget. Raises UserError if not one does."""
    needed = bytes_for(lens, tokens, starts[:1], packed)
    if needed > budget_bytes:
        raise UserError(
            f"one patch at position {starts[0]} of {tokens} needs {needed / 2**20:.1f} MiB: raise experiment.budget_mb "
            f"above {budget_bytes // 2**20}"
        )
    low, high = 1, len(starts)
    while low < high:
        middle = (low + high + 1) // 2
        fits = bytes_for(lens, tokens, starts[:middle], packed) <= budget_bytes
        # More tokens in one entry than there are keys before them would mostly look at each other through the mask.
        sensible = not packed or sum(tokens - start for start in starts[:middle]) <= max(tokens, MIN_PACKED)
        low, high = (middle, high) if fits and sensible else (low, middle - 1)
    return low


def bytes_for(lens: Lens, tokens: int, starts: Sequence[int], packed: bool) -> int:
    """About the memory of one layer on a batch of rows: mask, scores, keys and values for every head, MLP, logits."""
    config, size = lens.hf.config, lens.hf.dtype.itemsize
    own = sum(tokens - start for start in starts)
    keys = (max(starts) + own) if packed else tokens
    entries = 1 if packed else len(starts)
    queries = own // entries
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // lens.n_heads
    fused = like_llama(lens)
    scores = queries * keys if fused else entries * lens.n_heads * queries * keys * (3 * size + 4)
    keys_values = 4 * entries * lens.n_heads * keys * head_dim * size
    rest = own * (6 * config.hidden_size + 3 * config.intermediate_size) * size
    return int(scores + keys_values + rest + len(starts) * config.vocab_size * 8)


def _run_batch(
    lens: Lens, target: Run, source: Run, patches: Sequence[Patch], hooks: Sequence[Hook], freeze: Freeze | None
) -> Float[Tensor, "row vocab"]:
    """Logits of the patches, which are sorted by layer: a row joins at its patch's layer."""
    stop = len(target.ids)
    packed = not hooks and all(stop - _start(patch) <= SHORT for patch in patches)
    tokens = target.resid.new_zeros(0, target.resid.shape[-1])
    blocks: Blocks | None = None
    n_rows = 0
    for layer in range(patches[0].layer, lens.n_layers):
        joining = [patch for patch in patches[n_rows:] if patch.layer == layer]
        if joining or blocks is None:
            tokens = torch.cat([tokens, *(target.resid[layer, _start(patch) :] for patch in joining)])
            n_rows += len(joining)
            starts = tuple(_start(patch) for patch in patches[:n_rows])
            blocks = Blocks(lens, Layout(starts, stop, 1 if packed else n_rows), hooks)
            cache = _Prefix(target, blocks.layout.cached)
        first = blocks.layout.offsets[n_rows - len(joining) :]
        edits = _edits(source, joining, first)
        if freeze is not None:
            last = [max(patch.positions) for patch in patches[:n_rows]]
            edits[Site.Z] = _both(edits.get(Site.Z), _frozen(target, freeze, blocks.layout, last, layer))
        if layer == lens.n_layers - 1:
            return blocks.finish(tokens, cache, edits)
        tokens = blocks.run(layer, tokens, cache, edits)
    raise AssertionError("the last layer returns")


def _edits(source: Run, joining: Sequence[Patch], offsets: Sequence[int]) -> dict[Site, Edit]:
    """For each site that the joining rows patch, what writes the source's activations into them."""
    edits: dict[Site, Edit] = {}
    for site in sorted({patch.site for patch in joining}):
        chosen = [(offset, patch) for offset, patch in zip(offsets, joining, strict=True) if patch.site is site]

        def write(activation: Tensor, site: Site = site, chosen: Any = chosen) -> Tensor:
            edited = activation.clone()
            for offset, patch in chosen:
                at = [offset + p - _start(patch) for p in patch.positions]
                values = source.sites[site][patch.layer, list(patch.sources or patch.positions)]
                if patch.head is None:
                    edited[at] = values
                else:
                    edited[at, patch.head] = values[:, patch.head]
            return edited

        edits[site] = write
    return edits


def _frozen(target: Run, freeze: Freeze, layout: Layout, last: Sequence[int], layer: int) -> Edit:
    """Gives every head but the chosen ones the unpatched output, behind each row's last patched position."""
    positions = layout.positions().to(target.resid.device)
    base = target.sites[Site.Z][layer, positions]
    frozen = torch.tensor([(layer, head) not in freeze.heads for head in range(base.shape[1])], device=base.device)
    ends = torch.repeat_interleave(torch.tensor(last), torch.tensor(layout.widths)).to(base.device)
    held = (positions > ends)[:, None, None] & frozen[None, :, None]
    return lambda z: torch.where(held, base, z)


def _both(first: Edit | None, second: Edit) -> Edit:
    return second if first is None else lambda activation: second(first(activation))
