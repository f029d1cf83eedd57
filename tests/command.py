"""The command line for tests: in this process or as one of its own, and the smallest runs of every experiment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from experiments.base.experiment import experiments
from experiments.base.session import Session
from experiments.run import main
from interp.runs.store import RunStore

ROOT = Path(__file__).resolve().parents[1]
NO_PROBES = [
    "experiment.induction_prompts=0",
    "experiment.haystack.lengths=[]",
    "experiment.maps=0",
    "experiment.explore.traces=0",
]
SMALLEST: dict[str, list[str]] = {
    name: list(record.smallest) for name, record in experiments().items() if record.smallest
}
"""Overrides that make each shipped experiment as small as it can be."""
SMALL_HEADS, SMALL_PAPER = SMALLEST["heads"], SMALLEST["paper"]
SMALL_CREDIT = [one for one in SMALLEST["credit"] if one != "data=planted"]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, cwd: Path = ROOT) -> Done:
    """The command line in this process, which spares every call the seconds of importing everything again.

    Figures take most of a small run's time: they are drawn where the test asks for them by figures=true.
    """
    out, err = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiments.run", *arguments, *_no_figures(arguments)])
        code = main()
    return Done(code, out.getvalue(), err.getvalue())


def _no_figures(arguments: Sequence[str]) -> list[str]:
    said = any(a.startswith(("figures=", "--")) for a in arguments)
    return [] if said else ["figures=false"]


def ok(*arguments: str, cwd: Path = ROOT) -> Done:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: str, after: int) -> str:
    """Runs until so many parts are written, then as if by Ctrl-C; what it said."""
    write_part, written = RunStore._write_part, 0

    def stop(self: RunStore, *parts: Any) -> None:
        nonlocal written
        if written == after:
            raise KeyboardInterrupt
        written += 1
        write_part(self, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "_write_part", stop)
        done = run(*arguments)
    assert done.returncode == 130, done.stderr
    return done.stderr


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments, *_no_figures(arguments)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started from a background job, the tests ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_parts(process: subprocess.Popen[str], directory: Path, n: int) -> None:
    deadline = time.monotonic() + 200
    while len(list(directory.glob("parts/*"))) < n and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


def published_beside(experiment: str, directory: Path) -> dict[str, str]:
    """The names of a finished run's headline numbers that something published stands beside, by its key."""
    names = [one["name"] for one in json.loads((directory / "summary.json").read_text())["headlines"]]
    about = experiments()[experiment].about
    found = {key: name for name, (key, _) in about.placed(names).items()}
    assert found.keys() == about.beside.keys(), "a published number stands beside nothing"
    return found


def make_session(directory: Path, *overrides: str) -> Session:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Session(compose("config", [*overrides, "progress=false"]), directory)
