"""What a run writes beside its tables: .hydra/ and run.log, each only when its directory is known to be its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from interp.errors import printable
from interp.runs.directory import RunDirectory

LOG = "run.log"
CONFIG = ".hydra"

new_directories: list[Path] = []
"""Directories that Hydra is about to make for the run of this process, the innermost first."""


class Printable(logging.Formatter):
    """Messages without what a terminal would obey: they may quote texts of models and files."""

    def __init__(self, format: str) -> None:
        super().__init__(format)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class NoteNewDirectories(Callback):
    """Remembers which directories were not there before, so that a refused run takes away those, and no others."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs  # Hydra may pass more
        self._note(str(OmegaConf.select(config, "hydra.run.dir")))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs
        self._note(str(OmegaConf.select(config, "hydra.sweep.dir")))

    def _note(self, path: str) -> None:
        directory = Path(path).absolute()
        new_directories.clear()
        new_directories.extend(path for path in (directory, *directory.parents) if not path.exists())


def remove_new_directories() -> None:
    """Removes what NoteNewDirectories has noted, as far as it is empty."""
    for path in new_directories:
        if not path.is_dir() or any(path.iterdir()):
            break
        path.rmdir()
    new_directories.clear()


@contextmanager
def job_files(cfg: DictConfig, claim: RunDirectory) -> Iterator[None]:
    """Writes .hydra/ for a new run, and everything that is logged meanwhile to run.log."""
    if not claim.resumed:
        _write_config(cfg, claim)
    if not (claim.path / LOG).exists():
        claim.made(claim.path / LOG)
    handler = logging.FileHandler(claim.path / LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(Printable("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _write_config(cfg: DictConfig, claim: RunDirectory) -> None:
    """The files that Hydra writes."""
    hydra = HydraConfig.get()
    folder = claim.path / CONFIG
    contents = {
        "config.yaml": cfg,
        "hydra.yaml": OmegaConf.create({"hydra": hydra}),
        "overrides.yaml": OmegaConf.create(list(hydra.overrides.task)),
    }
    claim.made(folder, *(folder / name for name in contents))
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(OmegaConf.to_yaml(content), encoding="utf-8")
