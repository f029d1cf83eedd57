"""Steps over all examples that do not need one another: done one by one, or split over workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tqdm import tqdm

from experiments.base.experiment import Rows
from experiments.base.session import Session
from experiments.base.shards import gather
from experiments.base.share import ShareDone

Step = tuple[str, Callable[[Callable[[int], object]], Rows]]
"""A step's name in the store, and what makes its rows: it calls its argument when the progress bar is to advance."""


def run_steps(session: Session, stage: str, steps: Sequence[Step], ticks: int | None = None) -> None:
    """Makes and keeps the rows of every step that the store does not have. `ticks`: how often all of them together
    advance the progress bar by themselves; None = once a step.

    In a worker that was started for an earlier or a later stage everything is done already, or nothing is its own.
    """
    store = session.store
    undone = [i for i, (name, _) in enumerate(steps) if not store.has_closing(name)]
    if session.share is None:
        gather(session, stage, undone, len(undone), len(undone))
    total = len(steps) if ticks is None else ticks
    with tqdm(desc=stage, total=total, disable=not session.cfg.progress, leave=False) as bar:
        for i, (name, rows) in enumerate(steps):
            if session.owns(i) and not store.has_closing(name):
                store.write_closing(name, **rows(bar.update if ticks is not None else lambda _: None))
            if ticks is None:
                bar.update()
    if session.share is not None and session.share.stage == stage:
        raise ShareDone
