"""What `dry_run=true` prints: how many passes, how much memory, about how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from experiments.base.session import Session
from interp.errors import UserError
from interp.model.lens import available_memory, device_of


@dataclass(frozen=True)
class Plan:
    """An estimate of a run from here to its end, made by running a small part of it."""

    examples: int
    passes: int
    """Forward passes over whole sequences; generated tokens are not counted."""
    generated_tokens: int
    peak_bytes: int
    seconds: float
    basis: str
    """What was run to make the estimate."""

    def __str__(self) -> str:
        return (
            f"{self.examples} examples, {self.passes} forward passes, about {self.generated_tokens} generated tokens, "
            f"at most {self.peak_bytes / 2**30:.1f} GiB of memory, about {_duration(self.seconds)} "
            f"once the model is loaded (estimated from {self.basis})"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Meter:
    """Seconds and peak memory of a block of code; see `measured`."""

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Meter]:
    """Time and peak resident (CPU) or allocated (GPU) memory while the block runs."""
    meter, done = Meter(), threading.Event()
    process = psutil.Process()

    def watch() -> None:
        while not done.wait(0.02):
            meter.peak_bytes = max(meter.peak_bytes, process.memory_info().rss)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        meter.peak_bytes = max(meter.peak_bytes, process.memory_info().rss)
        if torch.cuda.is_available():
            meter.peak_bytes = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def require_memory(session: Session, needed: int, what: str, remedy: str) -> None:
    """Raises UserError if `needed` bytes are not free on the model's device."""
    free = available_memory(device_of(session.model_spec.device))
    if needed > free:
        raise UserError(f"{what} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: {remedy}")
