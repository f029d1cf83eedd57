"""Local and global heads, ranked on a padded batch of responses of the model in training (Paper B, section 4.1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.credit.signals import BatchDistances, CreditHeads, measure_batch
from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.layers import layer_set
from interp.rhythm.head_sets import choose_heads
from interp.rhythm.waad_fai import Sinks


@dataclass(frozen=True)
class BatchRanking:
    """Which heads are local and which are global: those with the least and the greatest mean distance."""

    layers: str = "five"
    """Where they are looked for, as `interp.model.layers.layer_set` names layers."""
    share: float = 0.3
    """Share of these layers' heads that are local, and that are global."""
    sinks: Sinks = Sinks.KEPT
    responses: int = 16
    """On how many responses of a batch, on each process, heads are ranked."""

    def check(self) -> None:
        """Raises UserError for shares that make heads local and global at once, or none."""
        if not 0 < self.share <= 0.5 or self.responses < 1:
            raise UserError(f"share={self.share}, responses={self.responses}: give 0 < share <= 0.5 and at least 1")


def rank_heads(
    model: torch.nn.Module,
    core: PreTrainedModel,
    ids: Int[Tensor, "batch column"],
    mask: Int[Tensor, "batch column"],
    n_tokens: int,
    ranking: BatchRanking,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    stop_early: bool = True,
) -> CreditHeads:
    """Local and global heads by their mean distance over the responses of a batch, from one pass.

    The last `n_tokens` columns are the responses. Each response counts alike, those without tokens not at all. `total`
    adds up a tensor over processes. Raises UserError where no head has a distance.
    """
    n_layers, n_heads = shape_of(core)
    layers = layer_set(ranking.layers, n_layers)
    some = mask[:, -n_tokens:].any(1).nonzero().flatten()[: ranking.responses]
    some = some if len(some) else torch.zeros(1, dtype=torch.long, device=mask.device)  # every process makes the pass
    into = BatchDistances(layers, n_heads, ranking.sinks, mask[some], ids.shape[1] - n_tokens, stop_early)
    measure_batch(model, core, ids[some], into)
    known = ~into.distance.isnan()
    sums, counts = total(torch.stack([into.distance.nan_to_num().sum(0), known.double().sum(0)])).cpu().numpy()
    distance = np.full((n_layers, n_heads), np.nan)
    distance[layers] = np.where(counts > 0, sums / counts.clip(min=1), np.nan)
    return heads_by_distance(distance, layers, ranking.share)


def heads_by_distance(distance: Float[np.ndarray, "layer head"], layers: Sequence[int], share: float) -> CreditHeads:
    """The share of the heads of some layers with the least, and with the greatest mean distance."""
    local, far, _ = choose_heads(distance, np.full(distance.shape, np.nan), layers, share, receivers=0)
    return CreditHeads(tuple(local), tuple(far))


def every_head(core: PreTrainedModel, layers: str) -> CreditHeads:
    """All heads of some layers, for both measures."""
    n_layers, n_heads = shape_of(core)
    heads = tuple(Head(layer, head) for layer in layer_set(layers, n_layers) for head in range(n_heads))
    return CreditHeads(heads, heads)


def shape_of(core: PreTrainedModel) -> tuple[int, int]:
    """Numbers of layers and of heads a layer."""
    config = core.config.get_text_config()
    return config.num_hidden_layers, config.num_attention_heads


def jaccard(one: Sequence[Head], other: Sequence[Head]) -> float:
    """Shared heads over all heads of two sets: 1 for equal ones."""
    return len({*one} & {*other}) / len({*one} | {*other})


HEADS_FILE = "credit_heads.json"


@dataclass
class RankedHeads:
    """The heads of a training: given, or ranked on its first batch, and ranked again every few optimizer steps."""

    now: CreditHeads | None
    ranking: BatchRanking
    every: int | None = None
    """Optimizer steps from one ranking to the next; None = they stay."""
    first: CreditHeads | None = field(init=False)
    ranked_at: int = 0

    def __post_init__(self) -> None:
        self.first = self.now

    def due(self, step: int) -> bool:
        return self.now is None or (self.every is not None and step - self.ranked_at >= self.every)

    def replace(self, heads: CreditHeads, step: int) -> tuple[float, float] | None:
        """Takes new heads. Returns the Jaccard overlap of the local and of the global ones with the first; None for
        those that are the first."""
        self.now, self.ranked_at = heads, step
        if self.first is None:
            self.first = heads
            return None
        return jaccard(heads.local, self.first.local), jaccard(heads.far, self.first.far)

    def save(self, folder: Path) -> None:
        """Keeps the heads in a checkpoint; nothing where there are none yet."""
        if self.now is not None and self.first is not None:
            folder.mkdir(parents=True, exist_ok=True)
            sets = {"now": self.now, "first": self.first}
            about = {name: {"local": [*heads.local], "far": [*heads.far]} for name, heads in sets.items()}
            (folder / HEADS_FILE).write_text(json.dumps({**about, "ranked_at": self.ranked_at}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes the heads of a checkpoint, where it holds some."""
        if (folder / HEADS_FILE).is_file():
            about = json.loads((folder / HEADS_FILE).read_text(encoding="utf-8"))
            self.now, self.first = (CreditHeads.of(**about[name]) for name in ("now", "first"))
            self.ranked_at = about["ranked_at"]
