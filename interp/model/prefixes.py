"""Does a model go on from padded rows, and from keys and values made before, as it goes on from each text alone?

Rows side by side and shared prefixes save most of the time of generation. Both rest on masks, positions and caches that
architectures treat differently (recurrent layers, windows), so both are compared with the model's own full forward pass
over the text alone, and left out where they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig

from interp.model.checkpoints import first_line
from interp.model.decoding import decoded
from interp.model.lens import Lens
from interp.model.pieces import in_pieces
from interp.model.shared import KeysValues
from interp.model.tolerance import HALF_ROUNDING, ROUNDING
from interp.model.trial import some_ids
from interp.model.unembedding import exact_head, last_logits, trunk_of

log = logging.getLogger(__name__)

SHARED_SHARE = 0.25
"""Rows that have less than this of their length in common begin from nothing."""
BATCHES, PREFIXES, BEGINNINGS = "rows side by side", "shared keys and values", "shared beginnings"
PROMPTS = "prompts in pieces"

INSTEAD = {
    BEGINNINGS: "every text is computed from its beginning",
    PROMPTS: "long prompts are computed whole, which takes more memory",
}
WHOLE_TOKENS = 4096
"""Prompts up to this length go through the model whole."""
PROMPT_TOKENS = 1024
"""Of longer ones so many tokens of all rows go through it at a time."""


@dataclass
class _Known:
    """Up to which length something was found right, and from which length on wrong."""

    right_up_to: int = 0
    wrong_from: int | None = None


def batches_are_right(lens: Lens) -> bool:
    """Whether rows of different lengths, padded on the left, are continued as each is alone."""
    if BATCHES not in lens.memo:
        ids = some_ids(lens)
        lens.memo[BATCHES] = _Known()
        _compare(lens, BATCHES, [ids, ids[: len(ids) // 3]], lambda: None)
    return lens.memo[BATCHES].wrong_from is None


def prefixes_are_right(
    lens: Lens, rows: Sequence[Sequence[int]], cache: Callable[[], Cache], what: str = PREFIXES
) -> bool:
    """Whether these rows are continued on a cache of their first tokens (of all but the last, as forks are, or of
    `what` they begin with) as without: compared on every sequence that is longer than those before."""
    known: _Known = lens.memo.setdefault(what, _Known())
    length = max(map(len, rows))
    if known.wrong_from is not None and length >= known.wrong_from:
        return False
    return length <= known.right_up_to or _compare(lens, what, rows, cache)


def prompt_piece(lens: Lens, rows: Sequence[Sequence[int]], done: int = 0) -> int | None:
    """How many tokens of each row go through the model at a time, where keys and values of the first `done` are there;
    None = all. Beside what the layers hold inside, this bounds the mask that padding needs, of tokens by tokens."""
    width = max(map(len, rows)) - done
    if width <= WHOLE_TOKENS:
        return None
    known: _Known = lens.memo.setdefault(PROMPTS, _Known())
    ends = [max(rows, key=len)] if len(rows) == 1 else [max(rows, key=len), min(rows, key=len)]
    length = len(ends[0])
    if known.wrong_from is not None and length >= known.wrong_from:
        return None
    piece = max(1, PROMPT_TOKENS // len(rows))
    return piece if length <= known.right_up_to or _compare(lens, PROMPTS, ends, lambda: None, piece) else None


@torch.no_grad()
def what_they_share(lens: Lens, rows: Sequence[Sequence[int]]) -> Cache | None:
    """Keys and values of the tokens with which all rows begin, such as worked examples, computed once; None where they
    begin too differently to gain by it."""
    columns = list(zip(*(row[:-1] for row in rows), strict=False))
    shared = next((i for i, tokens in enumerate(columns) if len(set(tokens)) > 1), len(columns))
    width = max(map(len, rows))
    if shared < SHARED_SHARE * width:
        return None
    cache, ids = DynamicCache(), torch.tensor([list(rows[0][:shared])], device=lens.device)
    try:
        with in_pieces(lens, ids):
            trunk_of(lens)(ids, past_key_values=cache, use_cache=True)
        prefix = KeysValues.of(cache)
    except (AttributeError, IndexError, TypeError, ValueError):  # layers that keep something else
        return None

    def before(chosen: Sequence[Sequence[int]]) -> Cache:
        # Of a shorter row, which is padded more, the end of what is shared is computed again: no row has a hole.
        widest = max(map(len, chosen))
        return prefix.before([max(0, shared - (widest - len(row))) for row in chosen], shared)

    ends = [max(rows, key=len), min(rows, key=len)]
    return before(rows) if prefixes_are_right(lens, ends, lambda: before(ends), BEGINNINGS) else None


@torch.no_grad()
def _compare(
    lens: Lens,
    what: str,
    rows: Sequence[Sequence[int]],
    cache: Callable[[], Cache | None],
    piece: int | None = None,
) -> bool:
    known: _Known = lens.memo[what]
    length = max(map(len, rows))
    alone = torch.cat([last_logits(lens, torch.tensor([list(row)], device=lens.device)) for row in rows]).float()
    try:
        together = next_logits(lens, rows, cache(), piece).float()
        difference, why = float((together - alone).abs().max()), None
    except Exception as error:  # an architecture whose cache or mask is of another kind
        difference, why = float("nan"), first_line(error)
    right = difference <= ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * float(alone.abs().max())
    lens.checked[what] = {"used": right, "tokens": length, "largest_difference": difference if why is None else None}
    if right:
        known.right_up_to = length
    else:
        known.wrong_from = length
        log.warning(
            "%s cannot be used on %s (%s): %s",
            what,
            lens.name,
            why or f"over {length} tokens logits are off by {difference:.2g}",
            INSTEAD.get(what, "every text is computed by itself, which is slow"),
        )
    return right


def next_logits(
    lens: Lens, rows: Sequence[Sequence[int]], cache: Cache | None, piece: int | None = None
) -> Float[Tensor, "row vocab"]:
    """Logits of the next token of each row, by the way that generation takes; `cache` holds the rows' first tokens, and
    of the others `piece` go through the model at a time."""
    config = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=lens.tokenizer.pad_token_id,
        output_logits=True,
        return_dict_in_generate=True,
        prefill_chunk_size=piece,
    )
    with exact_head(lens):
        logits: Tensor = decoded(lens, rows, config, cache).logits[0]
    return logits
