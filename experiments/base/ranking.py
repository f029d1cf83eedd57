"""How heads are ranked by distance and tokens measured: what `rhythm`, `perturb` and `credit` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.collect import Needs, traces
from experiments.base.experiment import Example
from experiments.base.session import Session
from interp.errors import UserError
from interp.model.layers import layer_sets
from interp.rhythm.head_sets import HeadSets, Ranking, rank_by_distance, sets_of
from interp.rhythm.waad_fai import Settings, Sinks
from interp.text.trace import Trace


def _ordered(horizon: list[int]) -> list[int]:
    if horizon[0] > horizon[1]:
        raise ValueError("must be [H_lo, H_hi] with 0 <= H_lo <= H_hi")
    return horizon


Horizon = Annotated[
    list[Annotated[int, Field(ge=0, le=10**9)]], Field(min_length=2, max_length=2), AfterValidator(_ordered)
]
"""H_lo and H_hi of FAI."""
HeadShare = Annotated[float, Field(gt=0, le=0.5)]
"""Of the heads, so that none is local and global at once."""
Portion = Annotated[float, Field(gt=0, lt=1)]
"""Of the tokens: some, and not all."""


def ranking_of(
    options: Any, layers: Sequence[str], sinks: Sequence[Sinks], receivers: int | None, block_mb: int | None
) -> Ranking:
    """The ranking that an experiment's options ask for."""
    settings = Settings(options.window, *options.horizon)
    block = None if block_mb is None else block_mb * 2**20
    return Ranking(layers, sinks, options.share, receivers, options.ranking_traces, settings, block)


def check_ranking(session: Session, ranking: Ranking) -> None:
    """Raises UserError for layers that the model does not have, and for more receiver heads than some of these have."""
    model = session.shape
    for name, layers in layer_sets(ranking.layers, model.n_layers).items():
        n_heads = len(layers) * model.n_heads
        if (ranking.receivers or 0) > n_heads:
            raise UserError(
                f"experiment.receivers={ranking.receivers}: {model.name} has {n_heads} heads in layers={name}"
            )


def rank_first(session: Session, ranking: Ranking) -> None:
    """Ranks the heads on the first traces, unless the store knows their sets: which heads count must be known before a
    trace is averaged over them. The traces that were made for it are the first to be measured."""
    store = session.store
    items = traces(session, Needs.RESPONSE)
    early: list[Example] = []
    if not store.has_closing("a-heads"):
        found: list[Trace] = []
        while len(found) < ranking.ranking_traces and (item := next(items, None)) is not None:
            early.append(item)
            found += [item.subject] if item.subject is not None else []
        if found:
            shown = session.bar(found, "ranking heads", total=len(found))
            store.write_closing("a-heads", head_sets=rank_by_distance(session.lens, shown, ranking))
    session.memo["examples"] = chain(early, items)


def ranked_first(session: Session) -> Iterator[Example]:
    """All examples that are not done, once the heads are ranked."""
    yield from session.memo.pop("examples")


def head_sets(session: Session) -> list[HeadSets]:
    """The sets of heads that the run has ranked."""
    if "head_sets" not in session.memo:
        session.memo["head_sets"] = sets_of(session.store.table("head_sets"))
    found: list[HeadSets] = session.memo["head_sets"]
    return found
