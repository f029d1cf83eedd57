"""How the top heads walk along the reasoning, and where they stop (Paper A, Fig. 4), from the tables of `heads`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.heads.scores import Head, head_array, overlap
from interp.heads.trajectories import forward_p
from interp.runs.headlines import Headline
from interp.runs.verdicts import Sign
from interp.stats import (
    RESAMPLES,
    ComparedBy,
    Comparison,
    Estimate,
    adjust,
    among_draws,
    binomial_estimate,
    bootstrap_mean,
    layers_of,
    relabelled,
    rng_for,
)

Numbers = list[tuple[Headline, Sign]]


def trajectories(
    heads: pd.DataFrame, top: list[Head], random_sets: int, seed: int
) -> tuple[list[Headline], Numbers, Numbers]:
    """How far the top heads move along the reasoning and where they stop, beside sets of other heads that look there:
    the headlines, and the numbers that the two claims stand on."""
    places = pd.MultiIndex.from_frame(heads[["layer", "head"]])
    in_top = places.isin([tuple(head) for head in top])
    headlines: list[Headline] = []
    moves: Numbers = []
    stops: Numbers = []
    name = f"trajectory (rank correlation) of the top {len(top)} heads"
    beside = _beside_others(heads, top, "trajectory", name, random_sets, seed)
    if beside is not None:
        own = _by_example(heads[in_top], "trajectory").to_numpy(dtype=float)
        still = Comparison.paired(own, 0.0, rng_for(seed, "trajectory", "still"))
        headlines.append(beside)
        moves = [
            (beside, Sign.HIGHER),
            (Headline(name, beside.estimate, "no movement", Estimate(0.0, beside.estimate.n), still), Sign.HIGHER),
        ]
    name = "the same, answer tokens weighted by their attention to the reasoning"
    weighted = _beside_others(heads, top, "trajectory_weighted", name, random_sets, seed)
    headlines += [] if weighted is None else [weighted]
    following = _by_example(heads[in_top], "trajectory_content"), _by_example(heads[in_top], "trajectory_place")
    if following[0].notna().any():
        content, place = (of.to_numpy(dtype=float) for of in following)
        number = Headline(
            f"trajectory of the top {len(top)} heads with the sentences in another order, by content",
            bootstrap_mean(content, rng_for(seed, "content")),
            "by place",
            bootstrap_mean(place, rng_for(seed, "place")),
            Comparison.paired(content, place, rng_for(seed, "content", "place")),
        )
        headlines.append(number)
        moves.append((number, Sign.HIGHER))
    drawn, beaten = heads_that_move(heads, seed)
    if drawn:
        shared = overlap(beaten, top)
        name = "heads that move forward, of those that look at the reasoning (sign flips, q < .05)"
        headlines.append(Headline(name, binomial_estimate(len(beaten), drawn)))
        headlines.append(Headline(f"the same of the top {len(top)} heads", binomial_estimate(shared, len(top))))
    number_of_stops = _stops(heads[in_top & heads["stops_expected"].notna()], len(top), seed)
    if number_of_stops is not None:
        headlines.append(number_of_stops)
        stops = [(number_of_stops, Sign.HIGHER)]
    return headlines, moves, stops


def _stops(stopped: pd.DataFrame, k: int, seed: int) -> Headline | None:
    """The share of stops that lie at reflection words, mean over traces, among the same with each trace's reflection
    words shifted along its reasoning. What a trace has above its expectation is no sample of either sign: few stops
    make it a little less nearly always and much more rarely, so that signs are not flipped."""
    if stopped.empty:
        return None
    by_trace = stopped.groupby("example", sort=False)
    sums = by_trace[["stops", "stops_at_reflection", "stops_expected"]].sum()
    at, expected = (
        (sums[column] / sums["stops"]).to_numpy(dtype=float) for column in ("stops_at_reflection", "stops_expected")
    )
    shifted = np.stack([np.sum(list(of), axis=0) for _, of in by_trace["stops_shifted"]])
    shares = shifted / sums["stops"].to_numpy(dtype=float)[:, None]
    picks = rng_for(seed, "stops", "shifts").integers(shares.shape[1], size=(RESAMPLES, len(shares)))
    drawn = shares[np.arange(len(shares)), picks].mean(1)
    among = Comparison.with_draws(float(at.mean()), drawn)
    if among is None:
        return None
    difference = replace(among.difference, n=len(at))
    return Headline(
        f"share of the top {k} heads' stops that lie at reflection words",
        bootstrap_mean(at, rng_for(seed, "stops")),
        "shifted reflection words",
        bootstrap_mean(expected, rng_for(seed, "stops", "null")),
        Comparison(ComparedBy.NULL, difference, among.p),
    )


def _beside_others(
    heads: pd.DataFrame, top: list[Head], column: str, name: str, random_sets: int, seed: int
) -> Headline | None:
    """A column's mean over the top heads among sets of heads that have it; None where no top head does. Heads differ
    whatever the trace: with traces for the unit any set of them would differ from the rest."""
    values = head_array(heads, heads[column].astype(float))
    places = [Head(int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(values).all(axis=0))]
    own = [head for head in top if head in places]
    if not own:
        return None

    def by_trace(of: Sequence[tuple[int, int]]) -> Float[np.ndarray, " trace"]:
        here = values[:, [layer for layer, _ in of], [head for _, head in of]]
        known = ~np.isnan(here)
        return np.where(known.any(1), np.nansum(here, 1) / known.sum(1).clip(min=1), np.nan)

    sets = relabelled([own], layers_of(places), random_sets, rng_for(seed, column, "sets"))
    drawn = np.array([np.nanmean(by_trace(one)) for (one,) in sets.heads])
    control, compared = among_draws(float(np.nanmean(by_trace(own))), drawn)
    estimate = bootstrap_mean(by_trace(own), rng_for(seed, column))
    return Headline(name, estimate, f"{sets.named} that look there" if control else None, control, compared)


def heads_that_move(heads: pd.DataFrame, seed: int) -> tuple[int, list[Head]]:
    """How many heads have trajectories, and those that move forward over all traces.

    For each head a sign-flip permutation test over traces, then Benjamini-Hochberg over heads, q < .05.
    """
    if heads["trajectory"].isna().all():
        return 0, []
    values = head_array(heads, heads["trajectory"].astype(float))
    by_head = {Head(*place): values[:, *place] for place in np.ndindex(*values.shape[1:])}
    rho = {head: known for head, of in by_head.items() if len(known := of[~np.isnan(of)])}
    rows: list[dict[str, Any]] = [
        {"head": head, "p": forward_p(of, rng_for(seed, "forward", head))} for head, of in rho.items()
    ]
    adjust(rows)
    return len(rho), [row["head"] for row in rows if row["p_adjusted"] < 0.05]


def _by_example(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows.groupby("example", sort=False)[column].mean().astype(float)
