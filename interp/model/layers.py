"""Names for sets of layers, the same in every experiment: all, thirds, five, ranges and lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from interp.errors import UserError

THIRDS = ("bottom", "middle", "top")
FIVE = {"five": 1, "five_closed": 0}
"""Five layers of the middle third, and how many layers before floor(2L/3) it ends: the paper's two dots may or may not
include their end."""
KNOWN = (
    "all, thirds, bottom, middle, top, five, five_closed, a layer, a range such as 4-8, or layers joined by + "
    "such as 1+5+9"
)


def layer_set(spec: str | int, n_layers: int) -> list[int]:
    """The layers, from 0, that a name stands for; `bottom` is next to the input. Raises UserError for no or unknown
    layers.

    `middle` is floor(L/3) to floor(2L/3) - 1, and `five` are five evenly spaced layers of it (Paper B, section 5; all
    of it where it is smaller); for `five_closed` it includes floor(2L/3). A range includes both ends.
    """
    name = str(spec).strip()
    cuts = [0, n_layers // 3, 2 * n_layers // 3, n_layers]
    if name == "all":
        return list(range(n_layers))
    if name in THIRDS:
        i = THIRDS.index(name)
        layers = list(range(cuts[i], cuts[i + 1]))
    elif name in FIVE:
        last = min(n_layers - 1, max(cuts[1], cuts[2] - FIVE[name]))
        layers = sorted({int(x) for x in np.linspace(cuts[1], last, 5).round()})
    elif name == "thirds":
        raise UserError("layers=thirds names three sets: sweep over bottom,middle,top")
    else:
        ranges = [part for part in _ranges(name) if part]
        last = max((part[-1] for part in ranges), default=0)
        if last >= n_layers:
            raise UserError(f"layers={name}: layer {last} is out of range, the model has layers 0 to {n_layers - 1}")
        layers = sorted({layer for part in ranges for layer in part})
    if not layers:
        raise UserError(f"layers={name}: a model with {n_layers} layers has none there")
    return layers


def in_layers(layers: Sequence[int], n_layers: int) -> str:
    """Which layers something is about, to be added to a sentence, such as " in layers 2-3"; nothing where it is all."""
    if len(set(layers)) == n_layers:
        return ""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    named = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f" in layer{'s' if len(set(layers)) > 1 else ''} {named}"


def layer_sets(specs: str | int | Sequence[str | int], n_layers: int) -> dict[str, list[int]]:
    """Several sets by name, in order; `thirds` stands for bottom, middle and top."""
    names = [specs] if isinstance(specs, str | int) else list(specs)
    flat = [part for name in names for part in (THIRDS if name == "thirds" else (name,))]
    if not flat:
        raise UserError(f"layers must name a set of layers: {KNOWN}")
    return {str(name): layer_set(name, n_layers) for name in flat}


def check_layer_name(name: str) -> str:
    """The name itself. Raises UserError for one that stands for no layers in any model."""
    if name.strip() not in ("all", *THIRDS, *FIVE, "thirds"):
        _ranges(name.strip())
    return name


def _ranges(name: str) -> list[range]:
    """The ranges that a name such as 1+4-8 lists."""
    found = re.fullmatch(r"\d{1,9}(-\d{1,9})?(\+\d{1,9}(-\d{1,9})?)*", name, re.ASCII)
    if not found:
        raise UserError(f"layers={name} is not known: use {KNOWN}")
    ends = [part.partition("-") for part in name.split("+")]
    return [range(int(first), int(last or first) + 1) for first, _, last in ends]
