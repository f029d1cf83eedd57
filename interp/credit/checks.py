"""Was there a treatment? What credit did to the responses of a step, beside plain GRPO on the same responses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHARE, POSITION, EFFECTIVE = "credit/amplified", "credit/position", "credit/effective_tokens"
ENTROPY, ADVANTAGE = "credit/entropy_share", "credit/advantage_share"
COSINE, SECONDS = "credit/gradient_cosine", "credit/seconds"
LOCAL_KEPT, GLOBAL_KEPT = "credit/local_heads_kept", "credit/global_heads_kept"
MEASURES = {
    SHARE: "credited_share",
    POSITION: "credited_position",
    EFFECTIVE: "effective_tokens",
    ENTROPY: "credited_entropy",
    ADVANTAGE: "credited_advantage",
    COSINE: "gradient_cosine",
    LOCAL_KEPT: "local_heads_kept",
    GLOBAL_KEPT: "global_heads_kept",
}
"""What training.parquet keeps of them, and its name there."""
SUMS = (
    *("tokens", "changed", "under", "credited", "position", "gamma", "squares"),
    *("entropy", "entropy_credited", "advantage", "advantage_credited"),
)
"""What is added up over the responses of a step."""


def sums_of(
    advantages: Float[Tensor, " batch"],
    gamma: Float[Tensor, "batch token"],
    mask: Int[Tensor, "batch token"],
    entropy: Float[Tensor, "batch token"],
    floor: float | None = None,
) -> Float[Tensor, " sum"]:
    """The SUMS of some responses, in float64. `gamma` is what their advantages (without it) were multiplied by.

    Credited are tokens with more than the least gamma of their response, or more than `floor`. Responses whose
    advantage is 0 count among `tokens` alone: they have no gradient.
    """
    tokens = mask.bool()
    real = tokens & (advantages != 0)[:, None]
    gamma = gamma.double()
    least = gamma.masked_fill(~real, torch.inf).min(dim=1, keepdim=True).values
    # Sums of bonuses in float32 need not be equal to the last digit.
    credited = real & (gamma > (least if floor is None else floor) + 1e-6)
    length = tokens.sum(1, keepdim=True).clamp(min=1)
    position = (tokens.cumsum(1) - 0.5) / length
    weight = (advantages[:, None].double() * gamma).abs()
    columns: Sequence[tuple[Tensor, Tensor | float]] = (
        *((tokens, 1.0), (real & (gamma != 1), 1.0), (real, 1.0), (credited, 1.0), (credited, position)),
        *((real, gamma), (real, gamma**2), (real, entropy), (credited, entropy), (real, weight), (credited, weight)),
    )
    return torch.stack([(where * value).double().sum() for where, value in columns])


def measures_of(sums: Float[Tensor, " sum"]) -> dict[str, float]:
    """The measures of a step, by their name in TRL's log; those without a denominator are left out."""
    of = dict(zip(SUMS, sums.tolist(), strict=True))
    found = {
        SHARE: (of["changed"], of["tokens"]),
        POSITION: (of["position"], of["credited"]),
        EFFECTIVE: (of["gamma"] ** 2, of["squares"] * of["under"]),
        ENTROPY: (of["entropy_credited"], of["entropy"]),
        ADVANTAGE: (of["advantage_credited"], of["advantage"]),
    }
    return {name: above / below for name, (above, below) in found.items() if below > 0}


class Treatment:
    """Adds up what credit did between two lines of the log, and plain GRPO's gradient where it is asked for."""

    def __init__(self) -> None:
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)
        self._gradient: list[Tensor | None] | None = None

    def add(self, sums: Float[Tensor, " sum"]) -> None:
        self._sums += sums.cpu()

    def take(self) -> dict[str, float]:
        """The measures since the last call."""
        found, self._sums = measures_of(self._sums), torch.zeros_like(self._sums)
        return found

    def add_plain(self, gradient: Sequence[Tensor | None]) -> None:
        """Adds plain GRPO's gradient of a micro-batch, parameter by parameter."""
        before = self._gradient or [None] * len(gradient)
        self._gradient = [a if b is None else b if a is None else a + b for a, b in zip(before, gradient, strict=True)]

    def take_cosine(self, credited: Sequence[Tensor | None]) -> float | None:
        """The cosine of a step's gradient to the sum of what was added; None where nothing was, or it is 0."""
        plain, self._gradient = self._gradient, None
        return None if plain is None else cosine(plain, credited)


def cosine(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float | None:
    """The cosine of two gradients, given parameter by parameter (None = 0); None where one of them is 0."""
    products = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(one, other, strict=True):
        for i, (x, y) in enumerate(((a, b), (a, a), (b, b))):
            if x is not None and y is not None:
                products[i] += (x.double() * y.double()).sum().cpu()
    between, ours, theirs = products.tolist()
    return between / (ours * theirs) ** 0.5 if ours * theirs > 0 else None


class Stopwatch:
    """Adds up the seconds inside `with`; on a GPU by its own clock, which does not hold it up."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start: float | torch.cuda.Event = 0.0

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop = self._now()
        if isinstance(self._start, float) and isinstance(stop, float):
            self._seconds += stop - self._start
        elif not isinstance(self._start, float) and not isinstance(stop, float):
            self._events.append((self._start, stop))

    def take(self) -> float:
        """The seconds since the last call."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(start.elapsed_time(stop) for start, stop in self._events) / 1000
            self._events.clear()
        found, self._seconds = self._seconds, 0.0
        return found

    @staticmethod
    def _now() -> float | torch.cuda.Event:
        if not torch.cuda.is_available():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
