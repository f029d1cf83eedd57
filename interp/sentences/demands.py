"""The answer demanded behind each sentence: how sure of it is the model by then?

The reasoning is broken off behind a sentence, closed, and the words that lead to the answer in the trace's own response
follow at once. All places share the keys and values of one pass over the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from transformers import DynamicCache

from interp.ablation.effects import answer_position
from interp.model.lens import Lens
from interp.model.shared import KeysValues
from interp.model.unembedding import logits_of, trunk_of
from interp.text.token_kinds import Boundary, boundary_positions
from interp.text.trace import Segment, Trace


def lead_to_answer(trace: Trace) -> tuple[tuple[int, ...], int] | None:
    """What closes the reasoning and the words of the response's sentence up to its answer, and the answer's first
    token; None where the response gives no answer."""
    position = answer_position(trace)
    if position is None:
        return None
    answer = trace[Segment.ANSWER]
    inside = range(answer.start, position + 1)
    starts = [answer.start + int(i) for i in np.flatnonzero(boundary_positions(trace, Boundary.SENTENCE, inside))]
    begin = max([answer.start, *(start for start in starts if start < position)])
    close = trace[Segment.END_THINK]
    ids = trace.token_ids
    return (*ids[close.start : close.end], *ids[begin:position]), ids[position]


@torch.no_grad()
def demanded(
    lens: Lens,
    ids: Sequence[int],
    places: Sequence[int],
    lead: Sequence[int],
    answer: int,
    batch: int = 16,
    *,
    shared: bool = True,
) -> Float[np.ndarray, " place"]:
    """Log-probability of the answer's first token where `lead` follows the first `place` tokens, for each place.

    `shared=False` computes every text anew: the reference that the tests compare with.
    """
    suffix = torch.tensor([list(lead)], device=lens.device)
    if not shared:
        texts = [torch.tensor([[*ids[:place], *lead]], device=lens.device) for place in places]
        last = [trunk_of(lens)(text, use_cache=False).last_hidden_state[0, -1:] for text in texts]
        return np.array([_log_probability(lens, one, answer)[0] for one in last])
    cache = DynamicCache()
    trunk_of(lens)(torch.tensor([list(ids)], device=lens.device), past_key_values=cache, use_cache=True)
    whole = KeysValues.of(cache)
    found: list[float] = []
    for first in range(0, len(places), batch):
        part = list(places[first : first + batch])
        lengths = torch.tensor(part, device=lens.device)[:, None]
        columns = torch.arange(max(part) + len(lead), device=lens.device)[None]
        hidden = trunk_of(lens)(
            suffix.expand(len(part), -1),
            attention_mask=(columns >= max(part) - lengths).long(),
            position_ids=lengths + torch.arange(len(lead), device=lens.device)[None],
            past_key_values=whole.before(part),
            use_cache=True,
        ).last_hidden_state[:, -1]
        found += _log_probability(lens, hidden, answer)
    return np.array(found)


def _log_probability(lens: Lens, hidden: Float[torch.Tensor, "row d"], token: int) -> list[float]:
    found: list[float] = logits_of(lens, hidden).float().log_softmax(-1)[:, token].tolist()
    return found
