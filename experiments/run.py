"""The command line: `python -m experiments.run experiment=NAME model=NAME data=NAME key=value ...`

Light imports only: everything heavy waits until there is something to run, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import ExitStack
from datetime import datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.base.arguments import CONF, GROUPS, check_arguments, choices, own_directories, unknown_option
from experiments.base.job_files import LOG, job_files, remove_new_directories
from experiments.base.sweeps import crashes, failures, in_sweep, note_failure
from interp.errors import UserError, on_command_line, printable
from interp.runs.directory import ENVIRONMENT, SUMMARY, shown_path
from interp.runs.names import model_label

if TYPE_CHECKING:
    from experiments.base.session import Session
    from interp.runs.store import RunStore

log = logging.getLogger("run")

CRASHED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


def help_text(arguments: list[str]) -> str:
    """What --help prints: the choices of every group, one's own beside those of conf/."""
    more = own_directories(arguments)
    lines = [
        "Experiments on how a reasoning model's thoughts cause its answer.",
        "",
        "  python -m experiments.run experiment=NAME model=NAME data=NAME key=value ...",
        "",
        "  -m with comma-separated values runs every combination: -m model=planted,reasoner seed=0,1",
        "  study=NAME runs a sweep that conf/study/ spells out",
    ]
    for group in GROUPS:
        names = choices(group, more)
        width = max(map(len, names))
        lines += ["", f"{group}="] + [f"  {name:<{width}}  {line}" for name, line in names.items()]
    lines += [
        "",
        "Any option of conf/ can be given as key=value; `--cfg job` prints them all for a choice of groups.",
        "  dry_run=true   print how many passes, how much memory and about how long, and stop",
        "  resume=DIR     go on with an unfinished run of the same command",
        "  go_on=true     of a sweep into hydra.sweep.dir=DIR: keep its finished jobs, go on with the others",
        "Each run writes one directory under outputs/; hydra.run.dir=DIR names another.",
    ]
    return "\n".join(lines)


def run_dir(resume: str | None, experiment: str, model: str, source: str | None = None, data: str = "") -> str:
    """Where a run writes: the directory to resume, or a new one, named to the microsecond."""
    graded = data if data == "traces" else model  # given texts are graded without a model
    own = Path(source or "").name
    named = {"figures": own, "export": own, "index": "runs", "compare": "runs", "evaluate": graded}
    about = named.get(experiment, model)
    return resume or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S-%f}-{experiment}-{about}"


def own_name(path: str | None) -> str:
    """What a model is called by the directory or hub name that it is given by: `.` by the directory that it is."""
    if not path:
        return "huggingface"
    named = Path(path).expanduser()
    return named.resolve().name if named.name in ("", "..") else named.name


OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)
OmegaConf.register_new_resolver("model_label", model_label, use_cache=True, replace=True)
OmegaConf.register_new_resolver("basename", own_name, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    """One run. Wrong input is noted and leaves nothing behind; other errors go to run.log and up."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    run = _Run(cfg, directory)
    try:
        run.go()
    except UserError as error:
        note_failure(str(error), crashed=False)
        log.error("error: %s", " ".join(str(error).split()))
        run.discard()
    except OSError as error:  # a full disk, a directory that is gone or not ours
        message = f"{_of_system(error)}; {run.advice()}"
        note_failure(message, crashed=False)
        log.error("error: %s", message)
        run.discard_unless_begun()
    except KeyboardInterrupt:
        log.error("interrupted: %s", run.advice())
        run.discard_unless_begun()
        raise
    except Exception as error:
        log.exception("failed: %s", run.advice())
        if not in_sweep():  # the other jobs of a sweep go on
            raise _LoggedError from error
        note_failure(f"{type(error).__name__}: {error}; see {shown_path(directory / LOG)}", crashed=True)
    finally:
        run.close()
        if not in_sweep():
            remove_new_directories()
        elif directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _of_system(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


class _LoggedError(Exception):
    """An unexpected error whose traceback is already in run.log and on the screen."""


class _Run:
    """One run and what it holds open: its directory's lock and its run.log."""

    def __init__(self, cfg: DictConfig, directory: Path) -> None:
        self.cfg, self.directory = cfg, directory
        self._open = ExitStack()
        self._store: RunStore | None = None

    def go(self) -> None:
        """Checks everything that can be checked before anything is written, then runs."""
        # Heavy imports start here.
        import torch

        from experiments.base import runner
        from experiments.base.experiment import experiment as experiment_of
        from experiments.base.screen import show
        from experiments.base.session import Session
        from interp.runs.directory import check_directory

        cfg = self.cfg
        session = Session(cfg, self.directory)
        experiment = experiment_of(cfg.experiment.name)
        session.check_options(experiment.options)
        options = session.run_options
        if options.shards > 1 and not experiment.splits:
            raise UserError(f"experiment={cfg.experiment.name} has no examples to split over workers: set shards=1")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        for name in ("run", "runs"):
            if getattr(options, name) is not None and name != experiment.reads:
                raise UserError(f"{name} is not read by experiment={cfg.experiment.name}: leave it out")
        if options.go_on and not in_sweep():
            raise UserError("go_on=true goes on with a sweep: of one run set resume=DIR")
        if options.go_on and self._finished_before(session):
            return
        if options.resume is not None and Path(options.resume).resolve() != self.directory.resolve():
            raise UserError("resume and hydra.run.dir name two directories: leave hydra.run.dir away")
        check_directory(self.directory, resume=cfg.resume is not None)
        torch.manual_seed(options.seed)
        if options.dry_run:
            print(printable(f"dry run: {runner.plan(experiment, session)}"))
            return
        self._open.callback(session.close)
        self._store = session.store
        self._open.enter_context(job_files(cfg, self._store.claim))
        findings = runner.run(experiment, session)
        about = findings.title or f"{cfg.experiment.name} on {session.identity.model}, data {session.identity.data}"
        show(about, findings, self._store.skipped(), self.directory)

    def _finished_before(self, session: Session) -> bool:
        """Whether this job of a sweep that is run again is finished; one that was only begun goes on.

        Raises UserError where it was finished with other options."""
        if not (self.directory / ENVIRONMENT).is_file():
            return False
        if not (self.directory / SUMMARY).is_file():
            self.cfg.resume = str(self.directory)
            return False
        from experiments.base.environment import check_same, check_same_data

        before = json.loads((self.directory / ENVIRONMENT).read_text())
        for check in (check_same, check_same_data):
            check(session, before, f"cannot keep {self.directory}")
        log.info("%s is finished", self.directory)
        return True

    @property
    def _begun(self) -> bool:
        return self._store is not None and (self.directory / ENVIRONMENT).is_file()

    def advice(self) -> str:
        """How to go on after an error, if that is possible."""
        if not self._begun:
            return "nothing was measured yet"
        return f"what is done is kept: add {on_command_line('resume', shown_path(self.directory))} to go on"

    def discard(self) -> None:
        """Removes what this run has made, if nothing was measured."""
        if self._store is not None:
            self._store.discard()

    def discard_unless_begun(self) -> None:
        """Removes what this run has made before it could be resumed."""
        if not self._begun:
            self.discard()

    def close(self) -> None:
        self._open.close()


def main() -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:]
    failures.clear()
    crashes.clear()
    if {"--help", "-h"} & set(arguments):
        print(help_text(arguments))
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
        _say(str(error))
    except ConfigCompositionException as error:
        _say(unknown_option(str(error), arguments) or str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _say(str(error))
    except OSError as error:  # before the run has a directory
        _say(_of_system(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except _LoggedError:
        return CRASHED
    finally:
        remove_new_directories()
    if crashes:
        return CRASHED
    return WRONG_INPUT if failures else 0


def console() -> NoReturn:
    """The command `anchorlens`."""
    sys.exit(main())


def _say(message: str) -> None:
    """One line for what was wrong before the run began."""
    failures.append(message)
    line = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    print(f"error: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
    # By its own name, so that launchers which send the job to other processes can find it there.
    sys.exit(import_module("experiments.run").main())
