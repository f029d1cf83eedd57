"""Means of causal effects over examples: one interval for the same rows, wherever they are shown."""

from __future__ import annotations

import pandas as pd

from interp.stats import Estimate, bootstrap_mean, rng_for

IDENTITY = ("intervention", "rows", "heads_kind", "n_heads", "layer", "layer_end", "role", "control", "metric")
"""Columns of effects that tell one measurement from another."""


def per_example(rows: pd.DataFrame) -> pd.Series:
    """One value an example: the mean over random draws, positions or changes where there are several."""
    return rows.groupby("example", sort=False)["value"].mean()


def over_examples(rows: pd.DataFrame) -> Estimate:
    """The mean effect of some rows of effects with its 95 % bootstrap interval over examples.

    The resamples depend on the run's seed and on what the rows are of alone, so the same rows have one interval.
    """
    same = [rows[name].iloc[0] for name in IDENTITY if rows[name].nunique(dropna=False) == 1]
    rng = rng_for(int(rows["seed"].iloc[0]), "effects", *map(str, same))
    return bootstrap_mean(per_example(rows).to_numpy(dtype=float), rng)


def over_examples_by(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The same for each value of a column: `at` (that value), `value`, `low` and `high`, NaN where there is none."""
    found = [(place, over_examples(part)) for place, part in rows.groupby(by)]
    columns = ["at", "value", "low", "high"]
    return pd.DataFrame([(at, one.value, one.low, one.high) for at, one in found], columns=columns).astype(float)
