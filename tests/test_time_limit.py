"""Calls that cannot hang."""

from __future__ import annotations

import os
import time

import pytest

from interp.time_limit import MEMORY, TimeLimitError, call_with_time_limit


def sleep_and_say(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def take_memory(n: int) -> int:
    return len(bytearray(n))


def recurse() -> None:
    recurse()


def test_results_and_errors_come_through() -> None:
    assert call_with_time_limit(sleep_and_say, 0.0, seconds=20) == "done"
    assert call_with_time_limit(os.getpid, seconds=20) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        call_with_time_limit(divmod, 1, 0, seconds=20)
    with pytest.raises(ValueError, match="a time limit of 0"):
        call_with_time_limit(sleep_and_say, 0.0, seconds=0)


def test_what_takes_too_long_is_killed_and_the_next_call_works() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitError):
        call_with_time_limit(sleep_and_say, 300.0, seconds=0.5)
    assert time.monotonic() - start < 30
    assert call_with_time_limit(sleep_and_say, 0.0, seconds=20) == "done"


def test_too_much_memory_depth_or_a_dead_worker() -> None:
    for function, *arguments in ((take_memory, 2 * MEMORY), (recurse,), (os._exit, 3)):
        with pytest.raises(TimeLimitError):
            call_with_time_limit(function, *arguments, seconds=20)
    assert call_with_time_limit(take_memory, 10, seconds=20) == 10
