"""The headline numbers of `heads`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.heads.ranking import (
    HeadKind,
    Samples,
    mean_over_examples,
    middle_third,
    share_in_middle_layers,
    stability,
    top_heads,
)
from interp.heads.scores import Head, head_array, masses_by_segment, mean_over, overlap, rank_heads
from interp.heads.trajectories import forward_p
from interp.runs.headlines import Findings, Headline
from interp.runs.store import records
from interp.stats import Estimate, adjust, binomial_estimate, bootstrap_mean, or_null, random_heads_like, rng_for
from interp.text.trace import Segment

Tables = Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class FindingsOptions:
    """By what and how many heads are ranked, and how many random sets and resamples stand beside them."""

    score: str
    k: int
    random_sets: int
    resamples: int
    reflection_words: Sequence[str]
    seed: int


@dataclass(frozen=True)
class HeadsFacts:
    """What the figures of a run need beside its tables."""

    score: str
    top_heads: list[Head]
    """By that score, best first."""
    top_head_scores: list[float | None]
    lists: dict[str, list[Head]]
    """The top heads of other known kinds."""
    reflection_words: list[str]
    n_traces: int


def findings(table: Tables, samples: Mapping[str, Samples], options: FindingsOptions) -> Findings[HeadsFacts]:
    """What a run tells."""
    score, k, resamples, seed = options.score, options.k, options.resamples, options.seed
    heads = table("heads")
    values = samples[score]
    means = mean_over_examples(values)
    top = rank_heads(means, k)
    headlines = _masses(heads, seed)
    if len(values) >= 2:
        headlines += _split_half(heads, values, k, options.random_sets, seed)
        chance = Estimate(k / means.size, 1)
        kept = stability(values, k, seed, score, resamples)
        headlines.append(Headline(f"share of the top {k} that a resample of the traces keeps", kept, "chance", chance))
    middle = middle_third(len(means))
    share = share_in_middle_layers(values, k, seed, score, resamples)
    chance = Estimate(len(middle) / len(means), 1)
    where = f"layers {middle.start}-{middle.stop - 1}" if len(middle) > 1 else f"layer {middle.start}"
    headlines.append(Headline(f"share of the top {k} in the middle third ({where})", share, "share of layers", chance))
    headlines += _trajectories(heads, top, seed)
    lines = [f"top heads (layer,head) by {score}: {_listed(top, means)}"]
    lists: dict[str, list[Head]] = {}
    for kind in HeadKind:
        if kind in samples:
            means_of = mean_over_examples(samples[kind])
            lists[kind.value] = top_heads(means_of, k, kind)
            lines.append(f"top {kind} heads: {_listed(lists[kind.value], means_of) or 'none above the floor'}")
    overlaps = table("overlaps")
    for row in records(overlaps[overlaps["first"] == score]):
        if row["second"] in lists and row["n_second"]:
            lines.append(f"shared with the {row['second']} heads: {overlap_text(row)}")
    recalled = (
        table("probes").dropna(subset="recalled").groupby("example", sort=False)["recalled"].first().astype(float)
    )
    if len(recalled):
        found = bootstrap_mean(recalled.to_numpy(), rng_for(seed, "recalled"))
        headlines.append(Headline("share of a needle's tokens that the model wrote", found))
    correct = table("answers")["correct"].dropna().to_numpy(dtype=float)
    if len(correct):
        headlines.append(Headline("accuracy of the answers", bootstrap_mean(correct, rng_for(seed, "accuracy"))))
    scores = [or_null(float(means[head])) for head in top]
    facts = HeadsFacts(score, top, scores, lists, list(options.reflection_words), len(values))
    return Findings(headlines, facts, lines)


def overlap_text(row: dict[str, Any]) -> str:
    """A row of overlaps.parquet in words."""
    p = f"p = {row['p']:.2g}, {row['p_adjusted']:.2g} after Benjamini-Hochberg"
    return f"{row['shared']} (by chance {row['expected']:.2f}, {p})"


def _listed(heads: list[Head], means: np.ndarray) -> str:
    return ", ".join(f"{head} {means[head]:.3f}" for head in heads)


def _masses(heads: pd.DataFrame, seed: int) -> list[Headline]:
    by_segment = masses_by_segment(heads)
    even = heads.groupby("example", sort=False)["answer_reasoning_even"].first().to_numpy()
    headlines = []
    for s in Segment:
        masses = bootstrap_mean(by_segment[f"answer_{s}"].to_numpy(), rng_for(seed, "mass", s))
        control: tuple[str, Estimate] | tuple[None, None] = (None, None)
        if s is Segment.REASONING:
            control = ("an even head", bootstrap_mean(even, rng_for(seed, "even")))
        if masses.n:
            headlines.append(Headline(f"mass answer->{s}, all heads", masses, *control))
    return headlines


def _split_half(heads: pd.DataFrame, values: np.ndarray, k: int, random_sets: int, seed: int) -> list[Headline]:
    """Ranks on every other trace and measures on the rest, so that choosing the best does not flatter the result."""
    chosen = rank_heads(mean_over_examples(values[0::2]), k)
    again = rank_heads(mean_over_examples(values[1::2]), k)
    mass = head_array(heads, heads["answer_reasoning"])[1::2]
    rng = rng_for(seed, "random heads")
    sets = random_heads_like(np.array(chosen), mass.shape[2], random_sets, rng)
    kept = [[Head(*map(int, place)) for place in one if place[0] >= 0] for one in sets]
    by_set = np.stack([mean_over(mass, one) for one in kept if one]) if any(kept) else None
    control = None if by_set is None else bootstrap_mean(by_set.mean(axis=0), rng_for(seed, "random heads", "interval"))
    return [
        Headline(
            f"mass answer->reasoning, top {k} heads of the other half of the traces",
            bootstrap_mean(mean_over(mass, chosen), rng_for(seed, "top heads")),
            "random heads of the same layers",
            control,
        ),
        Headline(
            f"share of the top {k} heads that both halves of the traces agree on",
            Estimate(overlap(chosen, again) / k, 1),
            "expected by chance",
            Estimate(k / values[0].size, 1),
        ),
    ]


def _trajectories(heads: pd.DataFrame, top: list[Head], seed: int) -> list[Headline]:
    """How far the top heads move along the reasoning and where they stop, beside all other heads that look there."""
    places = pd.MultiIndex.from_frame(heads[["layer", "head"]])
    in_top = places.isin([tuple(head) for head in top])
    headlines = []
    rho = {name: _by_example(heads[rows], "trajectory") for name, rows in (("top", in_top), ("others", ~in_top))}
    if len(rho["top"]):
        headlines.append(
            Headline(
                f"trajectory (rank correlation) of the top {len(top)} heads",
                bootstrap_mean(rho["top"], rng_for(seed, "trajectory")),
                "other heads that look there",
                bootstrap_mean(rho["others"], rng_for(seed, "trajectory", "others")),
            )
        )
    drawn, beaten = heads_that_move(heads, seed)
    if drawn:
        shared = overlap(beaten, top)
        headlines.append(
            Headline(
                "heads that move forward, of those that look at the reasoning (sign flips, q < .05)",
                binomial_estimate(len(beaten), drawn),
                f"of the top {len(top)}",
                Estimate(shared / len(top), len(top)),
            )
        )
    stopped = heads[in_top & heads["stops_expected"].notna()]
    if len(stopped):
        sums = (
            stopped.groupby("example", sort=False)[["stops", "stops_at_reflection", "stops_expected"]]
            .sum()
            .astype(float)
        )
        headlines.append(
            Headline(
                f"share of the top {len(top)} heads' stops that lie at reflection words",
                bootstrap_mean((sums["stops_at_reflection"] / sums["stops"]).to_numpy(), rng_for(seed, "stops")),
                "shifted reflection words",
                bootstrap_mean((sums["stops_expected"] / sums["stops"]).to_numpy(), rng_for(seed, "stops", "null")),
            )
        )
    return headlines


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


def _by_example(rows: pd.DataFrame, column: str) -> np.ndarray:
    return rows.groupby("example", sort=False)[column].mean().dropna().to_numpy(dtype=float)
