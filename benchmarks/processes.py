"""One measurement in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any


def in_a_process(*what: object) -> dict[str, Any] | None:
    """What the module that runs (`python -m`) prints as JSON when it is called by its own options and `--one` with
    `what`; None, and a line on the screen, where it did not finish."""
    module: Any = sys.modules["__main__"]
    command = [sys.executable, "-m", module.__spec__.name, *sys.argv[1:], "--one", *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{', '.join(map(str, what))} tokens did not finish (exit {done.returncode}): {last}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_resident() -> float:
    """GiB that this process has held at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
