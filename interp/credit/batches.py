"""What credit reads in TRL's batches and state, what it adds to them, and where it takes attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum, StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_trainer import GRPOTrainer

from interp.credit.by_sentence import sentence_numbers_of
from interp.credit.gamma import CreditRule, Signals, applied, token_advantages
from interp.credit.signals import BatchRhythm
from interp.errors import UserError, nearest
from interp.stats import seed_for

COLUMNS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
PLAIN, GAMMA = "credit_plain_advantages", "credit_gamma"
"""Ours, which TRL shuffles and splits like its own: the advantages of the responses, (batch,), and the factor on each
token's, (batch, token)."""
GIVEN = {"noise": "credit_noise", "decisions": "credit_decisions", "sentences": "credit_sentences"}
"""Signals that no pass makes, (batch, token), by where they are kept."""
Decisions = Callable[[Int[Tensor, "batch token"]], Bool[Tensor, "batch token"]]
"""Which tokens of responses decide."""


CONTROLLER = ("entropy_coef", "_last_world_entropy", "_entropy_window_stats")
"""What TRL's loss changes beside its log, where it steers the entropy."""


class Where(Enum):
    """In which pass attention is taken."""

    NOWHERE = "none is needed"
    LOSS = "that of the loss, whose advantages TRL reads behind it"
    OLD = "that of the old log-probabilities, which TRL makes where the weights change before a response's loss"
    EXTRA = "one of its own"


def whole(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Ids and mask of prompts and completions together, and the number of columns of the completions."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, mask, batch["completion_ids"].shape[1]


def credited_mask(batch: dict[str, Any]) -> Int[Tensor, "batch token"]:
    """1 on the tokens that the model wrote and is trained on."""
    mask: Tensor = batch["completion_mask"]
    return mask if batch.get("tool_mask") is None else mask * batch["tool_mask"]


def put(batch: dict[str, Any], gamma: Float[Tensor, "batch token"], rule: CreditRule) -> None:
    """Multiplies a batch's advantages by gamma, and keeps both factors."""
    plain = batch["advantages"]
    batch[PLAIN], batch[GAMMA] = plain, applied(plain, gamma, rule.signs)
    batch["advantages"] = token_advantages(plain, gamma, rule.signs)


def signals_of(rhythm: BatchRhythm | None, entropy: Tensor | None, rows: Tensor | None = None) -> Signals:
    """The signals of a pass: of attention where that was taken in, else of its predictions."""
    if rhythm is not None:
        return Signals(waad=rhythm.waad, fai=rhythm.fai)
    assert entropy is not None
    return Signals(entropy=entropy.detach() if rows is None else entropy.detach()[rows])


def with_given(signals: Signals, batch: Mapping[str, Any], rows: Tensor | None = None) -> Signals:
    """With the signals that a batch brings along, of some of its rows or all."""
    found = {name: batch[key] for name, key in GIVEN.items() if key in batch}
    return replace(signals, **{name: value if rows is None else value[rows] for name, value in found.items()})


@contextmanager
def nothing_logged(trainer: GRPOTrainer) -> Iterator[None]:
    """While open, TRL's loss changes neither its log nor what steers the entropy."""
    before = {name: getattr(trainer, name) for name in ("_metrics", *CONTROLLER) if hasattr(trainer, name)}
    trainer._metrics = {mode: defaultdict(list) for mode in trainer._metrics}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(trainer, name, value)


def give(
    batch: dict[str, Any],
    needs: Sequence[str],
    decisions: Decisions | None,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    *labels: object,
) -> None:
    """Adds to a batch what a rule needs and no pass makes."""
    ids = batch["completion_ids"]
    if "noise" in needs:
        batch[GIVEN["noise"]] = noise_for(ids, seed, *labels)
    if "decisions" in needs and decisions is not None:
        batch[GIVEN["decisions"]] = decisions(ids)
    if "sentences" in needs:
        batch[GIVEN["sentences"]] = sentence_numbers_of(ids, batch["completion_mask"], tokenizer)


def noise_for(ids: Int[Tensor, "batch token"], seed: int, *labels: object) -> Float[Tensor, "batch token"]:
    """Uniform numbers that depend on the seed, the labels, the response and its place in the batch alone."""
    noise = []
    for row, response in enumerate(ids):
        numbers = torch.Generator().manual_seed(seed_for(seed, "credit", *labels, row, *response.tolist()))
        noise.append(torch.rand(ids.shape[1], generator=numbers))
    return torch.stack(noise).to(ids.device)


def member(kind: type[StrEnum], value: str, name: str) -> Any:
    """A member of an enumeration by its value. Raises UserError for another one."""
    if value not in [member.value for member in kind]:
        raise UserError(f"unknown {name}={value}; {nearest(str(value), [member.value for member in kind])}")
    return kind(value)
