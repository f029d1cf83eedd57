"""Calls that cannot hang: a worker process does the work and is killed when the time is up.

multiprocessing would import the caller's main script again in the worker, which breaks scripts and notebooks without a
main guard, and would pickle; the worker here is a plain program that speaks JSON.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from interp.grading.worker import pack

log = logging.getLogger(__name__)

START_SECONDS = 300.0
"""What a worker may take to start and to import its modules; not counted as a call's own time."""
PACKAGE = Path(__file__).resolve().parents[2]
FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that a call does not raise by itself: somebody, or a machine short of memory, ended the worker."""
ENVIRONMENT = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "HOME", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"})
"""All that a worker gets to see of the caller's environment, so no keys."""


class TimeLimitError(Exception):
    """A call took longer, or needed more memory or depth, than it may."""


class WorkerError(Exception):
    """The function raised an error."""


class _EndedError(Exception):
    """The worker ended before it answered."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the worker ended with {code}")
        self.from_outside = code is None or -code in FROM_OUTSIDE


def call_with_time_limit(function: str, *arguments: Any, seconds: float, imports: tuple[str, ...] = ()) -> Any:
    """The result of `module:function` from a confined process; arguments are what `pack` packs, the result is JSON.

    `imports` are modules that each worker imports before its first call; that is not timed. Raises TimeLimitError after
    `seconds`, or if the call ends the worker, recurses too deeply or runs out of memory, and the next call gets a new
    worker; WorkerError for any other error of the function. A worker that is killed from outside is replaced and asked
    once more: that says nothing of the call.
    """
    if seconds <= 0:
        raise ValueError(f"a time limit of {seconds} s")
    module, _, name = function.partition(":")
    call = [seconds, module, name, pack(list(arguments))]
    try:
        try:
            reply = _worker(imports).ask(call, seconds)
        except _EndedError as ended:
            if not ended.from_outside:
                raise
            reply = _worker(imports).ask(call, seconds)
    except _EndedError as ended:
        raise TimeLimitError(f"{function}: {ended}") from ended
    if "result" in reply:
        return reply["result"]
    if reply["error"] in ("MemoryError", "RecursionError"):
        raise TimeLimitError(f"{function}: {reply['error']}")
    raise WorkerError(f"{function}: {reply['error']}: {reply['message']}")


class _Worker:
    """One process at a time, started when first needed and again after it was killed."""

    def __init__(self, imports: tuple[str, ...]) -> None:
        self._imports = imports
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def ask(self, call: list[Any], seconds: float) -> dict[str, Any]:
        with self._lock:
            process = self._running()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(call, default=str) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=seconds)
            except queue.Empty as error:
                self.stop()
                raise TimeLimitError(f"more than {seconds} s") from error
            except BrokenPipeError:
                line = ""
            if not line:
                process.wait()
                self.stop()
                raise _EndedError(process.returncode)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
            kept = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
            self._process = subprocess.Popen(
                # -P: a module that lies in the working directory is not one of Python's
                [sys.executable, "-P", "-B", "-m", "interp.grading.worker", str(os.getpid()), *self._imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the caller
            )
            self._lines = queue.Queue()
            threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
            first = self._lines.get(timeout=START_SECONDS)
            if not first:
                self.stop()
                raise WorkerError(f"the worker does not start: cannot import {', '.join(self._imports)}")
            _say_missing(tuple(json.loads(first)[1]))
        return self._process

    def stop(self) -> None:
        """Kills the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


@cache
def _say_missing(missing: tuple[str, ...]) -> None:
    """Once for each set of protections that the platform lacks."""
    if missing:
        log.warning("answers are scored without %s: this platform has none", " and without ".join(missing))


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Passes lines on; an empty one at the end."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line)
    except ValueError:
        pass  # closed while waiting
    lines.put("")


@cache
def _worker(imports: tuple[str, ...]) -> _Worker:
    return _Worker(imports)
