"""A worker: measures its share of one stage of a run, in a directory of its own inside the run's.

    python -m experiments.base.worker RUN NUMBER PARENT   # started by the run itself (shards.py)

All that it needs is in the run's directory: options and weights in environment.json, what was done before in parts/,
and what is to be done in shards/dealt.json.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from experiments.base.job_files import Printable
from experiments.base.share import DEALT, Share, log_of, outcome_of, share_of
from interp.errors import PassingError, UserError, no_interpolation
from interp.runs.directory import ENVIRONMENT, SHARES

log = logging.getLogger("worker")

WITHOUT = {
    "resume": None,
    "go_on": False,
    "dry_run": False,
    "progress": False,
    "figures": False,
    "track": None,
    "project": "none",
}
"""Options that environment.json does not keep."""


def work(directory: str, number: int) -> None:
    """Does the share of one worker and writes its outcome. Raises what a user cannot mend."""
    run = Path(directory)
    with _logged(log_of(run, number)) as warned:
        # Heavy imports start here, so that what goes wrong in them is in the log.
        from interp.runs.store import read_json, write_json

        wrong = None
        try:
            dealt = read_json(run / SHARES / DEALT)
            # Files may be named from the run's own directory of work, where it is seen.
            with chdir(dealt["directory"]) if Path(dealt["directory"]).is_dir() else nullcontext():
                _work(run, number, dealt)
        except PassingError:  # as if it were lost: another try may do
            log.exception("failed")
            raise
        except UserError as error:
            log.error("error: %s", error)
            wrong = str(error)
        except BaseException:
            log.exception("failed")
            raise
        write_json(outcome_of(run, number), {"wrong": wrong, "warned": warned.messages})


def _work(run: Path, number: int, dealt: Mapping[str, Any]) -> None:
    import torch
    from omegaconf import OmegaConf

    from experiments.base import runner
    from experiments.base.environment import check_same_data, check_same_model
    from experiments.base.experiment import experiment
    from experiments.base.session import Session
    from interp.runs.store import RunStore, read_json

    environment = read_json(run / ENVIRONMENT)
    given = {**WITHOUT, "shards": 1, "generated": _as_they_stand(dealt["generated"])}
    cfg = OmegaConf.create({**_as_they_stand(environment["options"]), **given})
    torch.set_num_threads(environment["threads"])
    torch.manual_seed(environment["seed"])
    session = Session(cfg, share_of(run, number), share=Share(dealt["stage"], frozenset(dealt["shares"][number])))
    again = (session.directory / ENVIRONMENT).is_file()
    session.input = None  # the run has looked at it
    session.store = RunStore(session.directory, session.identity, resume=again)
    try:
        if not again:
            session.store.write_environment(environment)
        elif session.store.environment().get("run") != environment["run"]:
            raise UserError(f"{session.directory} was not made by this run: move it away to go on")
        session.store.look_into(run)
        check_same_data(session, environment, f"worker {number}")
        if environment["model"] is not None:
            check_same_model(session, environment, f"worker {number}")
        runner.work(experiment(cfg.experiment.name), session)
    finally:
        session.close()


def _as_they_stand(options: Any) -> Any:
    """Options that are resolved already: `${` in them is text."""
    if isinstance(options, Mapping):
        return {name: _as_they_stand(value) for name, value in options.items()}
    if isinstance(options, list):
        return [_as_they_stand(value) for value in options]
    return no_interpolation(options) if isinstance(options, str) else options


class Warned(logging.Handler):
    """Keeps what is warned of, for the run to say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and (message := record.getMessage()) not in self.messages:
            self.messages.append(message)


@contextmanager
def _logged(file: Path) -> Iterator[Warned]:
    """What is logged goes to the worker's file alone; warnings are kept as well."""
    handler, warned = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"), Warned()
    handler.setFormatter(Printable("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    before: tuple[list[Any], int] = (root.handlers[:], root.level)
    root.handlers[:], root.level = [handler, warned], logging.INFO
    try:
        yield warned
    finally:
        root.handlers[:], root.level = before
        handler.close()


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threading.Thread(target=_end_with, args=(int(sys.argv[3]),), daemon=True).start()
    work(sys.argv[1], int(sys.argv[2]))
