"""Which heads a run cut, out of its tables: what its summary, its lines and its figures name."""

from __future__ import annotations

import pandas as pd

from interp.ablation.design import kept_lists
from interp.ablation.findings import decisive, dose_rows
from interp.heads.scores import Head


def list_by_half(effects: pd.DataFrame, cut_lists: pd.DataFrame, kind: str) -> dict[int, list[Head]]:
    """The heads of one list at the dose that the headline numbers are of, best first, by the half of the traces that
    they were cut on. Empty for a list that was not cut."""
    rows = dose_rows(effects)
    rows = rows[rows["heads_kind"] == kind]
    if rows.empty:
        return {}
    here = cut_lists[(cut_lists["heads_kind"] == kind) & (cut_lists["n_heads"] == decisive(rows))]
    return {int(half): kept_lists(here, int(half))[kind] for half in sorted(here["half"].unique())}


def lists_that_were_cut(effects: pd.DataFrame, cut_lists: pd.DataFrame) -> dict[str, list[Head]]:
    """Every list under its name, or once for each half of the traces where these were cut in other heads."""
    found: dict[str, list[Head]] = {}
    for kind in cut_lists["heads_kind"].unique():
        halves = list_by_half(effects, cut_lists, kind)
        if len(halves) == cut_lists["half"].nunique() and len({frozenset(heads) for heads in halves.values()}) == 1:
            found[kind] = next(iter(halves.values()))
        else:
            found |= {f"{kind} (half {half})": heads for half, heads in halves.items()}
    return found
