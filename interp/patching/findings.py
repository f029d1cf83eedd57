"""The headline numbers of `patching`, from effects.parquet alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from interp.heads.findings import overlap_text
from interp.heads.ranking import overlap_rows
from interp.heads.scores import Head, rank_heads
from interp.patching.align import Role
from interp.patching.handover import hand_over, mean_layer
from interp.patching.profiles import agreement, curves, head_effects
from interp.runs.headlines import Findings, Headline
from interp.stats import Estimate, bootstrap_mean, rng_for

TOP = 10
"""How many of the largest exact effects attribution is asked to find."""


@dataclass(frozen=True)
class PatchingFacts:
    """What the figures of a run need beside its tables."""

    rfhs: list[Head]
    """The top heads on the clean traces, best first."""
    top_heads: dict[str, list[Head]]
    """Those with most effect at a role."""
    first_layer_predicting_above_token: int | None
    n_pairs: int


def findings(effects: pd.DataFrame, rfhs: list[Head], shape: tuple[int, ...], seed: int) -> Findings[PatchingFacts]:
    """What a run tells."""
    headlines: list[Headline] = []
    first_above: int | None = None
    top_heads: dict[str, list[Head]] = {}
    lines: list[str] = []
    token, predicting = (curves(effects, role) for role in (Role.PHRASE_ANSWER, Role.PREDICTING))
    random = curves(effects, None, control="random_position")

    def nld(name: str, values: pd.DataFrame, layer: int, control: pd.DataFrame | None, kind: str) -> None:
        found = bootstrap_mean(values[layer].to_numpy(), rng_for(seed, "nld", name))
        beside = None
        if control is not None and layer in control and control[layer].notna().any():
            beside = bootstrap_mean(control[layer].to_numpy(), rng_for(seed, "nld", name, "control"))
        headlines.append(Headline(name, found, kind if beside else None, beside))

    if not token.empty:
        peak = peak_layer(token)
        unrelated_token = curves(effects, Role.PHRASE_ANSWER, control="unrelated_pair")
        nld(f"NLD, the phrase's answer, layer {peak} (its peak)", token, peak, random, "random reasoning positions")
        erasing = "activations of an unrelated pair (erasing alone gives about .5)"
        nld(f"NLD, the phrase's answer, layer {peak}, against erasing", token, peak, unrelated_token, erasing)
    last = int(predicting.columns.max())
    unrelated_last = curves(effects, Role.PREDICTING, control="unrelated_pair")
    nld(f"NLD, the predicting token, layer {last}", predicting, last, unrelated_last, "an unrelated pair")
    if not token.empty:
        found = hand_over(token.to_numpy(), predicting.to_numpy(), rng_for(seed, "hand-over"))
        headlines.append(Headline("layer where the phrase's answer falls below half", found.token_falls))
        headlines.append(
            Headline(
                "layer where the predicting token rises above half",
                found.predicting_rises,
                "mean layer of the RFHs",
                Estimate(mean_layer(rfhs), len(rfhs)),
            )
        )
        above = [int(layer) for layer in token.columns if predicting[layer].mean() > token[layer].mean()]
        first_above = above[0] if above else None
        headlines += _paths(effects, peak_layer(token), seed)
    headlines += _agreement(effects, seed)
    for role in (Role.PHRASE_ANSWER, Role.PREDICTING):
        by_head = head_effects(effects, role, shape)
        if by_head is None:
            continue
        top = rank_heads(by_head, len(rfhs))
        listed = ", ".join(f"{head} {by_head[head]:+.3f}" for head in top)
        lines.append(f"heads with most effect at the {role.replace('_', ' ')} token: {listed}")
        (row,) = overlap_rows({"RFHs": rfhs, "heads": top}, by_head.size)
        lines.append(f"  of these, RFHs: {overlap_text(row)}")
        top_heads[str(role)] = top
    lines.insert(0, f"RFHs on the clean traces: {', '.join(map(str, rfhs))}")
    n_pairs = int(effects["example"].nunique())
    return Findings(headlines, PatchingFacts(rfhs, top_heads, first_above, n_pairs), lines)


def peak_layer(table: pd.DataFrame) -> int:
    """The layer at which the mean curve is highest."""
    return [int(str(layer)) for layer in table.columns][int(np.argmax(table.mean().to_numpy()))]


def _paths(effects: pd.DataFrame, layer: int, seed: int) -> list[Headline]:
    """Which share of the effect of the phrase's answer goes through the RFHs; ratio of means, resampled over pairs."""
    whole = curves(effects, Role.PHRASE_ANSWER)[layer]
    through = curves(effects, Role.PHRASE_ANSWER, verb="through")
    random = curves(effects, Role.PHRASE_ANSWER, verb="through", control="random_heads")
    if through.empty:
        return []
    headline = Headline(
        f"share of that effect (layer {layer}) that goes through the RFHs",
        _ratio(through[layer], whole, rng_for(seed, "through")),
        "random heads of the same layers" if not random.empty else None,
        _ratio(random[layer], whole, rng_for(seed, "through", "random")) if not random.empty else None,
    )
    return [headline]


def _ratio(part: pd.Series, whole: pd.Series, rng: np.random.Generator) -> Estimate:
    both = pd.concat([part, whole], axis=1, keys=["part", "whole"]).dropna()
    n = len(both)
    value = float(both["part"].mean() / both["whole"].mean())
    if n < 2:
        return Estimate(value, n)
    interval = stats.bootstrap(
        (both["part"], both["whole"]), lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis), paired=True,
        vectorized=True, n_resamples=2000, method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    return Estimate(value, n, float(interval.low), float(interval.high))


def _agreement(effects: pd.DataFrame, seed: int) -> list[Headline]:
    headlines = []
    for site in ("resid_pre", "z"):
        found = agreement(effects, site, TOP)
        if not found.empty:
            rho, recall = (found[name].to_numpy() for name in ("rho", "recall"))
            rng = rng_for(seed, "attribution", site)
            headlines.append(
                Headline(f"attribution of {site}, rank correlation with exact NLD", bootstrap_mean(rho, rng))
            )
            headlines.append(
                Headline(
                    f"attribution of {site}, share of the top {TOP} found",
                    bootstrap_mean(recall, rng),
                    "chance",
                    Estimate(float(found["chance"].mean()), len(found)),
                )
            )
    return headlines
