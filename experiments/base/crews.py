"""Who works on the shares of a run: processes on this machine, tasks of Ray, or an array of Slurm jobs.

A worker does not know which: each runs `work` of worker.py. Its outcome is a file, so all that is asked of an engine is
to start workers, to say which of them are still there, and to stop them.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments.base.session import Session
from experiments.base.share import log_of
from interp.errors import PassingError, UserError
from interp.runs.directory import SHARES

log = logging.getLogger(__name__)

WORKER = "experiments.base.worker"
"""By its name: it needs the runner, which needs the crews."""


class Crew(Protocol):
    """The workers of one stage, by number."""

    seconds: float
    """How long after a worker is gone what it has written may still be on its way."""

    def start(self, numbers: Sequence[int]) -> None: ...

    def alive(self) -> set[int]:
        """Those that run or wait for their turn."""
        ...

    def stop(self) -> None:
        """Ends those that are left, and removes what the engine itself has written."""
        ...


ENGINES: Mapping[str, tuple[str, str] | None] = {
    "BasicLauncher": None,
    "RayLauncher": ("ray", "ray"),
    "SlurmLauncher": ("submitit", "slurm"),
}
"""Hydra's launchers that can run shards, with the package that each needs and the extra that brings it."""


def require_launcher() -> None:
    """Raises UserError for a launcher that cannot run shards, or whose package is missing."""
    name, _ = _launcher()
    if name not in ENGINES:
        raise UserError(f"{name} cannot run shards: use hydra/launcher=ray_cluster, submitit_slurm or none")
    if (package := ENGINES[name]) is not None:
        _package(*package)


def crew_of(session: Session) -> Crew:
    """Processes here, or what `hydra/launcher` names."""
    require_launcher()
    directory, (name, options) = session.directory.resolve(), _launcher()
    if name == "RayLauncher":
        return Ray(directory, options["ray"])
    return Slurm(directory, options) if name == "SlurmLauncher" else Processes(directory, _devices(session))


def _launcher() -> tuple[str, dict[str, Any]]:
    """Its name and options. In a sweep it has started the jobs already, whose shards are processes."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or hydra.mode == RunMode.MULTIRUN:
        return "BasicLauncher", {}
    options: dict[str, Any] = OmegaConf.to_container(hydra.launcher, resolve=True)  # type: ignore[assignment]
    return str(options.pop("_target_")).rpartition(".")[2], options


def _devices(session: Session) -> list[str]:
    """The GPUs that processes take in turn, where there are several and the options leave the choice."""
    if session.model_options.device not in ("auto", "cuda") or session.model_options.device_map is not None:
        return []
    n = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible if len(visible) == n else [str(i) for i in range(n)]


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"this launcher needs the package {name}: pip install 'anchorlens[{extra}]'") from error


@contextmanager
def _said(engine: str) -> Iterator[None]:
    """What an engine refuses, such as an address where nobody is, in one line."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PassingError(f"{engine} cannot start workers: {first}") from error


class Processes:
    """A process each on this machine; they end with the one that started them."""

    seconds = 0.0

    def __init__(self, directory: Path, devices: Sequence[str] = ()) -> None:
        self.directory, self.devices = directory, devices
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, numbers: Sequence[int]) -> None:
        threads, cores = torch.get_num_threads(), os.cpu_count() or 1
        if len(numbers) * threads > cores:  # as many as the run has, since they decide the last bits
            log.info("%d workers with threads=%d each on %d CPU cores", len(numbers), threads, cores)
        # The same modules as here, whatever directory they were found in.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        for number in numbers:
            if len(self.devices) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = self.devices[number % len(self.devices)]
            command = [sys.executable, "-P", "-m", WORKER, str(self.directory), str(number)]
            with log_of(self.directory, number).open("ab") as out:
                # Not in this terminal's group: what interrupts this process is passed on by `stop`.
                self._running[number] = subprocess.Popen(
                    [*command, str(os.getpid())],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )

    def alive(self) -> set[int]:
        return {number for number, process in self._running.items() if process.poll() is None}

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


class Ray:
    """A task each on a Ray cluster; `init` and `remote` are those of hydra/launcher=ray and ray_cluster."""

    seconds = 5.0

    def __init__(self, directory: Path, options: Mapping[str, Any]) -> None:
        ray = _package("ray", "ray")
        self.ray, self.directory = ray, directory
        if not ray.is_initialized():
            with _said("Ray"):
                ray.init(**{"log_to_driver": False, **options["init"]})
        # A process for each task: its memory, that of a GPU too, is free again when the task is done.
        self._task = ray.remote(**{"max_retries": 0, "max_calls": 1, **options["remote"]})(import_module(WORKER).work)
        self._running: dict[int, Any] = {}

    def start(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._running[number] = self._task.remote(str(self.directory), number)

    def alive(self) -> set[int]:
        if not self._running:
            return set()
        references = list(self._running.values())
        _, waiting = self.ray.wait(references, num_returns=len(references), timeout=0)
        return {number for number, reference in self._running.items() if reference in waiting}

    def stop(self) -> None:
        for number in self.alive():
            self.ray.cancel(self._running[number], force=True)


class Slurm:
    """An array of Slurm jobs, submitted by submitit with the options of hydra/launcher=submitit_slurm.

    Of Hydra's plugin (of 2022) only these options are used. Which jobs are left is asked of squeue: submitit asks
    sacct, which needs accounting, and without it takes a job that was killed for one that still runs.
    """

    seconds = 5.0
    SHARED = (
        *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node"),
        *("mem_gb", "nodes", "name", "stderr_to_stdout"),
    )
    """Options that submitit knows for all clusters; the others are Slurm's own."""
    OURS = ("submitit_folder", "max_num_timeout")

    def __init__(self, directory: Path, options: Mapping[str, Any]) -> None:
        submitit = _package("submitit", "slurm")
        self.directory = directory
        self._folder = directory / SHARES / "slurm"
        with _said("Slurm"):
            self._executor = submitit.AutoExecutor(folder=self._folder / "%j", cluster="slurm")
        given = {name: value for name, value in options.items() if name not in self.OURS}
        self._executor.update_parameters(**{n if n in self.SHARED else f"slurm_{n}": v for n, v in given.items()})
        self._jobs: dict[int, Any] = {}
        self._asked = (float("-inf"), set[int]())

    def start(self, numbers: Sequence[int]) -> None:
        with _said("Slurm"):
            jobs = self._executor.map_array(import_module(WORKER).work, [str(self.directory)] * len(numbers), numbers)
        self._jobs |= dict(zip(numbers, jobs, strict=True))
        self._asked = (time.monotonic(), self._asked[1] | set(numbers))

    def alive(self) -> set[int]:
        """As squeue said a second ago at the most: its daemon serves all users."""
        if time.monotonic() - self._asked[0] > 1:
            ids = ",".join({job.job_id.partition("_")[0] for job in self._jobs.values()})
            command = ["squeue", "--noheader", "--array", f"--jobs={ids}", "--format=%i"]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode == 0 or "Invalid job id" in said.stderr:
                listed = set(said.stdout.split())
                self._asked = (time.monotonic(), {n for n, job in self._jobs.items() if job.job_id in listed})
        return self._asked[1]

    def stop(self) -> None:
        for number in self.alive():
            self._jobs[number].cancel(check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
