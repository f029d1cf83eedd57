"""The headline numbers of `patching`, from its tables alone."""

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
from interp.patching.preferences import preferences, verdict_if_preferred
from interp.patching.profiles import (
    LEAST_NLD,
    agreement,
    at_layers,
    curves,
    head_effects,
    peak_layer,
    peaks_elsewhere,
    select,
    verified_recall,
)
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.verdicts import verdict
from interp.stats import Comparison, Estimate, bootstrap_mean, rng_for

TOP = 10
"""How many of the largest exact effects attribution is asked to find."""
LEAST_CARRIED = 0.05
"""A smaller difference of NLD decides no claim: the least that is published for a place that carries is .285."""


@dataclass(frozen=True)
class PatchingFacts:
    """What the figures of a run need beside its tables."""

    rfhs: list[Head]
    """The top heads on the clean traces, best first."""
    top_heads: dict[str, list[Head]]
    """Those with most effect at a role."""
    first_layer_predicting_above_token: int | None
    n_pairs: int


def findings(
    effects: pd.DataFrame, preferred: pd.DataFrame, rfhs: list[Head], shape: tuple[int, ...], seed: int
) -> Findings[PatchingFacts]:
    """What a run tells, out of its effects and of what all pairs prefer (preferences.parquet)."""
    headlines: list[Headline] = []
    first_above: int | None = None
    top_heads: dict[str, list[Head]] = {}
    lines: list[str] = []
    token, predicting = (curves(effects, role) for role in (Role.PHRASE_ANSWER, Role.PREDICTING))
    random = curves(effects, None, control="random_position")

    def nld(name: str, values: pd.Series, control: pd.Series | None, kind: str) -> Headline:
        """Mean over pairs, compared pair by pair with the control."""
        found = bootstrap_mean(values.to_numpy(), rng_for(seed, "nld", name))
        beside = compared = None
        if control is not None and control.notna().any():
            beside = bootstrap_mean(control.to_numpy(), rng_for(seed, "nld", name, "control"))
            both = values - control.reindex(values.index)
            compared = Comparison.paired(both.to_numpy(), 0.0, rng_for(seed, "nld", name, "paired"))
        headline = Headline(name, found, kind if beside else None, beside, compared)
        headlines.append(headline)
        return headline

    first, last = int(predicting.columns.min()), int(predicting.columns.max())
    unrelated = {
        role: curves(effects, role, control="unrelated_pair") for role in (Role.PHRASE_ANSWER, Role.PREDICTING)
    }
    erasing = "the same of an unrelated pair: erasing alone"
    prefers = preferences(preferred, seed)
    carries = verdict("A5", [], why="no probing phrase states the answer in the reasoning")
    elsewhere = verdict("A5.reasoning", [], why="no probing phrase states the answer in the reasoning")
    if not token.empty:
        peaks = peaks_elsewhere(token)
        beside = _at(unrelated[Role.PHRASE_ANSWER], first)
        transfer = nld(f"NLD, the phrase's answer, layer {first}, against erasing", token[first], beside, erasing)
        headlines.append(_moved(effects, Role.PHRASE_ANSWER, first, "the phrase's answer", erasing, seed))
        if peaks.notna().any():
            where = " or ".join(map(str, sorted(set(peaks.astype(int)))))
            name = f"NLD, the phrase's answer, layer {where} (its peak)"
            nld(name, at_layers(token, peaks), at_layers(random, peaks), "random reasoning positions")
        there = nld(
            f"NLD, the phrase's answer, layer {first}", token[first], _at(random, first), "random reasoning positions"
        )
        carries = verdict_if_preferred("A5", transfer, prefers, LEAST_CARRIED)
        elsewhere = verdict_if_preferred("A5.reasoning", there, prefers, LEAST_CARRIED)
    beside = _at(unrelated[Role.PREDICTING], last)
    at_last = nld(f"NLD, the predicting token, layer {last}", predicting[last], beside, "an unrelated pair")
    headlines.append(_moved(effects, Role.PREDICTING, last, "the predicting token", "an unrelated pair", seed))
    headlines += [number for number, _ in prefers]
    holds = verdict_if_preferred("A5.last", at_last, prefers, LEAST_CARRIED)
    verdicts = [carries, holds, elsewhere]
    if not token.empty:
        found = hand_over(token.to_numpy(), predicting.to_numpy(), rng_for(seed, "hand-over"))
        unknown = Estimate(float("nan"), 0)
        falls = found.token_falls if _has_peak(token, seed) else unknown
        rises = found.predicting_rises if _has_peak(predicting, seed) else unknown
        beside = Estimate(mean_layer(rfhs), len(rfhs))
        headlines.append(Headline("layer where the phrase's answer falls below half", falls))
        headlines.append(
            Headline("layer where the predicting token rises above half", rises, "mean layer of the RFHs", beside)
        )
        if _has_peak(token, seed):
            above = [int(layer) for layer in token.columns if predicting[layer].mean() > token[layer].mean()]
            first_above = above[0] if above else None
            headlines += _paths(effects, peak_layer(token), seed)
    headlines += _agreement(effects, seed)
    maps = verified_recall(effects, TOP)
    if not maps.empty:
        headlines.append(_map_recall(maps, seed))
        of = int(maps["places"].sum())
        lines.append(f"maps are estimated: {int(maps['verified'].sum())} of {of} places are patched exactly")
    for role in (Role.PHRASE_ANSWER, Role.PREDICTING):
        by_head = head_effects(effects, role, shape)
        if by_head is None:
            continue
        top = [head for head in rank_heads(by_head, len(rfhs)) if by_head[head] >= LEAST_NLD]
        listed = ", ".join(f"{head} {by_head[head]:+.3f}" for head in top)
        lines.append(f"heads with most effect at {readable(role)}: {listed or 'none'}")
        if top and not np.isnan([by_head[head] for head in rfhs]).all():
            # Heads of layers that are not patched can be in one list alone.
            patched = ~np.isnan(by_head)
            lists = {"RFHs": [head for head in rfhs if patched[head]], "heads": top}
            (row,) = overlap_rows(lists, int(patched.sum()), by_head.shape[1])
            lines.append(f"  of these, RFHs: {overlap_text(row)}")
        top_heads[str(role)] = top
    lines.insert(0, f"RFHs: {', '.join(map(str, rfhs))}")
    n_pairs = int(effects["example"].nunique())
    return Findings(headlines, PatchingFacts(rfhs, top_heads, first_above, n_pairs), lines, verdicts=verdicts)


def _at(table: pd.DataFrame, layer: int) -> pd.Series | None:
    return table.get(layer)


def _moved(effects: pd.DataFrame, role: Role, layer: int, where: str, kind: str, seed: int) -> Headline:
    """The mean change of the logit difference as a share of the mean difference of the runs. Pairs whose runs hardly
    differ weigh as little as they say here; in the mean of NLD, a ratio by pair, they may outweigh all others."""
    part = curves(effects, role, metric="ld")[layer]
    control = curves(effects, role, metric="ld", control="unrelated_pair").get(layer)
    runs = select(effects, "patch_resid_pre", "ld", role).groupby("example", sort=False)[["clean", "corrupted"]].first()
    whole = runs["clean"] - runs["corrupted"]
    name = f"share of the logit difference moved, {where}, layer {layer}"
    found = _ratio(part, whole, rng_for(seed, "moved", role))
    if control is None:
        return Headline(name, found)
    compared = Comparison.paired(*_shares(part, control, whole), rng_for(seed, "moved", role, "paired"))
    return Headline(name, found, kind, _ratio(control, whole, rng_for(seed, "moved", role, "control")), compared)


def _has_peak(table: pd.DataFrame, seed: int) -> bool:
    """Whether the curves' peak is clearly an effect: what is said of a curve's course says nothing of rounding."""
    at_peak = bootstrap_mean(at_layers(table, peaks_elsewhere(table)).to_numpy(dtype=float), rng_for(seed, "peak"))
    return at_peak.low is not None and at_peak.low > LEAST_NLD


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
        None
        if random.empty
        else Comparison.paired(*_shares(through[layer], random[layer], whole), rng_for(seed, "through", "paired")),
    )
    return [headline]


def _shares(part: pd.Series, control: pd.Series, whole: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """By pair, both as shares of the mean whole effect: a single pair's effect may be near 0."""
    mean = float(whole.mean())
    return (part / mean).to_numpy(dtype=float), (control.reindex(part.index) / mean).to_numpy(dtype=float)


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
            rho, recall, chance = (found[name].to_numpy(dtype=float) for name in ("rho", "recall", "chance"))
            rng = rng_for(seed, "attribution", site)
            headlines.append(
                Headline(f"attribution of {readable(site)}, rank correlation with exact NLD", bootstrap_mean(rho, rng))
            )
            known = chance[~np.isnan(chance)]
            headlines.append(
                Headline(
                    f"attribution of {readable(site)}, share of the top {TOP} found",
                    bootstrap_mean(recall, rng),
                    "chance" if len(known) else None,
                    Estimate(float(known.mean()), len(known)) if len(known) else None,
                    Comparison.paired(recall, chance, rng_for(seed, "attribution", site, "paired")),
                )
            )
    return headlines


def _map_recall(maps: pd.DataFrame, seed: int) -> Headline:
    known = maps.dropna()
    recall, chance = (known[name].to_numpy(float) for name in ("recall", "chance"))
    name = f"estimated maps: share of the top {TOP} verified effects in the first half of the estimates"
    rng = rng_for(seed, "map recall")
    if known.empty:
        return Headline(name, Estimate(float("nan"), 0))
    return Headline(
        name,
        bootstrap_mean(recall, rng),
        "estimates that say nothing",
        Estimate(float(chance.mean()), len(known)),
        Comparison.paired(recall, chance, rng_for(seed, "map recall", "paired")),
    )
