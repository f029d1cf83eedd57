"""Calls that cannot hang: a worker process does the work and is killed when the time is up."""

from __future__ import annotations

import atexit
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

T = TypeVar("T")

MEMORY = 4 * 2**30
"""Address space of the worker in bytes."""


class TimeLimitError(Exception):
    """A call took longer, or needed more memory, than it may."""


def call_with_time_limit(
    function: Callable[..., T], *arguments: Any, seconds: float, prepare: Callable[[], None] | None = None
) -> T:
    """The function's result, from another process. Function and arguments must be picklable.

    `prepare` runs once in each worker and is not timed: slow imports belong there. Raises TimeLimitError after
    `seconds`, or if the worker dies, recurses too deeply or runs out of memory; the next call gets a new worker. Other
    errors of the function come through as they are.
    """
    if seconds <= 0:
        raise ValueError(f"a time limit of {seconds} s")
    try:
        return _workers(prepare).schedule(function, args=arguments, timeout=seconds).result()
    except (FutureTimeoutError, ProcessExpired, MemoryError, RecursionError) as error:
        raise TimeLimitError(f"more than {seconds} s or {MEMORY} bytes") from error


@cache
def _workers(prepare: Callable[[], None] | None) -> ProcessPool:
    # A forked copy of a process with PyTorch's threads may deadlock.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=1, initializer=_start, initargs=(prepare,), context=spawn)
    atexit.register(_stop, pool)
    return pool


def _start(prepare: Callable[[], None] | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if prepare is not None:
        prepare()


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()
