"""Local, global and receiver heads: which ones WAAD and FAI are averaged over (Paper B, section 4.1)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.heads.scores import Head, head_array, usual_count
from interp.model.layers import layer_sets
from interp.model.lens import Lens
from interp.rhythm.waad_fai import HeadCurves, Settings, Sinks, measure_rhythm
from interp.runs.columns import FLOAT, INT, LAYERS, SINKS, TEXT, Column, Table
from interp.runs.store import records
from interp.stats import or_null
from interp.text.trace import Trace

log = logging.getLogger(__name__)

HEAD_SETS_TABLE = Table(
    "head_sets",
    Column("kind", TEXT, "`local`, `global` or `receiver` (Paper B, section 4.1), or `rfh` (Paper A, section 4.2)"),
    LAYERS,
    SINKS,
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
    Column("value", FLOAT, "what it was chosen by: mean distance in tokens, mean kurtosis, or mean score"),
)


MEASURES = ("distance", "kurtosis", "distance_no_sinks", "kurtosis_no_sinks")
SetOfHeads = Sequence[Head]


@dataclass(frozen=True)
class HeadSets:
    """The heads that curves are averaged over, for one set of layers and one handling of sinks."""

    layers: str
    sinks: Sinks
    local: SetOfHeads
    far: SetOfHeads
    receiver: SetOfHeads


def choose_heads(
    distance: Float[np.ndarray, "layer head"],
    kurtosis: Float[np.ndarray, "layer head"],
    layers: Sequence[int],
    share: float,
    receivers: int,
) -> tuple[list[Head], list[Head], list[Head]]:
    """Local, global and receiver heads within some layers (Paper B, section 4.1).

    The share of all heads with the lowest and with the highest mean distance, at least one each, and the `receivers`
    heads with the highest kurtosis. Heads without a distance (NaN) are neither local nor global, those without a
    kurtosis no receivers: there may be none. Raises UserError where no head has a distance.
    """
    heads = [Head(layer, head) for layer in layers for head in range(distance.shape[1])]
    n = max(1, round(share * len(heads)))
    by_distance = sorted((h for h in heads if not np.isnan(distance[h])), key=lambda h: (distance[h], h))
    if not by_distance:
        raise UserError("all heads of these layers look at the first tokens alone")
    by_kurtosis = sorted((h for h in heads if not np.isnan(kurtosis[h])), key=lambda h: (-kurtosis[h], h))
    return by_distance[:n], by_distance[-n:][::-1], by_kurtosis[:receivers]


def head_rows(example: str, curves: Mapping[Sinks, HeadCurves]) -> list[dict[str, Any]]:
    """The rows of heads.parquet for one trace."""
    names = {Sinks.KEPT: "", Sinks.REMOVED: "_no_sinks"}
    shape = next(iter(curves.values())).distance.shape
    return [
        {
            "example": example,
            "layer": layer,
            "head": head,
            **{f"distance{names[s]}": or_null(float(c.distance[layer, head])) for s, c in curves.items()},
            **{f"kurtosis{names[s]}": or_null(float(c.kurtosis[layer, head])) for s, c in curves.items()},
        }
        for layer, head in np.ndindex(*shape)
    ]


@dataclass(frozen=True)
class Ranking:
    """By what heads are ranked."""

    layers: Sequence[str]
    sinks: Sequence[Sinks]
    share: float
    receivers: int | None
    ranking_traces: int
    settings: Settings
    block_bytes: int | None


def rank_by_distance(lens: Lens, traces: Iterable[Trace], options: Ranking) -> list[dict[str, Any]]:
    """The rows of head_sets.parquet from the mean distance and kurtosis of each head over some traces.

    Layers whose heads all look at the first tokens alone have no sets without these, which is said. Raises UserError
    where no sets are left.
    """
    rows: list[dict[str, Any]] = []
    for trace in traces:
        curves, _ = measure_rhythm(lens, trace, options.settings, options.sinks, options.block_bytes)
        rows += head_rows(trace.example, curves)
    table = pd.DataFrame(rows)
    means = {name: _mean(head_array(table, table[name].astype(float))) for name in MEASURES if name in table}
    n_heads = lens.n_layers * lens.n_heads
    receivers = options.receivers if options.receivers is not None else usual_count(n_heads)
    sets: list[HeadSets] = []
    missing: UserError | None = None
    for layers, numbers in layer_sets(options.layers, lens.n_layers).items():
        for sinks in options.sinks:
            suffix = "" if sinks == Sinks.KEPT else "_no_sinks"
            distance, kurtosis = means[f"distance{suffix}"], means[f"kurtosis{suffix}"]
            try:
                chosen = choose_heads(distance, kurtosis, numbers, options.share, receivers)
            except UserError as error:
                log.warning("layers=%s, sinks=%s are left out: %s", layers, sinks, error)
                missing = error
            else:
                sets.append(HeadSets(layers, sinks, *chosen))
                if not sets[-1].receiver:
                    log.warning(
                        "layers=%s, sinks=%s: no receiver heads, responses are too short for a kurtosis", layers, sinks
                    )
    if missing is not None and not sets:
        raise UserError(f"{missing}: experiment.sinks must keep these") from missing
    return list(head_set_rows(sets, means))


def _mean(values: Float[np.ndarray, "trace layer head"]) -> Float[np.ndarray, "layer head"]:
    """Each head's mean over the traces in which it has a value; NaN where it has none."""
    known = ~np.isnan(values)
    return np.where(known.any(axis=0), np.nansum(values, axis=0) / known.sum(axis=0).clip(min=1), np.nan)


def sets_of(table: pd.DataFrame) -> list[HeadSets]:
    """The sets of heads from head_sets.parquet."""
    sets = []
    for (layers, sinks), part in table.groupby(["layers", "sinks"], sort=False):
        heads = {
            kind: [Head(int(row["layer"]), int(row["head"])) for row in records(part[part["kind"] == kind])]
            for kind in ("local", "global", "receiver")
        }
        sets.append(HeadSets(str(layers), Sinks(str(sinks)), heads["local"], heads["global"], heads["receiver"]))
    return sets


def head_set_rows(sets: Sequence[HeadSets], means: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """The rows of head_sets.parquet; `means` are the mean distances and kurtoses that the sets were chosen by."""
    for one in sets:
        suffix = "" if one.sinks == Sinks.KEPT else "_no_sinks"
        for kind, heads, measure in (
            ("local", one.local, "distance"),
            ("global", one.far, "distance"),
            ("receiver", one.receiver, "kurtosis"),
        ):
            for head in heads:
                value = float(means[f"{measure}{suffix}"][head])
                about = {"kind": kind, "layers": one.layers, "sinks": one.sinks}
                yield {**about, "layer": head.layer, "head": head.head, "value": value}
