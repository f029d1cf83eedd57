"""The answer demanded behind each sentence: how sure of it is the model by then?

The reasoning is broken off behind a sentence, closed, and the words that lead to the answer in the trace's own response
follow at once. All places share the keys and values of one pass over the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.ablation.effects import answer_position
from interp.model.lens import Lens
from interp.model.prefixes import next_logits
from interp.model.unembedding import last_logits
from interp.perturb.rollouts import Trunk
from interp.text.sentences import reasoning_sentences
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
    lens: Lens, shared: Trunk, places: Sequence[int], lead: Sequence[int], answer: int, batch: int = 16
) -> Float[np.ndarray, " place"]:
    """Log-probability of the answer's first token where `lead` follows the first `place` tokens, for each place.

    Where nothing can be shared every text is computed alone.
    """
    rows = [[*shared.ids[:place], *lead] for place in places]
    found: list[torch.Tensor] = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        if shared.prefix is None:
            found += [last_logits(lens, torch.tensor([row], device=lens.device)) for row in part]
        else:
            found.append(next_logits(lens, part, shared.prefix.before(places[first : first + batch])))
    log_p = torch.cat(found).float().log_softmax(-1)
    return log_p[:, answer].cpu().numpy().astype(float)


def surprisal_before_steps(lens: Lens, shared: Trunk, trace: Trace, response: range) -> Float[np.ndarray, " token"]:
    """For each token of the response, in nats, how surprising the trace's own answer is where it is demanded before the
    token's sentence; NaN outside the reasoning, and everywhere where the response gives no answer."""
    found, lead = np.full(len(response), np.nan), lead_to_answer(trace)
    sentences = reasoning_sentences(trace)
    if lead is None or not sentences:
        return found
    log_p = demanded(lens, shared, [start for start, _ in sentences], *lead)
    for (start, stop), value in zip(sentences, log_p, strict=True):
        found[start - response.start : stop - response.start] = -value
    return found
