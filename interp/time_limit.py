"""Calls that cannot hang: a worker process does the work and is killed when the time is up.

multiprocessing would import the caller's main script again in the worker, which breaks scripts and notebooks without a
main guard, and would pickle; the worker here is a plain program that speaks JSON.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from interp.worker import MEMORY, READY

START_SECONDS = 300.0
"""What a worker may take to start and to import its modules; not counted as a call's own time."""
PACKAGE = Path(__file__).resolve().parents[1]


class TimeLimitError(Exception):
    """A call took longer, or needed more memory or depth, than it may."""


class WorkerError(Exception):
    """The function raised an error."""


def call_with_time_limit(function: str, *arguments: Any, seconds: float, imports: tuple[str, ...] = ()) -> Any:
    """The result of `module:function` from another process; arguments and result are what JSON can hold.

    `imports` are modules that each worker imports before its first call; that is not timed. Raises TimeLimitError after
    `seconds`, or if the worker dies, recurses too deeply or runs out of memory, and the next call gets a new worker;
    WorkerError for any other error of the function.
    """
    if seconds <= 0:
        raise ValueError(f"a time limit of {seconds} s")
    module, _, name = function.partition(":")
    reply = _worker(imports).ask([module, name, list(arguments)], seconds)
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
            except (queue.Empty, BrokenPipeError) as error:
                self.stop()
                raise TimeLimitError(f"more than {seconds} s") from error
            if not line:
                self.stop()
                raise TimeLimitError(f"the worker died: more than {MEMORY} bytes of memory, perhaps")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "interp.worker", *self._imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the caller
            )
            self._lines = queue.Queue()
            threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
            if self._lines.get(timeout=START_SECONDS).strip() != READY:
                self.stop()
                raise WorkerError(f"the worker does not start: cannot import {', '.join(self._imports)}")
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
