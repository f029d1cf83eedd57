"""Do the couplings belong to the chosen heads, or would any heads of their layers show them? (Paper B, Table 2)

Circular shifts ask whether two curves go together. They do for almost any heads, as attention follows the text. So each
coupling is measured again with random local, global and receiver heads, as many in each layer, and with all heads. In
coupling (2) heads that are both receivers and global are left out of the global ones: else a part is compared with its
whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.heads.scores import Head
from interp.rhythm.couplings import Coupling, Curves, Peaks, coupled, detect
from interp.rhythm.head_sets import HeadSets
from interp.rhythm.waad_fai import HeadCurves
from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.stats import (
    ANY_LAYER,
    SAME_LAYERS,
    Comparison,
    Estimate,
    among_draws,
    bootstrap_mean,
    layers_of,
    relabelled,
    rng_for,
)

SENTENCES = "waad_peaks_at_sentence_starts"
"""Beside the couplings: share of WAAD peaks at most one token off the beginning of a sentence."""
ALL = "all_heads"
RANDOM = (SAME_LAYERS, ANY_LAYER)
HEAD_CONTROLS_TABLE = Table(
    "head_controls",
    EXAMPLE,
    Column("coupling", TEXT, f"as in `couplings`, or `{SENTENCES}`"),
    Column(
        "control",
        TEXT,
        f"`{SAME_LAYERS}`, of the same layers; `{ANY_LAYER}` where these hold too few others; or `{ALL}`",
        null="the chosen heads",
    ),
    Column("draw", INT, "which random set", null="not random"),
    Column("value", FLOAT, "value at events in this trace"),
    Column("baseline", FLOAT, "value at all tokens that may be events, or at random places"),
)


@dataclass(frozen=True)
class Heads:
    """One choice of heads; `apart`: global ones that are no receivers. Without receivers there is no coupling (2)."""

    local: Sequence[Head]
    far: Sequence[Head]
    receiver: Sequence[Head] = ()
    apart: Sequence[Head] = ()


@dataclass(frozen=True)
class ControlSets:
    """The chosen heads and those that stand in for them."""

    chosen: Heads
    random: Sequence[Heads]
    control: str
    """What the random ones are called."""
    all: Heads


def control_sets(sets: HeadSets, layers: Sequence[int], n_heads: int, draws: int, seed: int) -> ControlSets:
    """Random sets for one set of chosen heads: heads renamed, of all three kinds alike, within their layers where
    these hold enough others."""
    everything = [Head(layer, h) for layer in layers for h in range(n_heads)]
    kinds = (sets.local, sets.far, sets.receiver)
    found = relabelled(kinds, layers_of(everything), draws, rng_for(seed, "head controls"))
    random = [_heads(*([Head(*place) for place in one] for one in drawn)) for drawn in found.heads]
    return ControlSets(_heads(*kinds), random, found.control, Heads(everything, everything))


def _heads(local: Sequence[Head], far: Sequence[Head], receiver: Sequence[Head]) -> Heads:
    return Heads(local, far, receiver, _without(far, receiver))


def _without(heads: Sequence[Head], others: Sequence[Head]) -> Sequence[Head]:
    left = [head for head in heads if head not in set(others)]
    return left or heads


def control_rows(
    example: str,
    curves: HeadCurves,
    sets: ControlSets,
    entropy: Float[np.ndarray, " token"],
    sentence: Int[np.ndarray, " token"],
    starts: Bool[np.ndarray, " token"],
    peaks: Peaks,
) -> Iterator[dict[str, Any]]:
    """The rows of head_controls.parquet for one trace; none for a coupling that has no event in it."""
    drawn = ((sets.control, i, one) for i, one in enumerate(sets.random))
    for control, draw, heads in ((None, None, sets.chosen), (ALL, None, sets.all), *drawn):
        waad, fai = curves.over(heads.local, "waad"), curves.over(heads.far, "fai_to_end")
        found: dict[str, tuple[float, float]] = {}
        for coupling in (Coupling.ENTROPY, Coupling.FOLLOWING):
            if (pair := coupled(coupling, Curves(waad, fai, fai, entropy, sentence), peaks)) is not None:
                found[coupling] = (pair.observed, pair.baseline)
        if heads.receiver:
            receiver, far = (curves.over(of, "fai_to_end") for of in (heads.receiver, heads.apart))
            if (pair := coupled(Coupling.RECEIVER, Curves(waad, far, receiver, entropy, sentence), peaks)) is not None:
                found[Coupling.RECEIVER] = (pair.observed, pair.baseline)
        if (detected := detect(peaks.of(waad), starts, peaks.possible(waad), 1)) is not None:
            found[SENTENCES] = (detected.precision, detected.chance_precision)
        for coupling_name, (value, baseline) in found.items():
            about = {"example": example, "coupling": str(coupling_name), "control": control, "draw": draw}
            yield {**about, "value": value, "baseline": baseline}


@dataclass(frozen=True)
class AgainstHeads:
    """How far a coupling lies above its baseline with the chosen heads, with random ones, and how the two compare."""

    chosen: Estimate
    random: Estimate
    control: str
    """Which heads the random ones are."""
    all: float | None
    comparison: Comparison


def against_heads(table: pd.DataFrame, coupling: str, seed: int) -> AgainstHeads | None:
    """One coupling from head_controls.parquet; None without random sets."""
    rows = table[table["coupling"] == coupling]
    above = rows["value"] - rows["baseline"]
    own, random, whole = rows["control"].isna(), rows["control"].isin(RANDOM), rows["control"] == ALL
    if not own.any() or not random.any():
        return None
    drawn = above[random].groupby(rows["draw"][random]).mean().to_numpy(dtype=float)
    chosen = bootstrap_mean(above[own].to_numpy(dtype=float), rng_for(seed, "head controls", coupling))
    beside, compared = among_draws(chosen.value, drawn)
    if beside is None or compared is None:
        return None
    control = str(rows["control"][random].iloc[0])
    return AgainstHeads(chosen, beside, control, float(above[whole].mean()) if whole.any() else None, compared)
