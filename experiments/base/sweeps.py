"""Failed jobs of a sweep: they do not stop the others, and are listed at its end, wherever the jobs ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from interp.errors import printable

FOLDER = "failed"
BY_HYDRA = "multirun.yaml"
"""What Hydra leaves in the directory of a sweep."""

failures: list[str] = []
"""What went wrong with the jobs of this process, or of the sweep that it started."""
crashes: list[str] = []
"""Those among them that ended with an unexpected error."""


def in_sweep() -> bool:
    """Whether this job is one of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def note_failure(message: str, *, crashed: bool) -> None:
    """Remembers a failed job; that of a sweep in the sweep's directory, since it may run in another process."""
    if not in_sweep():
        failures.append(message)
        return
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    about = {"job": ", ".join(hydra.overrides.task), "message": " ".join(message.split()), "crashed": crashed}
    (folder / f"{hydra.job.num}.json").write_text(json.dumps(about, indent=2) + "\n")


class ListFailures(Callback):
    """Prints the failed jobs when a sweep ends. Its process knows of them then, whichever processes ran them."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs
        if config.go_on:  # what failed before is tried again
            for file in (Path(config.hydra.sweep.dir) / FOLDER).glob("*.json"):
                file.unlink()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs  # Hydra may pass more
        files = sorted((Path(config.hydra.sweep.dir) / FOLDER).glob("*.json"), key=lambda file: int(file.stem))
        found = [json.loads(file.read_text()) for file in files]
        if found:
            print(f"{len(found)} jobs of this sweep failed:")
        for one in found:
            failures.append(one["message"])
            print(printable(f"  {one['job']}: {one['message']}"))
        crashes.extend(one["job"] for one in found if one["crashed"])
        _remove_if_nothing_ran(Path(config.hydra.sweep.dir), files)


def _remove_if_nothing_ran(directory: Path, noted: list[Path]) -> None:
    """Takes away what stands beside the jobs if none of them has left anything."""
    if {path.name for path in directory.iterdir()} <= {FOLDER, BY_HYDRA}:
        for file in (*noted, directory / BY_HYDRA):
            file.unlink(missing_ok=True)
        if (directory / FOLDER).is_dir():
            (directory / FOLDER).rmdir()
