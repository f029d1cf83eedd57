"""What is cheap to see of a sentence: attention to it, FAI, entropy, relevance, its length and place. No rollouts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.errors import UserError
from interp.heads.reductions import MassOfSpans, ReceivedBySentences, SegmentMasses
from interp.heads.scores import Head, rank_heads, usual_count
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.streaming import stream
from interp.model.unembedding import last_logits
from interp.patching.backward import require_gradients
from interp.patching.backward import trace as backward
from interp.patching.nld import Answers
from interp.patching.relevance import relevance_rules, require_rules
from interp.rhythm.head_sets import choose_heads
from interp.rhythm.waad_fai import Settings, Sinks, measure_rhythm, response_of
from interp.stats import or_null
from interp.text.trace import Segment, Trace

log = logging.getLogger(__name__)

APART = 4
"""Sentences that a sentence must lie before those that it receives attention from, as in thought-anchors."""
FAR_SHARE = 0.3
"""Share of all heads that count as global, whose FAI it is (Paper B, section 4.1)."""
LONGEST_BACKWARD = 2048
"""Tokens up to which a whole pass's graph is kept."""
RELEVANCE = "relevance of sentences"
SIGNALS = (
    "answer_mass",
    "rfh_mass",
    "received",
    "receiver_heads",
    "fai",
    "relevance",
    "entropy",
    "tokens",
    "sentence",
)
"""What is cheap to see; `sentence` is the place."""


def signal_columns(
    lens: Lens, trace: Trace, sentences: Sequence[tuple[int, int]], position: int
) -> list[dict[str, Any]]:
    """SIGNALS of each sentence, but for its number. `position`: of the answer's first token."""
    shape = (lens.n_layers, lens.n_heads)
    masses = SegmentMasses(trace, *shape)
    by_sentence = ReceivedBySentences(sentences, *shape, APART)
    from_answer = MassOfSpans(trace[Segment.ANSWER].positions, sentences, *shape)
    stream(lens, trace.measured_ids, masses, by_sentence, from_answer)
    k = usual_count(lens.n_layers * lens.n_heads)
    score = masses.of(Segment.ANSWER, Segment.REASONING) - masses.of(Segment.ANSWER, Segment.ANSWER)
    everywhere = [Head(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    answer_mass, rfh_mass = (
        _over(from_answer.mass.numpy(), heads) for heads in (everywhere, rank_heads(score.numpy(), k))
    )
    received = by_sentence.received.numpy()
    kurtosis = by_sentence.kurtosis()
    receivers = [head for head in rank_heads(kurtosis, k) if not np.isnan(kurtosis[head])]
    of_all, of_receivers = (_over(received, heads) for heads in (everywhere, receivers))
    curves, entropy = measure_rhythm(lens, trace, Settings(), [Sinks.KEPT])
    response = response_of(trace)
    _, far, _ = choose_heads(
        curves[Sinks.KEPT].distance, curves[Sinks.KEPT].kurtosis, range(lens.n_layers), FAR_SHARE, 1
    )
    fai = curves[Sinks.KEPT].over(far, "fai")
    relevance = relevance_to(lens, trace.measured_ids, position)
    found = []
    for k, (start, end) in enumerate(sentences):
        own = slice(start - response.start, end - response.start)
        found.append(
            {
                "answer_mass": float(answer_mass[k]),
                "rfh_mass": float(rfh_mass[k]),
                "received": or_null(float(of_all[k])),
                "receiver_heads": or_null(float(of_receivers[k])),
                "fai": or_null(float(np.nanmean(fai[own])) if np.isfinite(fai[own]).any() else float("nan")),
                "relevance": or_null(float(relevance[start:end].sum())),
                "entropy": float(entropy[start - response.start]),
                "tokens": end - start,
            }
        )
    return found


def _over(values: Float[np.ndarray, "layer head sentence"], heads: Sequence[Head]) -> Float[np.ndarray, " sentence"]:
    """The mean over heads; NaN over none."""
    if not heads:
        return np.full(values.shape[-1], np.nan)
    layers, numbers = zip(*heads, strict=True)
    mean: np.ndarray = values[list(layers), list(numbers)].mean(0)
    return mean


def relevance_to(lens: Lens, ids: Sequence[int], position: int) -> Float[np.ndarray, " token"]:
    """What the logit of the token at `position`, minus the likeliest other's, owes to each earlier token: input times
    gradient at the first layer, by the rules of RelP where the architecture has them. NaN for long texts, and where a
    layer passes no gradients on.

    One forward and one backward pass.
    """
    if position > LONGEST_BACKWARD or not _has_gradients(lens):
        return np.full(position, np.nan)
    tokens = torch.tensor([list(ids[:position])], device=lens.device)
    with torch.no_grad():
        logits = last_logits(lens, tokens)[0].float()
    others = logits.clone()
    others[ids[position]] = -torch.inf
    answers = Answers(logits, logits, ids[position], int(others.argmax()))
    with ExitStack() as stack:
        try:
            require_rules(lens.name, lens.config)
        except UserError:
            pass
        else:
            stack.enter_context(relevance_rules(lens))
        place = (Site.RESID_PRE, 0)
        traced = backward(lens, tokens, answers, [place])
        (gradient,) = traced.gradients([traced.kept[place]])
    return (gradient[0].float() * traced.kept[place][0].detach().float()).sum(-1).cpu().numpy()


def _has_gradients(lens: Lens) -> bool:
    """Says once where not: the other signals need none."""
    if RELEVANCE not in lens.memo:
        lens.memo[RELEVANCE] = True
        try:
            require_gradients(lens)
        except UserError as error:
            lens.memo[RELEVANCE] = False
            log.warning("sentences get no relevance: %s", error)
    return bool(lens.memo[RELEVANCE])
