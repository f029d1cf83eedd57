"""The command line: `python -m experiments.run experiment=NAME model=NAME data=NAME key=value ...`

Light imports only: everything heavy waits until there is something to run, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from datetime import datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.sweeps import crashes, failures, in_sweep, note_failure
from interp.errors import UserError, nearest

log = logging.getLogger("run")

HERE = Path(__file__).resolve().parent
CONF = next(conf for conf in (HERE / "conf", HERE.parent / "conf") if conf.is_dir())
"""The configuration: inside the installed package, or at the top of the repository."""
GROUPS = ("experiment", "model", "data", "generation", "study")
NOT_A_CHOICE = {"base"}
CRASHED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

EXTRAS = {"trl": "rl"}
"""Packages that some experiments need, and the extra that installs them."""


def choices(group: str) -> dict[str, str]:
    """The names of a config group, each with the first comment line of its file."""
    files = sorted((CONF / group).glob("*.yaml"))
    return {f.stem: _about(f) for f in files if f.stem not in NOT_A_CHOICE}


def _about(file: Path) -> str:
    """The first line that is not for Hydra."""
    return next(line.lstrip("# ") for line in file.read_text().splitlines() if not line.startswith("# @"))


def help_text() -> str:
    """What --help prints."""
    lines = [
        "Experiments on how a reasoning model's thoughts cause its answer.",
        "",
        "  python -m experiments.run experiment=NAME model=NAME data=NAME key=value ...",
        "",
        "  -m with comma-separated values runs every combination: -m model=planted,reasoner seed=0,1",
        "  study=NAME runs a sweep that conf/study/ spells out",
    ]
    for group in GROUPS:
        names = choices(group)
        width = max(map(len, names))
        lines += ["", f"{group}="] + [f"  {name:<{width}}  {line}" for name, line in names.items()]
    lines += [
        "",
        "Any option of conf/ can be given as key=value; `--cfg job` prints them all for a choice of groups.",
        "  dry_run=true   print how many passes, how much memory and about how long, and stop",
        "  resume=DIR     go on with an unfinished run of the same command",
        "Each run writes one directory under outputs/; hydra.run.dir=DIR names another.",
    ]
    return "\n".join(lines)


def check_arguments(arguments: list[str]) -> None:
    """Raises UserError for a group choice that has no file, a directory that holds a run, or none to resume."""
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group == "resume" and value != "null" and not (Path(value) / "environment.json").exists():
            raise UserError(f"nothing to resume in {value}: it has no environment.json")
        if group == "hydra.run.dir" and (Path(value) / "environment.json").exists():
            raise UserError(f"{value} already holds a run: choose another directory or go on with resume={value}")
        if group in GROUPS and not re.search(r"[(\[{*$]", value):
            known = choices(group)
            for name in value.split(","):
                if name.strip("'\" ") not in known:
                    raise UserError(f"unknown {group} {name!r}; {nearest(name, known)}")


def run_dir(resume: str | None, experiment: str, model: str, source: str | None = None, data: str = "") -> str:
    """Where a run writes: the directory to resume, or a new one, named to the microsecond."""
    graded = data if data == "traces" else model  # given texts are graded without a model
    about = {"figures": Path(source or "").name, "compare": "runs", "evaluate": graded}.get(experiment, model)
    return resume or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S-%f}-{experiment}-{about}"


OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)
OmegaConf.register_new_resolver("basename", lambda path: Path(path).name if path else "huggingface", replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One run. Wrong input is noted and leaves no directory behind; other errors go to run.log and up."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    ours = cfg.resume is None and not (directory / "environment.json").exists()
    try:
        _run(cfg, directory)
        if cfg.dry_run and ours:
            _discard(directory)
    except UserError as error:
        note_failure(str(error), crashed=False)
        log.error("error: %s", " ".join(str(error).split()))
        if ours:
            _discard(directory)
    except OSError as error:  # a full disk, a directory that is gone or not ours
        message = f"{_of_system(error)}; what is done is kept: add resume={directory} to go on"
        note_failure(message, crashed=False)
        log.error("error: %s", message)
    except KeyboardInterrupt:
        log.error("interrupted: what is done is kept; add resume=%s to go on", directory)
        raise
    except Exception as error:
        log.exception("failed; what is done is kept: add resume=%s to go on", directory)
        if not in_sweep():  # the other jobs of a sweep go on
            raise _LoggedError from error
        note_failure(f"{type(error).__name__}: {error}; see {directory / 'run.log'}", crashed=True)


def _of_system(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


class _LoggedError(Exception):
    """An unexpected error whose traceback is already in run.log and on the screen."""


def _run(cfg: DictConfig, directory: Path) -> None:
    # Heavy imports start here.
    import torch

    from experiments.options import typed
    from experiments.session import RunOptions, Session
    from experiments.summary import show

    options = typed(RunOptions, cfg, "")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        experiment = import_module(f"experiments.{cfg.experiment.name}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        install = f"pip install 'anchorlens[{EXTRAS[error.name]}]'"
        raise UserError(f"{cfg.experiment.name} needs the package {error.name}: run `{install}`") from error
    session = Session(cfg, directory)
    if options.dry_run:
        print(f"dry run: {experiment.plan(session)}")
        return
    try:
        if options.resume is not None and session.store.finished:
            raise UserError(f"{directory} is finished: there is nothing to resume")
        findings = experiment.run(session)
    finally:
        session.close()
    about = findings.title or f"{cfg.experiment.name} on {cfg.model.name}, data {cfg.data.name}"
    show(about, findings, directory)


def _discard(directory: Path) -> None:
    """Removes what a run has written into its directory, unless an example was measured; other files stay."""
    statuses = [json.loads(status.read_text()) for status in directory.glob("parts/*/status.json")]
    if any(status["skipped"] is None for status in statuses) or (directory / "summary.json").exists():
        return
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
        handler.close()
        root.removeHandler(handler)  # a closed one would open the file again with the next message
    for name in (".hydra", "parts", "trial", "figures"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("run.log", "environment.json", ".lock"):
        (directory / name).unlink(missing_ok=True)
    for folder in (directory, directory.parent, directory.parent.parent):
        if folder.name == "outputs" or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def main() -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:]
    failures.clear()
    crashes.clear()
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return 0
    if "--version" in arguments:
        print(f"anchorlens {version('anchorlens')}")
        return 0
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        check_arguments(arguments)
        job()
    except UserError as error:
        failures.append(str(error))
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(str(error))
        print(f"error: {'; '.join(line.strip() for line in str(error).splitlines() if line.strip())}", file=sys.stderr)
    except OSError as error:  # before the run has a directory
        failures.append(str(error))
        print(f"error: {_of_system(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    except _LoggedError:
        return CRASHED
    if crashes:
        return CRASHED
    return WRONG_INPUT if failures else 0


def console() -> NoReturn:
    """The command `anchorlens`."""
    sys.exit(main())


if __name__ == "__main__":
    # By its own name, so that launchers which send the job to other processes can find it there.
    sys.exit(import_module("experiments.run").main())
