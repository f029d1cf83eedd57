"""The command line for tests: in this process or as one of its own, and the smallest runs of every experiment."""

from __future__ import annotations

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

import pytest
from hydra import compose, initialize_config_dir

from experiments.base.session import Session
from experiments.run import main

ROOT = Path(__file__).resolve().parents[1]
TINY_TRAINING = "steps=2 drill_steps=1 every=1 batch=2 eval_problems=2 final_problems=4 early_accuracy=[0,1]"
TINY_REASONER = "size.layers=1 size.hidden=16 size.heads=2 size.mlp=16"
SMALL_HEADS = [
    "data.limit=2",
    *(f"experiment.{option}" for option in ["random_sets=3", "resamples=20", "induction_prompts=1", "maps=1"]),
    "experiment.haystack.lengths=[40]",
    "experiment.haystack.depths=[0.5]",
]
NO_PROBES = ["experiment.induction_prompts=0", "experiment.haystack.lengths=[]", "experiment.maps=0"]
SMALL_PATCHING = ["data.limit=2", "experiment.maps=1", "experiment.random_sets=1", "experiment.random_positions=1"]
SMALL_CREDIT = [
    "generation.max_new_tokens=24",
    *(f"experiment.{option}" for option in ["steps=2", "eval_every=1", "save_every=1", "ranking_traces=2"]),
    *(f"experiment.{option}" for option in ["train.limit=4", "test.limit=3", "grpo.num_generations=4"]),
    "experiment.grpo.per_device_train_batch_size=8",
]
SMALL_PAPER = [
    "experiment.parts=[evaluate,heads]",
    "experiment.questions=4",
    "experiment.traces=2",
    *(f"+experiment.options.heads.{o}" for o in ["random_sets=3", "resamples=20", "induction_prompts=1", "maps=1"]),
    "+experiment.options.heads.haystack.lengths=[]",
]
SMALLEST: dict[str, list[str]] = {
    "evaluate": ["data.limit=2"],
    "key_tokens": ["data.limit=2", "experiment.each=2", "experiment.traced=1"],
    "ablate": [
        "data.limit=2",
        *(f"experiment.{option}" for option in ["doses=[1]", "random_sets=1", "kinds=[zero]", "rows=[answer]"]),
        *(f"experiment.{option}" for option in ["knockouts=[answer_reasoning]", "renormalise=[true]", "window=0"]),
        *(f"experiment.{option}" for option in ["induction_prompts=1", "haystack.lengths=[]", "each_head=false"]),
    ],
    "perturb": ["data.limit=2", "experiment.candidates=1", "experiment.positions=groups", "experiment.k=2"],
    "heads": SMALL_HEADS,
    "credit": [*SMALL_CREDIT, "data=planted"],
    "paper": SMALL_PAPER,
    "patching": SMALL_PATCHING,
    "rhythm": ["data.limit=2", "experiment.sentence_draws=5", "experiment.map_tokens=10"],
    "train_reasoner": [f"experiment.{option}" for option in f"{TINY_TRAINING} {TINY_REASONER}".split()],
}
"""Overrides that make each shipped experiment as small as it can be."""


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


def make_session(directory: Path, *overrides: str) -> Session:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Session(compose("config", [*overrides, "progress=false"]), directory)
