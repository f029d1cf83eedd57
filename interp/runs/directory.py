"""A run's directory: empty when the run starts, locked while it is written, and only what the run made is removed."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from interp.errors import PassingError, UserError, on_command_line

ENVIRONMENT = "environment.json"
SUMMARY = "summary.json"
PARTS = "parts"
SHARES = "shards"
"""Where the workers of a run write, each into a directory of its own."""
DATA_SET = "dataset"
"""Where an export writes its copy of another run."""
LOCK = ".lock"
OURS = "This directory is being written by a run of anchorlens.\n"
"""Content of the lock: tells a start that was killed from somebody else's files."""
BEFORE_MEASURING = frozenset({LOCK, ".hydra", "run.log", PARTS, f"{ENVIRONMENT}.tmp"})
"""What a run makes before its environment.json."""


class RunDirectory:
    """Holds the lock until closed. Raises UserError, with nothing written, for a directory that is not this run's.

    A new run wants an empty directory, or one in which a start was killed before it measured anything; `resume` wants
    the directory of a run that is not finished.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path, self.resumed = path, resume
        self._made: list[Path] = []
        check_directory(path, resume=resume)
        if not path.is_dir():
            path.mkdir(parents=True)
            self._made.append(path)
        self._lock = self._acquire()
        check_directory(path, resume=resume)  # what another run wrote while this one waited for the lock

    def _acquire(self) -> TextIO:
        file = self.path / LOCK
        while True:
            new = not file.exists()
            lock = file.open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise _busy(self.path) from error
            with suppress(FileNotFoundError):
                if os.fstat(lock.fileno()).st_ino == file.stat().st_ino:
                    break
            lock.close()  # the run that held it has given up and taken its file away
        if new or not self.resumed:
            self._made.append(file)
        if not file.stat().st_size:
            lock.write(OURS)
            lock.flush()
        return lock

    def made(self, *paths: Path) -> None:
        """Remembers files and folders that this process has made, folders before what lies in them."""
        self._made += paths

    def discard(self) -> None:
        """Removes what this process has made, and nothing else. The lock goes last, but for the directory itself."""
        last = (self.path / LOCK, self.path)
        for path in (*reversed([p for p in self._made if p not in last]), *(p for p in last if p in self._made)):
            with suppress(OSError):  # a folder that holds somebody else's files stays
                path.rmdir() if path.is_dir() else path.unlink()
        self._made.clear()

    def close(self) -> None:
        self._lock.close()


def shown_path(path: Path) -> Path:
    """The path as it is told: from the working directory on where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_directory(path: Path, *, resume: bool) -> None:
    """Raises UserError if a run must not write there. Changes nothing."""
    there = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if resume:
        if ENVIRONMENT not in there:
            raise UserError(f"nothing to resume in {path}: it has no {ENVIRONMENT}")
        if SUMMARY in there:
            raise UserError(f"{path} is finished: there is nothing to resume")
        return
    if ENVIRONMENT in there:
        more = "" if SUMMARY in there else f" or add {on_command_line('resume', path)}"
        raise UserError(f"{path} already holds a run: choose another directory{more}")
    if there and not _given_up(path, there):
        what = f"{', '.join(sorted(there)[:3])}{', ...' if len(there) > 3 else ''}"
        raise UserError(f"{path} is not empty ({what}): choose another directory for the run")


def _given_up(path: Path, there: set[str]) -> bool:
    """Whether these are the remains of a start that was killed before it measured anything."""
    if not there <= BEFORE_MEASURING or LOCK not in there:
        return False
    if PARTS in there and any((path / PARTS).iterdir()):
        return False
    content = (path / LOCK).read_text(errors="replace")
    return content == OURS or (not content and there == {LOCK})


def _busy(path: Path) -> PassingError:
    return PassingError(f"another run is writing into {path}: wait for it or choose another")
