"""A sentence that nothing behind it can look at: what becomes of every later token (Bogdan et al. 2025, section 5).

The text stays as it was. For one sentence after the other the attention of all later tokens to it is cut, in every
layer and head, and the predictions of what follows are compared with those of the whole text. What comes before the
first sentence of a batch is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ablation.interventions import require_interventions
from interp.model.attention import LayerAttention, attending
from interp.model.lens import Lens
from interp.model.pieces import in_pieces
from interp.model.shared import KeysValues
from interp.model.unembedding import logits_of, trunk_of

ROWS = 64
"""Predictions that are unembedded at a time."""
TOKENS = 512
"""So many tokens fill a pass: more rows make it no faster a token."""
Sentence = tuple[int, int]
"""First position, and the one behind the last."""


@dataclass(frozen=True)
class Suppressed:
    """What cutting the attention to each sentence does to a trace."""

    clean: Float[np.ndarray, " token"]
    """Log-probability of each token as the text stands; NaN for the first."""
    entropy: Float[np.ndarray, " token"]
    """Of the prediction of each token, in nats; NaN for the first."""
    change: Float[np.ndarray, "sentence token"]
    """Log-probability of each token without the sentence minus `clean`; NaN up to the sentence's end."""

    def of_span(self, sentence: int, start: int, stop: int) -> float:
        """Mean change over some tokens; NaN where the sentence is not before them."""
        values = self.change[sentence, start:stop]
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")


@torch.no_grad()
def suppressed(
    lens: Lens, ids: Sequence[int], sentences: Sequence[Sentence], batch: int = 16, prefix: KeysValues | None = None
) -> Suppressed:
    """Cuts the sentences, up to `batch` of them side by side. `prefix`: keys and values of these tokens; None = what
    comes before the sentences is computed every time.

    Raises UserError where attention is more than a masked softmax."""
    require_interventions(lens)
    tokens = torch.tensor([list(ids)], device=lens.device)
    with attending(lens.hf, lambda call: call.output(call.mask)), in_pieces(lens, tokens):
        hidden = trunk_of(lens)(tokens, use_cache=False).last_hidden_state[0]
    clean, entropy = _of_tokens(lens, hidden[:-1], tokens[0, 1:])
    change = np.full((len(sentences), len(ids)), np.nan)
    for first, stop in _parts(sentences, len(ids), batch):
        part = sentences[first:stop]
        # Tokens of a sentence see it: predictions change from the one behind its last token on.
        start = 0 if prefix is None else min(end for _, end in part)
        for row, (_, end) in enumerate(part):
            change[first + row, end : end + 1] = 0.0  # predicted by the sentence itself
        if start >= len(ids) - 1:
            continue
        before = None if prefix is None else prefix.before([start] * len(part))
        rows = tokens[:, start:].expand(len(part), -1)
        with attending(lens.hf, _Cut(part, lens).attend), in_pieces(lens, rows):
            found = trunk_of(lens)(
                rows,
                past_key_values=before,
                position_ids=torch.arange(start, len(ids), device=lens.device)[None].expand(len(part), -1),
                use_cache=before is not None,
            ).last_hidden_state
        for row, (_, end) in enumerate(part):
            if end >= len(ids) - 1:
                continue
            cut, _ = _of_tokens(lens, found[row, end - start : -1], tokens[0, end + 1 :])
            change[first + row, end + 1 :] = cut - clean[end:]
    pad = np.full(1, np.nan)
    return Suppressed(np.concatenate([pad, clean]), np.concatenate([pad, entropy]), change)


def _parts(sentences: Sequence[Sentence], n: int, batch: int) -> Iterator[tuple[int, int]]:
    """Which sentences go side by side: neighbours, and no more than fill a pass, since all of a batch begin where its
    first sentence ends."""
    first = 0
    while first < len(sentences):
        behind = max(1, n - sentences[first][1])
        stop = min(len(sentences), first + min(batch, max(1, -(-TOKENS // behind))))
        yield first, stop
        first = stop


class _Cut:
    """Hides a sentence of its own from everything behind it in each row of a batch."""

    def __init__(self, sentences: Sequence[Sentence], lens: Lens) -> None:
        self._borders = torch.tensor(sentences, device=lens.device).T[..., None, None]

    def attend(self, call: LayerAttention) -> Float[Tensor, "row q head d"]:
        keys = torch.arange(call.key.shape[2], device=call.key.device)
        start, end = self._borders.to(keys.device)
        hidden = (call.places[:, None] >= end) & (keys >= start) & (keys < end)
        return call.output(call.allowed(call.mask) & ~hidden[:, None])


def _of_tokens(
    lens: Lens, hidden: Float[Tensor, "token d"], ids: Int[Tensor, " token"]
) -> tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]:
    """The log-probability of each token and the entropy of its prediction."""
    logs, entropies = [], []
    for rows, own in zip(hidden.split(ROWS), ids.split(ROWS), strict=True):
        log_p = logits_of(lens, rows).float().log_softmax(-1)
        logs.append(log_p.gather(1, own[:, None])[:, 0])
        entropies.append(-torch.xlogy(log_p.exp(), log_p.exp()).sum(-1))
    return torch.cat(logs).cpu().numpy().astype(float), torch.cat(entropies).cpu().numpy().astype(float)
