"""Cutting heads and attention edges while the model runs: ablation and attention knockout, in one attention function.

Our attention function runs in place of the fused one, on padded batches, in single passes and in generation
with a cache alike. *Ablation* replaces a head's output (TransformerLens' hook_z); *knockout* removes attention edges
from a segment's queries to a segment's keys, with the rest of the row scaled to sum to 1 again (as if the keys were
masked) or not (as if their values were zero). Hooks of TransformerLens give the same; the tests compare them.

An intervention on the *answer* acts on the queries that predict answer tokens: from the last token of the close tag on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.attention import LayerAttention, attending, attention_rows
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.structure import edited
from interp.model.tolerance import HALF_ROUNDING, ROUNDING, SHARE_OF_EFFECT, representative_layers
from interp.model.trial import some_ids, tried
from interp.model.unembedding import last_logits, trunk_of
from interp.stats import rng_for
from interp.text.trace import Segment, Trace

INTERVENTIONS = "interventions"
DRAWS = 2**14
"""So many positions behind one another get a random sample of their own."""


class AblationKind(StrEnum):
    """What stands in place of a head's output."""

    ZERO = "zero"
    MEAN = "mean"
    """Its mean over the same kind of rows of the reference traces."""
    RESAMPLE = "resample"
    """Its output at a random such row of a reference trace."""


class Rows(StrEnum):
    """At which queries a head is ablated."""

    ANSWER = "answer"
    """Those that predict answer tokens."""
    ALL = "all"
    """Everywhere, the prompt included."""


@dataclass(frozen=True)
class Ablation:
    """Replaces the output of some heads."""

    heads: frozenset[Head]
    kind: AblationKind
    rows: Rows


@dataclass(frozen=True)
class Knockout:
    """Removes the edges from the queries of `source` to the keys of `destination`; `heads` None = all heads."""

    source: Segment
    destination: Segment
    heads: frozenset[Head] | None
    renormalise: bool


@dataclass(frozen=True)
class Batch:
    """Left-padded sequences. `spans[i]` are the segments of row i in padded positions (end exclusive)."""

    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"]
    spans: tuple[dict[Segment, tuple[int, int]], ...]

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    @property
    def position_ids(self) -> Int[Tensor, "row pos"]:
        """Counted from each row's first token, as in generation; padding has 0."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    def predicting(self, row: int) -> int:
        """The first query that predicts an answer token."""
        return self.spans[row][Segment.ANSWER][0] - 1


def acts_on_answers(interventions: Sequence[Ablation | Knockout]) -> bool:
    """Whether nothing happens before the first query that predicts an answer token."""
    return all(
        one.rows == Rows.ANSWER if isinstance(one, Ablation) else one.source == Segment.ANSWER for one in interventions
    )


def batch_of(lens: Lens, traces: Sequence[Trace], *, whole: bool = True) -> Batch:
    """Traces side by side; not `whole` = only up to the close tag, for the answers to be written anew."""
    rows = [list(t.measured_ids if whole else t.token_ids[: t[Segment.ANSWER].start]) for t in traces]
    width = max(map(len, rows))
    pad = lens.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=lens.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=lens.device)
    spans = tuple(
        {span.segment: (span.start + width - len(row), span.end + width - len(row)) for span in trace.spans}
        for trace, row in zip(traces, rows, strict=True)
    )
    return Batch(ids, mask, spans)


@dataclass
class Reference:
    """Outputs of every head at the rows of reference traces: what means and resamples are taken from."""

    answer: Float[Tensor, "layer sample head d_head"]
    all: Float[Tensor, "layer sample head d_head"]

    def of(self, rows: Rows) -> Float[Tensor, "layer sample head d_head"]:
        return self.answer if rows == Rows.ANSWER else self.all


@dataclass
class _Active:
    """What the attention function works for."""

    batch: Batch
    interventions: Sequence[Ablation | Knockout]
    reference: Reference | None
    seed: int
    record: dict[int, Tensor] | None = None
    n_keys: dict[int, int] = field(default_factory=dict)
    """How many keys each layer has seen: one that is called has seen its attention."""
    _draws: dict[tuple[int, int], Int[Tensor, " draw"]] = field(default_factory=dict)

    def draws(self, row: int, layer: int, samples: int) -> Int[Tensor, " draw"]:
        """Which sample stands at each position, counted from the first that predicts an answer token."""
        if (row, layer) not in self._draws:
            rng = rng_for(self.seed, "resample", row, layer)
            self._draws[row, layer] = torch.from_numpy(rng.integers(samples, size=DRAWS))
        return self._draws[row, layer]

    def attend(self, call: LayerAttention) -> Float[Tensor, "row q head d"]:
        """The layer's output under the interventions."""
        layer, query, mask = call.layer, call.query, call.mask
        n_queries, n_keys = query.shape[2], call.key.shape[2]
        if n_queries < n_keys <= self.n_keys.get(layer, 0):
            raise UserError(f"the cache of layer {layer} forgets its first keys: interventions need all of them")
        self.n_keys[layer] = n_keys
        places = call.places
        knockouts = [one for one in self.interventions if isinstance(one, Knockout) and _here(one.heads, layer)]
        masking = [one for one in knockouts if one.renormalise]
        if masking:
            mask = call.allowed(mask)
            for one in masking:
                mask = mask & ~_edges(self.batch, one, layer, places, n_keys, query)
        out = call.output(mask)
        for one in knockouts:
            if not one.renormalise:
                cut = _edges(self.batch, one, layer, places, n_keys, query)
                out = out - _contribution(call, mask, places, cut)
        for ablation in self.interventions:
            if isinstance(ablation, Ablation) and _here(ablation.heads, layer):
                out = _replaced(out, ablation, self, layer, places)
        if self.record is not None:
            self.record[layer] = out
        return out


@contextmanager
def intervened(
    lens: Lens,
    batch: Batch,
    interventions: Sequence[Ablation | Knockout],
    reference: Reference | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """While open, the lens' Hugging Face model runs with the interventions, on sequences that begin as the batch does.

    Raises UserError for heads that the model lacks, and ValueError where an ablation needs a reference and has none.
    """
    for one in interventions:
        for head in one.heads or ():
            lens.require_layer(*head)
        if isinstance(one, Ablation) and one.kind != AblationKind.ZERO and reference is None:
            raise ValueError(f"{one.kind} ablation needs a reference")
    require_interventions(lens)
    with attending(lens.hf, _Active(batch, interventions, reference, seed).attend):
        yield


@torch.no_grad()
def record_reference(lens: Lens, traces: Sequence[Trace], samples: int = 512, seed: int = 0) -> Reference:
    """Head outputs at up to `samples` random rows of the traces, once among all rows and once among answer rows."""
    require_interventions(lens)
    pools: dict[Rows, list[Tensor]] = {Rows.ANSWER: [], Rows.ALL: []}
    for trace in traces:
        batch = batch_of(lens, [trace])
        active = _Active(batch, (), None, seed, record={})
        with attending(lens.hf, active.attend):
            trunk_of(lens)(batch.ids, use_cache=False)
        assert active.record is not None
        z = torch.stack([active.record[layer][0].to(lens.device) for layer in range(lens.n_layers)])
        pools[Rows.ALL].append(z)
        pools[Rows.ANSWER].append(z[:, batch.predicting(0) :])
    drawn = {}
    for rows, parts in pools.items():
        whole = torch.cat(parts, dim=1)
        chosen = rng_for(seed, "reference", rows).permutation(whole.shape[1])[:samples]
        drawn[rows] = whole[:, chosen.tolist()]
    return Reference(drawn[Rows.ANSWER], drawn[Rows.ALL])


def require_interventions(lens: Lens) -> None:
    """Raises UserError for architectures whose attention cannot be changed."""
    trunk_of(lens)  # found by a pass of its own, so before any other begins
    tried(lens, INTERVENTIONS, lambda: _trial(lens))


@torch.no_grad()
def _trial(lens: Lens) -> dict[str, float]:
    """Nothing cut, and one head of a layer cut, beside the model's own forward pass with hooks on its modules."""
    ids = torch.tensor([some_ids(lens)], device=lens.device)
    batch = Batch(ids, torch.ones_like(ids), ({Segment.ANSWER: (2, ids.shape[1])},))
    plain = last_logits(lens, ids)
    worst, rounding = 0.0, ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * float(plain.abs().max())
    chosen = lens.n_heads // 2

    def without(z: Tensor) -> Tensor:
        z = z.clone()
        z[:, :, chosen] = 0
        return z

    for layer in (None, *representative_layers(lens)):
        heads = frozenset() if layer is None else frozenset([Head(layer, chosen)])
        active = _Active(batch, [Ablation(heads, AblationKind.ZERO, Rows.ALL)], None, 0)
        with attending(lens.hf, active.attend):
            cut = last_logits(lens, ids)
        if sorted(active.n_keys) != list(range(lens.n_layers)):
            seen = f"{len(active.n_keys)} of {lens.n_layers} layers"
            raise UserError(f"attention of {lens.name} can be changed in {seen}: {INTERVENTIONS} need all")
        with edited(lens, layer, {Site.Z: without}) if layer is not None else nullcontext():
            expected = last_logits(lens, ids)
        difference, effect = float((cut - expected).abs().max()), float((expected - plain).abs().max())
        if not difference <= SHARE_OF_EFFECT * effect + rounding:
            raise UserError(
                f"{INTERVENTIONS} on {lens.name} are off by {difference:.2g} where cutting layer {layer} changes "
                f"{effect:.2g}"
            )
        worst = max(worst, difference)
    return {"tokens": ids.shape[1], "largest_difference": worst}


def _here(heads: frozenset[Head] | None, layer: int) -> bool:
    return heads is None or any(head.layer == layer for head in heads)


def _edges(
    batch: Batch, knockout: Knockout, layer: int, places: Int[Tensor, " q"], n_keys: int, query: Tensor
) -> Bool[Tensor, "row head q key"]:
    """The edges that a knockout removes in a layer. A row always keeps its own token, so that it has something left."""
    rows, heads = query.shape[:2]
    keys = torch.arange(n_keys, device=query.device)
    cut = torch.zeros(rows, heads, len(places), n_keys, dtype=torch.bool, device=query.device)
    chosen = [h.head for h in knockout.heads if h.layer == layer] if knockout.heads is not None else list(range(heads))
    for row, spans in enumerate(batch.spans):
        start, stop = spans[knockout.source]
        if knockout.source == Segment.ANSWER:
            start, stop = batch.predicting(row), max(n_keys, stop)  # generation goes on behind the batch
        low, high = spans[knockout.destination]
        asks = (places >= start) & (places < stop)
        asked = (keys >= low) & (keys < high)
        edges = asks[:, None] & asked[None] & (places[:, None] != keys[None])
        cut[row, chosen] = edges
    return cut


def _contribution(
    call: LayerAttention, mask: Tensor | None, places: Int[Tensor, " q"], cut: Bool[Tensor, "row head q key"]
) -> Float[Tensor, "row q head d"]:
    """What the values behind some edges add to the output."""
    allowed = call.allowed(mask)
    # Rows of padding see nothing; their NaN must not spread.
    weights = attention_rows(call.query, call.key, int(places[0]), call.scale, allowed, padded=True)
    values = call.value.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    return ((weights * cut) @ values.to(weights)).transpose(1, 2).to(call.query.dtype)


def _replaced(
    out: Float[Tensor, "row q head d"], ablation: Ablation, active: _Active, layer: int, places: Int[Tensor, " q"]
) -> Float[Tensor, "row q head d"]:
    heads = sorted(h.head for h in ablation.heads if h.layer == layer)
    out = out.clone()
    for row in range(len(out)):
        start = active.batch.predicting(row) if ablation.rows == Rows.ANSWER else 0
        asks = (places >= start).nonzero()[:, 0]
        if not len(asks):
            continue
        at = (row, asks[:, None], torch.tensor(heads, device=out.device)[None])
        if ablation.kind == AblationKind.ZERO:
            out[at] = 0
            continue
        assert active.reference is not None
        pool = active.reference.of(ablation.rows)[layer][:, heads]
        if ablation.kind == AblationKind.MEAN:
            out[at] = pool.mean(0).to(out)
        else:
            # One draw a position, the same for all heads of a layer and whether or not there is a cache.
            first = active.batch.predicting(row)
            draws = active.draws(row, layer, len(pool))[(places[asks].cpu() - first) % DRAWS]
            out[at] = pool[draws].to(out)
    return out
