"""One run's examples split over workers: dealt out stage by stage, watched, run again where lost, gathered.

The worker of a stage (worker.py) goes on with the run as a resumed one would, but for what is dealt to others, and
writes its parts into a directory of its own under the run's shards/. When all are done their parts are moved into the
run, which then finds everything done: its tables are those of a run by one process, byte by byte.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.base.crews import Crew, crew_of
from experiments.base.job_files import LOG
from experiments.base.session import Session
from experiments.base.share import DEALT, EXAMPLES, Batches, log_of, outcome_of, share_of
from interp.errors import UserError
from interp.runs.directory import PARTS, SHARES
from interp.runs.store import read_json, write_json

log = logging.getLogger(__name__)

TRIES = 3
"""How often a share is begun before the run gives up."""
POLL_SECONDS = 0.2


def gather_examples(session: Session, batches: Batches) -> bool:
    """Has workers make and measure the examples that are not done. Returns whether there was enough for two."""
    undone = batches.undone(session.store.has)
    parts = sum(not session.store.has(i) for i in range(batches.measured))
    if batches.measured < batches.examples:  # more are given than will be measured
        parts = max(0, batches.measured - session.store.n_tried)
    return gather(session, EXAMPLES, undone, min(len(undone), -(-parts // batches.size)), parts)


def gather(session: Session, stage: str, units: Sequence[int], most: int, parts: int) -> bool:
    """Deals units of a stage to workers and takes what they have done. Returns whether there was enough for two.

    `most`: how many of the units will be done at the most; they give about so many `parts`. Raises UserError for what
    a worker found wrong, and ChildProcessError for a share that was lost again and again; what is done is kept.
    """
    n = min(session.run_options.shards, most)
    if n < 2:
        if units and session.run_options.shards > 1:
            log.info("%s: too few for several workers", stage)
        return False
    run, store = session.directory, session.store
    folder = run / SHARES
    if not folder.is_dir():
        folder.mkdir()
        store.claim.made(folder)
    shares = [list(units[number::n]) for number in range(n)]
    kept = None if session.generated is None else str(session.generated.resolve())
    write_json(folder / DEALT, {"stage": stage, "directory": str(Path.cwd()), "generated": kept, "shares": shares})
    store.claim.made(folder / DEALT, *(file(run, number) for number in range(n) for file in (log_of, outcome_of)))
    log.info("%s: %d workers", stage, n)
    crew = crew_of(session)
    try:
        shown = session.cfg.progress
        with tqdm(desc=f"{stage} by {n} workers", total=parts, disable=not shown, leave=False) as bar:
            _watch(run, crew, stage, n, bar)
    except BaseException:
        crew.stop()
        with suppress(UserError, OSError):  # a worker elsewhere may take its time to stop: resuming takes its parts
            _take(session)
        raise
    crew.stop()
    _take(session)
    return True


def gather_left(session: Session) -> None:
    """Takes what workers of an earlier, interrupted process have done."""
    if (session.directory / SHARES).is_dir():
        _take(session)


def _watch(run: Path, crew: Crew, stage: str, n: int, bar: tqdm) -> None:
    """Waits until all shares are done; those that are lost are run again."""
    tries, waiting = Counter(range(n)), set(range(n))
    crew.start(sorted(waiting))
    while waiting:
        time.sleep(POLL_SECONDS)
        bar.update(_n_parts(run, range(n)) - bar.n)
        bar.set_postfix_str(f"{n - len(waiting)} done", refresh=False)
        gone = waiting - crew.alive()
        for number in sorted(gone):
            outcome = _outcome(run, number, crew.seconds)
            if outcome is not None and outcome["wrong"] is not None:
                raise UserError(outcome["wrong"])
            if outcome is not None:
                waiting.discard(number)
                log.info("%s: worker %d of %d is done", stage, number + 1, n)
                _warn(run, number, outcome["warned"])
            elif tries[number] == TRIES:
                where = log_of(run, number)
                raise ChildProcessError(f"worker {number + 1} of {n} was lost {TRIES} times: see {where}")
            else:
                tries[number] += 1
                log.warning("%s: worker %d of %d was lost and is run again", stage, number + 1, n)
                crew.start([number])


def _warn(run: Path, number: int, messages: Sequence[str]) -> None:
    """Says what a worker warned of, unless the run or another worker has said it."""
    said = (run / LOG).read_text(encoding="utf-8", errors="replace") if (run / LOG).is_file() else ""
    for message in messages:
        if message not in said:
            log.warning("worker %d: %s", number + 1, message)


def _outcome(run: Path, number: int, seconds: float) -> dict[str, Any] | None:
    """What a worker that is gone has left; None if it was lost. A file of another machine may take a moment to show."""
    end = time.monotonic() + seconds
    while not (file := outcome_of(run, number)).is_file():
        if time.monotonic() >= end:
            return None
        time.sleep(POLL_SECONDS)
    return read_json(file)


def _n_parts(run: Path, numbers: Iterable[int]) -> int:
    return sum(1 for number in numbers for part in (share_of(run, number) / PARTS).glob("*") if part.suffix != ".tmp")


def _take(session: Session) -> None:
    """Moves the workers' parts into the run's own; of what they have left their logs stay."""
    folder = session.directory / SHARES
    for share in sorted(path for path in folder.iterdir() if path.name.isdigit()):
        session.store.take(share)
    for file in (folder / DEALT, *folder.glob("[0-9]*.json")):
        file.unlink(missing_ok=True)
