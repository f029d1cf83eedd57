"""environment.json: what a run was made with, and whether its continuation is made with the same."""

from __future__ import annotations

import json
import logging
import platform
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from omegaconf import OmegaConf

from interp.errors import UserError
from interp.front.models import check
from interp.model.kept import installed_version
from interp.runs.directory import ENVIRONMENT

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from interp.data.input_check import InputNotes
    from interp.model.lens import Lens
    from interp.runs.store import Identity, RunStore

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "transformers",
    "transformer_lens",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "hydra-core",
)
RESUMABLE = ("resume", "go_on", "dry_run", "progress", "figures", "track", "project", "shards", "generated")
"""Options that may differ between a run and its continuation."""


class Described(Protocol):
    """What is asked of a session."""

    cfg: DictConfig
    directory: Path

    @property
    def seed(self) -> int: ...
    @property
    def lens(self) -> Lens: ...
    @property
    def input(self) -> InputNotes | None: ...
    @property
    def input_digest(self) -> str | None: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def store(self) -> RunStore: ...


def describe_environment(session: Described, with_model: bool = True) -> None:
    """Writes environment.json; on resume, checks that data and model are still the same instead."""
    if session.cfg.resume is not None:
        before, cannot = session.store.environment(), f"cannot resume {session.directory}"
        check_same_data(session, before, cannot)
        if with_model:
            check_same_model(session, before, cannot)
        _note_resumed(session, before, with_model)
        return
    model = {"name": session.lens.name, "fingerprint": session.lens.fingerprint} if with_model else None
    session.store.write_environment(
        {
            "command": shlex.join(["python", "-m", "experiments.run", *sys.argv[1:]]),
            "run": uuid.uuid4().hex,
            "options": _options(session),
            "seed": session.seed,
            "measured": {"model": session.identity.model, "data": session.identity.data},
            "model": model,
            "data": session.input_digest,
            "input": session.input.as_json() if with_model and session.input else None,
            "instrument": check(session.lens) if with_model else None,
            "threads": torch.get_num_threads(),
            **_machine(session, with_model),
        }
    )


def check_same(session: Described, before: Mapping[str, Any], cannot: str) -> None:
    """Raises UserError if a run with this environment.json was made by other options or threads than this one's."""
    if not isinstance(before.get("options"), dict) or not isinstance(before.get("threads"), int):
        raise UserError(f"{cannot}: {session.directory / ENVIRONMENT} is not that of a run")
    own = json.loads(json.dumps(_deciding(_options(session))))
    changed = sorted(_differences(_deciding(before["options"]), own))
    if changed:
        raise UserError(f"{cannot}: {', '.join(changed)} differs from the run's own options")
    if before["threads"] != torch.get_num_threads():
        raise UserError(
            f"{cannot}: it ran with {before['threads']} CPU threads and this process has "
            f"{torch.get_num_threads()}, which decides the last bits: add threads={before['threads']}"
        )


def check_same_model(session: Described, before: Mapping[str, Any], cannot: str) -> None:
    """Raises UserError if a run with this environment.json measured other weights."""
    if (before.get("model") or {}).get("fingerprint") != session.lens.fingerprint:
        raise UserError(f"{cannot}: the weights of {session.lens.name} have changed")


def check_same_data(session: Described, before: Mapping[str, Any], cannot: str) -> None:
    """Raises UserError if a run with this environment.json was given other questions or traces."""
    if "data" in before and before["data"] != session.input_digest:  # runs of earlier versions do not say
        raise UserError(f"{cannot}: the questions or traces of data={session.cfg.data.name} have changed")


def _machine(session: Described, with_model: bool) -> dict[str, Any]:
    """What runs the code, and which code."""
    return {
        "device": str(session.lens.device) if with_model else None,
        "dtype": str(session.lens.hf.dtype) if with_model else None,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: installed_version(name) for name in PACKAGES},
    }


def _note_resumed(session: Described, before: Mapping[str, Any], with_model: bool) -> None:
    """Says what makes the rest of the measurements otherwise than the first of them, and keeps it."""
    now: dict[str, Any] = json.loads(json.dumps(_machine(session, with_model)))
    last = [before, *before.get("resumed", [])][-1]
    changed = sorted(_differences({name: last.get(name) for name in now}, now))
    if changed:
        log.warning(
            "what is left is measured with another %s than before (environment.json has both)", ", ".join(changed)
        )
        session.store.write_environment({**before, "resumed": [*before.get("resumed", []), now]})


def git_commit() -> str | None:
    """Commit of the code, with `+changes` if the working tree differs from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _options(session: Described) -> dict[str, Any]:
    """All options that decide the results."""
    options = cast(dict[str, Any], OmegaConf.to_container(session.cfg, resolve=True))
    return {name: value for name, value in options.items() if name not in RESUMABLE}


def _deciding(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the results, but for the number of threads, which is compared as it came out."""
    decide = {name: value for name, value in options.items() if name not in (*RESUMABLE, "threads")}
    if isinstance(decide.get("model"), Mapping):
        decide["model"] = {name: value for name, value in decide["model"].items() if name != "threads"}
    return decide


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif before != now:
        yield path
