"""What the figures and headlines of patching need, out of effects.parquet."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.stats import rank_correlation

LEAST_NLD = 0.001
"""The smallest effect, in size, that counts as one: below, exact patches differ by rounding."""


def select(
    effects: pd.DataFrame, intervention: str, metric: str = "nld", role: str | None = None, control: str | None = None
) -> pd.DataFrame:
    """Rows of one intervention and metric, at one role (None = any), of one control (None = the measurement itself)."""
    rows = effects[(effects["intervention"] == intervention) & (effects["metric"] == metric)]
    rows = rows[rows["control"].isna() if control is None else rows["control"] == control]
    return rows if role is None else rows[rows["role"] == role]


def curves(
    effects: pd.DataFrame,
    role: str | None,
    *,
    verb: str = "patch",
    site: str = "resid_pre",
    metric: str = "nld",
    control: str | None = None,
) -> pd.DataFrame:
    """Effect by pair (rows) and layer (columns), mean over the positions of that role; empty if there are none."""
    rows = select(effects, f"{verb}_{site}", metric, role, control)
    if rows.empty:
        return pd.DataFrame()
    order = rows["example"].unique()
    return rows.pivot_table(index="example", columns="layer", values="value", aggfunc="mean").reindex(order)


def peak_layer(table: pd.DataFrame) -> int:
    """The layer at which the mean curve is highest."""
    return [int(str(layer)) for layer in table.columns][int(np.argmax(table.mean().to_numpy()))]


def peaks_elsewhere(table: pd.DataFrame) -> pd.Series:
    """For each pair the layer at which the mean curve of the other half of the pairs, every other one, is highest: a
    peak that is chosen on the pairs that it is measured on looks higher than it is. NaN for a pair that is alone."""
    layers = pd.Series(np.nan, index=table.index)
    for half in (0, 1):
        others = table.iloc[1 - half :: 2]
        if len(others):
            layers.iloc[half::2] = peak_layer(others)
    return layers


def at_layers(table: pd.DataFrame, layers: pd.Series) -> pd.Series:
    """Each pair's effect at a layer of its own; NaN where the table does not have it."""
    known = table.stack()
    return pd.Series([known.get(place, np.nan) for place in layers.items()], index=layers.index, dtype=float)


def head_effects(effects: pd.DataFrame, role: str, shape: tuple[int, ...]) -> Float[np.ndarray, "layer head"] | None:
    """Mean NLD over pairs of patching each head's output at a role; NaN where a layer was left out."""
    rows = select(effects, "patch_z", "nld", role).dropna(subset="head")
    if rows.empty:
        return None
    means = rows.groupby(["layer", "head"])["value"].mean()
    found = np.full(shape, np.nan)
    places = means.index.to_frame().to_numpy(dtype=int)
    found[places[:, 0], places[:, 1]] = means.to_numpy(dtype=float)
    return found


def agreement(effects: pd.DataFrame, site: str, top: int) -> pd.DataFrame:
    """By pair: how well attributed effects agree with exact ones over all patches of a site at key positions.

    `rho`: Spearman's correlation of NLD over the exact effects that are one (LEAST_NLD), NaN with fewer than three;
    `recall`: share of the `top` largest of them (in size) that are among as many largest attributed ones, NaN without
    any; `chance`: that share for a random choice of the patches.
    """
    keys = ["example", "layer", "head", "position"]
    exact = select(effects, f"patch_{site}")[[*keys, "value"]].fillna({"head": -1})
    estimate = select(effects, f"attribute_{site}").dropna(subset="role")[[*keys, "value"]].fillna({"head": -1})
    both = exact.merge(estimate, on=keys, suffixes=("_exact", "_attributed"))
    rows = []
    for example, of in both.groupby("example", sort=False):
        a, b = of["value_exact"].to_numpy(float), of["value_attributed"].to_numpy(float)
        real = np.abs(a) >= LEAST_NLD
        n = min(top, int(real.sum()))
        best = [set(np.argsort(-np.abs(values), kind="stable")[:n].tolist()) for values in (a, b)]
        found = {
            "rho": rank_correlation(a[real], b[real]) if real.sum() >= 3 else np.nan,
            "recall": len(best[0] & best[1]) / n if n else np.nan,
            "chance": n / len(of) if n else np.nan,
        }
        rows.append({"example": example, **found})
    return pd.DataFrame(rows)


def verified_recall(effects: pd.DataFrame, top: int) -> pd.DataFrame:
    """By pair with an estimated map: how sure one can be that its `top` largest effects are among the verified.

    `recall`: of the `top` largest verified effects that are one (LEAST_NLD), the share among the first half of the
    verified places in the order of their estimates: 1 = verifying twice as many brought nothing new, so that more of
    them would hardly do so; `chance`: that share if estimates said nothing; `verified`, `places`: how many there are.
    NaN where nothing verified is an effect.
    """
    keys = ["example", "layer", "position"]
    estimate = select(effects, "attribute_resid_pre")
    estimate = estimate[estimate["role"].isna()]
    exact = select(effects, "patch_resid_pre")
    both = exact[exact["role"].isna()].merge(estimate[[*keys, "value"]], on=keys, suffixes=("", "_estimated"))
    rows = []
    for example, of in both.groupby("example", sort=False):
        ranked = of.sort_values("value_estimated", key=lambda v: -v.abs(), kind="stable")
        size = ranked["value"].abs().to_numpy(float)
        half = (len(size) + 1) // 2
        best = np.argsort(-size, kind="stable")[:top]
        best = best[size[best] >= LEAST_NLD]
        found = {
            "recall": float((best < half).mean()) if len(best) else np.nan,
            "chance": half / len(size),
            "verified": len(size),
            "places": int((estimate["example"] == example).sum()),
        }
        rows.append({"example": example, **found})
    return pd.DataFrame(rows)
