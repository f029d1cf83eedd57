"""What a patch does to the answer: logit difference and its normalised form, probabilities, ranks, divergence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import member

METRICS = ("nld", "ld", "logprob_clean", "logprob_corrupted", "prob_clean", "prob_corrupted", "rank_clean",
           "rank_corrupted", "kl", "flipped")  # fmt: skip


class Direction(StrEnum):
    """Which run is patched."""

    DENOISE = "denoise"
    """Clean activations into the corrupted run."""
    NOISE = "noise"
    """Corrupted activations into the clean run."""


@dataclass(frozen=True)
class Answers:
    """The two runs' logits at the predicting token, and the tokens that answer the clean and the corrupted question."""

    clean: Float[Tensor, " vocab"]
    corrupted: Float[Tensor, " vocab"]
    clean_id: int
    corrupted_id: int
    direction: Direction = Direction.DENOISE

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", member(Direction, self.direction, "direction"))

    @property
    def base(self) -> Float[Tensor, " vocab"]:
        """Logits of the run that is patched."""
        return self.corrupted if self.direction == Direction.DENOISE else self.clean

    def ld(self, logits: Float[Tensor, "... vocab"]) -> Float[Tensor, ...]:
        """Logit difference: clean answer minus corrupted answer."""
        return logits[..., self.clean_id] - logits[..., self.corrupted_id]

    @property
    def ld_clean(self) -> float:
        return float(self.ld(self.clean))

    @property
    def ld_corrupted(self) -> float:
        return float(self.ld(self.corrupted))

    def nld(self, ld: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Normalised logit difference (Paper A, section 5): 0 = the patch does nothing, 1 = the other run's answer.

        Denoising: (LD_patched - LD_corrupted) / (LD_clean - LD_corrupted); noising counts from the clean run. NaN where
        the two runs have the same logit difference.
        """
        whole = self.ld_clean - self.ld_corrupted
        if whole == 0:
            return torch.full_like(ld, torch.nan)
        return (ld - self.ld_corrupted) / whole if self.direction == Direction.DENOISE else (self.ld_clean - ld) / whole

    def measure(self, logits: Float[Tensor, "row vocab"]) -> dict[str, Float[Tensor, " row"]]:
        """All METRICS. Ranks count from 0 = likeliest; kl = KL(unpatched || patched) in nats; flipped = 1 where the
        preferred of the two answers is no longer the patched run's own."""
        logits = logits.to(self.base.dtype)
        log_p = logits.log_softmax(-1)
        base = self.base.log_softmax(-1)
        ld = self.ld(logits)
        found = {"nld": self.nld(ld), "ld": ld}
        for name, token in (("clean", self.clean_id), ("corrupted", self.corrupted_id)):
            found[f"logprob_{name}"] = log_p[:, token]
            found[f"prob_{name}"] = log_p[:, token].exp()
            found[f"rank_{name}"] = (logits > logits[:, token, None]).sum(-1).to(ld.dtype)
        found["kl"] = (base.exp() * (base - log_p)).sum(-1)
        found["flipped"] = ((ld > 0) != (self.ld(self.base) > 0)).to(ld.dtype)
        return found

    def unpatched(self) -> tuple[dict[str, float], dict[str, float]]:
        """All metrics of the clean and of the corrupted run."""
        both = self.measure(torch.stack([self.clean, self.corrupted]))
        return {k: float(v[0]) for k, v in both.items()}, {k: float(v[1]) for k, v in both.items()}
