"""The headline numbers of `patching`, from its tables alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

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
    peaks_elsewhere,
    verified_recall,
)
from interp.patching.shares import moved, through
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.verdicts import verdict
from interp.stats import Comparison, Estimate, Sets, bootstrap_mean, rng_for
from interp.text.numbers import difference_text

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
    effects: pd.DataFrame,
    preferred: pd.DataFrame,
    rfhs: list[Head],
    sets: Sets,
    shape: tuple[int, ...],
    seed: int,
) -> Findings[PatchingFacts]:
    """What a run tells, out of its effects and of what all pairs prefer (preferences.parquet); `sets`: the random sets
    of heads whose paths were measured beside those through the RFHs."""
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
        headlines.append(moved(effects, Role.PHRASE_ANSWER, first, "the phrase's answer", erasing, seed))
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
    headlines.append(moved(effects, Role.PREDICTING, last, "the predicting token", "an unrelated pair", seed))
    headlines += [number for number, _ in prefers]
    holds = verdict_if_preferred("A5.last", at_last, prefers, LEAST_CARRIED)
    verdicts = [carries, holds, elsewhere]
    if not token.empty:
        at_peak, later = (at_layers(table, peaks_elsewhere(table)) for table in (token, predicting))
        over_pairs = rng_for(seed, "hand-over")
        found = hand_over(token.to_numpy(), predicting.to_numpy(), over_pairs, [int(layer) for layer in token.columns])
        unknown = Estimate(float("nan"), 0)
        falls = found.token_falls if _is_effect(at_peak, seed) else unknown
        rises = found.predicting_rises if _is_effect(later, seed) else unknown
        beside = Estimate(mean_layer(rfhs), len(rfhs))
        headlines.append(Headline("layer where the phrase's answer falls below half", falls))
        headlines.append(
            Headline("layer where the predicting token rises above half", rises, "mean layer of the RFHs", beside)
        )
        if _is_effect(at_peak, seed):
            above = [int(layer) for layer in token.columns if predicting[layer].mean() > token[layer].mean()]
            first_above = above[0] if above else None
        if _is_effect(token[first], seed):
            headlines += through(effects, first, sets, seed)
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
        listed = ", ".join(f"{head} {difference_text(by_head[head])}" for head in top)
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


def _is_effect(values: pd.Series, seed: int) -> bool:
    """Whether pairs have clearly more than rounding: what is said of how a curve runs, or of where an effect goes."""
    known = values.dropna().to_numpy(dtype=float)
    low = bootstrap_mean(known, rng_for(seed, "effect")).low
    return bool((np.min(known, initial=np.inf) if low is None else low) > LEAST_NLD and len(known))


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
