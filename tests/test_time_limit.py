"""Calls that cannot hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.time_limit import TimeLimitError, WorkerError, call_with_time_limit
from interp.worker import MEMORY

ROOT = Path(__file__).resolve().parents[1]


def test_results_and_errors_come_through() -> None:
    assert call_with_time_limit("math:hypot", 3, 4, seconds=20) == 5.0
    assert call_with_time_limit("os:getpid", seconds=20) != os.getpid()
    assert call_with_time_limit("builtins:print", "not a reply", seconds=20) is None
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        call_with_time_limit("builtins:divmod", 1, 0, seconds=20)
    with pytest.raises(WorkerError, match="AttributeError"):
        call_with_time_limit("math:nothing", seconds=20)
    with pytest.raises(ValueError, match="a time limit of 0"):
        call_with_time_limit("math:hypot", seconds=0)


def test_what_takes_too_long_is_killed_and_the_next_call_works() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitError):
        call_with_time_limit("time:sleep", 300, seconds=0.5)
    assert time.monotonic() - start < 30
    assert call_with_time_limit("math:hypot", 3, 4, seconds=20) == 5.0


def test_too_much_memory_or_depth_or_a_dead_worker() -> None:
    for function, argument in (("builtins:bytearray", 2 * MEMORY), ("os:_exit", 3), ("os:abort", None)):
        with pytest.raises(TimeLimitError):
            call_with_time_limit(function, *([argument] if argument else []), seconds=60)
    assert call_with_time_limit("math:hypot", 3, 4, seconds=20) == 5.0


def test_a_worker_that_cannot_start() -> None:
    with pytest.raises(WorkerError, match="cannot import no_such_module"):
        call_with_time_limit("math:hypot", 3, 4, seconds=20, imports=("no_such_module",))


def test_a_script_without_a_main_guard_may_grade(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from interp.grading import is_correct\nprint(is_correct('1/2', '0.5'))\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
