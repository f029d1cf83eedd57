"""Calls that cannot hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from interp.grading.sandbox import MEMORY
from interp.grading.time_limit import TimeLimitError, WorkerError, call_with_time_limit
from interp.grading.worker import pack, unpack

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
    script.write_text("from interp.grading.outcomes import is_correct\nprint(is_correct('1/2', '0.5'))\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_killed_from_outside_is_asked_again(signal_number: int) -> None:
    victim = call_with_time_limit("os:getpid", seconds=20)
    killer = threading.Timer(0.3, os.kill, (victim, signal_number))
    killer.start()
    assert call_with_time_limit("time:sleep", 1, seconds=20) is None
    killer.join()
    assert call_with_time_limit("os:getpid", seconds=20) != victim


def test_the_worker_goes_with_its_parent() -> None:
    """Even one that is busy: the parent is killed and can stop nothing."""
    script = (
        "import threading\nfrom interp.grading.time_limit import call_with_time_limit as call\n"
        "print(call('os:getpid', seconds=20), flush=True)\ncall('time:sleep', 300, seconds=300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processor_time_ends_where_nobody_watches() -> None:
    """A worker whose parent does not look at the clock: its own limit of processor time ends it."""
    script = (
        "import time\nfrom interp.grading.sandbox import allow_seconds\nallow_seconds(0)\n"
        "start = time.monotonic()\nwhile time.monotonic() < start + 60: pass\n"
    )
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -signal.SIGXCPU
    assert time.monotonic() - start < 30


def test_arguments_arrive_as_they_are() -> None:
    value = {"a": (1, [2, {3}]), "b": {1: "x", (2, 3): None}, "c": {"tuple": [1]}, "d": {}}
    assert unpack(json.loads(json.dumps(pack(value)))) == value
    assert call_with_time_limit("operator:eq", (1, 2), (1, 2), seconds=20) is True
    assert call_with_time_limit("operator:contains", {1: "x"}, 1, seconds=20) is True


def test_a_worker_sees_no_keys_and_no_module_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit(1)")
    script = (
        "from interp.grading.time_limit import call_with_time_limit as call\n"
        "print(call('os:getenv', 'OPENAI_API_KEY', seconds=20), call('colorsys:rgb_to_hsv', 0, 0, 0, seconds=20))\n"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None [0.0, 0.0, 0]\n"
