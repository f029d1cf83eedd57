"""Credit as one function, for trainers of any library (Paper B, section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.credit.gamma import CreditRule, Signals, gamma_of
from interp.credit.ranking import BatchRanking, rank_heads
from interp.credit.signals import BatchRhythm, CreditHeads, measure_batch
from interp.errors import UserError, member
from interp.rhythm.waad_fai import Settings, Sinks

Attentions = Sequence[Float[Tensor, "batch head column column"]]
"""The weights of every layer, as `model(..., output_attentions=True).attentions` gives them."""
ATTENTION = frozenset({"waad", "fai"})
"""Signals that come from attention."""


@torch.no_grad()
def credit(
    source: torch.nn.Module | Attentions,
    ids: Int[Tensor, "batch column"],
    mask: Int[Tensor, "batch column"],
    completion_mask: Int[Tensor, "batch token"],
    rule: CreditRule = CreditRule(),  # noqa: B008 - frozen
    *,
    heads: CreditHeads | BatchRanking = BatchRanking(),  # noqa: B008 - frozen
    settings: Settings = Settings(),  # noqa: B008 - frozen
    sinks: Sinks = Sinks.KEPT,
    entropy: Float[Tensor, "batch token"] | None = None,
    noise: Float[Tensor, "batch token"] | None = None,
    decisions: Bool[Tensor, "batch token"] | None = None,
    sentences: Int[Tensor, "batch token"] | None = None,
) -> Float[Tensor, "batch token"]:
    """Gamma of every token of the completions, in float32: multiply the token's advantage by it.

    It is 1 where nothing is amplified and on padding, and carries no gradient. `ids` are prompts, padded on the left,
    and completions, padded on the right; `mask` is 1 on their tokens and 0 on padding. The completions are the last
    columns, as many as `completion_mask` has, which is 1 on the tokens that the model wrote (0 on those of tools too).

    `source` is the model, which makes one forward pass without gradient (two where heads are ranked first), or the
    attention weights of all its layers. Give `heads` that were ranked once (`rank_heads`), so that all batches of a
    training are measured alike: a `BatchRanking` ranks them on this batch. `entropy` (nats) is what the strategy
    `entropy` goes by; `noise` are independent uniform numbers for the random strategies, drawn by torch where none are
    given. `decisions` are the tokens that decide, for the strategy `oracle`; `sentences` the number of each
    token's sentence, for `unit=sentence` (`sentence_numbers_of`). Raises UserError for values out of range
    and for attention that cannot be seen.
    """
    rule.check()
    settings.check()
    if isinstance(heads, BatchRanking):
        heads.check()
    n_tokens = completion_mask.shape[1]
    if ids.shape != mask.shape or len(ids) != len(completion_mask) or n_tokens > ids.shape[1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (ids, mask, completion_mask))
        raise UserError(f"ids, mask (batch, column) and completion_mask (batch, token) do not fit: {shapes}")
    found: dict[str, Tensor | None] = {
        "entropy": entropy,
        "noise": noise,
        "decisions": decisions,
        "sentences": sentences,
    }
    needs, sinks = rule.needs, member(Sinks, sinks, "sinks")
    if "entropy" in needs and entropy is None:
        raise UserError("credit by entropy needs entropy=, of shape (batch, token)")
    if "decisions" in needs and decisions is None:
        raise UserError("oracle credit needs decisions=, of shape (batch, token)")
    if "sentences" in needs and sentences is None:
        raise UserError("credit by sentence needs sentences=, of shape (batch, token): see sentence_numbers_of")
    if "noise" in needs and noise is None:
        found["noise"] = torch.rand(completion_mask.shape, device=ids.device)
    if ATTENTION & set(needs):
        rhythm = _rhythm(source, ids, mask, n_tokens, needs, heads, settings, sinks)
        found |= {"waad": rhythm.waad, "fai": rhythm.fai}
    return gamma_of(rule, Signals(**found), completion_mask)


def _rhythm(
    source: torch.nn.Module | Attentions,
    ids: Tensor,
    mask: Tensor,
    n_tokens: int,
    needs: Sequence[str],
    heads: CreditHeads | BatchRanking,
    settings: Settings,
    sinks: Sinks,
) -> BatchRhythm:
    model = source if isinstance(source, torch.nn.Module) else None
    if isinstance(heads, BatchRanking):
        if model is None:
            raise UserError("heads are ranked on a model: give heads=CreditHeads.of(local, far) with attention weights")
        heads = rank_heads(model, core_of(model), ids, mask, n_tokens, heads)
    rhythm = BatchRhythm(needed(heads, needs), settings, sinks, mask, ids.shape[1] - n_tokens)
    if model is not None:
        measure_batch(model, core_of(model), ids, rhythm)
        return rhythm
    for layer, weights in enumerate(source):  # type: ignore[arg-type]
        if layer in rhythm.layers:
            rhythm.take_in_weights(layer, weights)
    rhythm.require_all_seen()
    return rhythm


def needed(heads: CreditHeads, needs: Sequence[str]) -> CreditHeads:
    """The heads of those signals that a strategy needs."""
    return CreditHeads(heads.local if "waad" in needs else (), heads.far if "fai" in needs else ())


def core_of(model: torch.nn.Module) -> PreTrainedModel:
    """The model whose layers attend, inside what accelerate and PEFT wrap it in. Raises UserError for another one."""
    core = extract_model_from_parallel(model)
    core = core if isinstance(core, PreTrainedModel) or not hasattr(core, "get_base_model") else core.get_base_model()
    if not isinstance(core, PreTrainedModel):
        raise UserError(f"credit cannot see the attention of a {type(core).__name__}: give a model of transformers")
    return core
