"""Credit by sentence: whole sentences of a response get more credit, those whose tokens have the most of a signal."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.text.token_kinds import Boundary, sentence_numbers, starts_in
from interp.text.trace import decode_with_offsets


def sentence_numbers_of(
    ids: Int[Tensor, "batch token"], mask: Int[Tensor, "batch token"], tokenizer: PreTrainedTokenizerBase
) -> Int[Tensor, "batch token"]:
    """The number of each token's sentence within its response, from 0; -1 on padding, which lies behind. Tokens that
    the mask leaves out in the middle, such as a tool's, have one too. Sentences end as everywhere here
    (`interp.text.token_kinds.sentence_ends`)."""
    found = torch.full(ids.shape, -1, dtype=torch.long)
    for row, (response, real) in enumerate(zip(ids.tolist(), mask.bool().tolist(), strict=True)):
        own = response[: max((place + 1 for place, one in enumerate(real) if one), default=0)]
        if own:
            text, offsets = decode_with_offsets(tokenizer, own)
            starts = starts_in(text, offsets, Boundary.SENTENCE, range(len(own)))
            found[row, : len(own)] = torch.from_numpy(sentence_numbers(starts))
    return found.to(ids.device)


def first_tokens(
    sentences: Int[Tensor, "batch token"], real: Bool[Tensor, "batch token"]
) -> Bool[Tensor, "batch token"]:
    """Which tokens are the first of a sentence that count."""
    numbers = sentences.masked_fill(~real, -1)
    before = torch.nn.functional.pad(numbers.cummax(1).values[:, :-1], (1, 0), value=-1)
    return numbers > before


def whole_sentences(
    signal: Float[Tensor, "batch token"],
    sentences: Int[Tensor, "batch token"],
    real: Bool[Tensor, "batch token"],
    q: float,
    *,
    least: float = -torch.inf,
) -> Bool[Tensor, "batch token"]:
    """The sentences of each response with the highest mean signal, the earlier one of equals, one after the other until
    they have round(q x length) tokens, at least one: the last one may go beyond.

    The mean is over the tokens that have a signal (not NaN); a sentence without any is never chosen, nor one whose mean
    is not above `least`.
    """
    if not sentences.numel():
        return torch.zeros_like(real)
    places = sentences.clamp(min=0).long()
    real = real & (sentences >= 0)
    known = real & ~signal.isnan()
    empty = torch.zeros(len(signal), int(places.max()) + 1, device=signal.device)
    lengths, n = (empty.scatter_add(1, places, one.float()) for one in (real, known))
    mean = empty.scatter_add(1, places, signal.masked_fill(~known, 0).float()) / n
    order = torch.where(n > 0, -mean, torch.inf).argsort(dim=1, stable=True)
    ordered = lengths.gather(1, order)
    wanted = (q * real.sum(1) + 0.5).floor().clamp(min=1)
    open_still = ordered.cumsum(1) - ordered < wanted[:, None]
    picked = torch.zeros_like(n, dtype=torch.bool).scatter(1, order, open_still) & (n > 0) & (mean > least)
    return picked.gather(1, places) & real
