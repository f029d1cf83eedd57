"""The headline numbers of `heads`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.heads.ranking import (
    HeadKind,
    Samples,
    mean_over_examples,
    middle_third,
    ranked_layers,
    share_in_middle_layers,
    stability,
    top_heads,
)
from interp.heads.scores import Head, head_array, masses_by_segment, mean_over, overlap, rank_heads
from interp.heads.unrelated import COLUMN, joined
from interp.heads.walks import trajectories
from interp.model.layers import in_layers
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.store import records
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import (
    Comparison,
    Estimate,
    among_draws,
    binomial_comparison,
    binomial_estimate,
    bootstrap_mean,
    hypergeometric_comparison,
    layers_of,
    or_null,
    rank_correlation,
    relabelled,
    rng_for,
)
from interp.text.numbers import three_digits
from interp.text.trace import Segment

Tables = Callable[[str], pd.DataFrame]
LEAST_FOCUS = 0.05
"""The least difference of masses that counts. Heads of an untrained model differ too, by hundredths."""
LEAST_DENSITY = 0.1
"""The least logarithm of the ratio of attention a token between reasoning and prompt that counts: a tenth more."""


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
    heads = joined(table("heads"), table("unrelated"))
    values = samples[score]
    means = mean_over_examples(values)
    top = rank_heads(means, k)
    headlines, looks = _masses(heads, seed)
    focus = verdict("A3", [], why="fewer than two traces")
    if len(values) >= 2:
        halves = split_half(head_array(heads, heads["answer_reasoning"]), values, k, options.random_sets, seed)
        headlines += halves
        focus = verdict("A3", [(halves[0], Sign.HIGHER)], least=[LEAST_FOCUS])
        if (beside := _behind_another_answer(heads, values, k, seed)) is not None:
            headlines.append(beside)
        chance = Estimate(k / int((~np.isnan(means)).sum()), 1)
        kept = stability(values, k, seed, score, resamples)
        headlines.append(Headline(f"share of the top {k} that a resample of the traces keeps", kept, "chance", chance))
    in_middle = in_middle_third(values, means, top, score, resamples, seed)
    moving, moves, stops = trajectories(heads, top, options.random_sets, seed)
    headlines += [in_middle, *moving]
    lines = [f"top heads (layer,head) by {score}: {_listed(top, means)}"]
    clear = top_heads(means, k, score)
    if len(clear) < k:
        many = f"only {len(clear)} of these top {k} score" if clear else f"none of these top {k} scores"
        lines.append(f"{many} higher than all heads left out: those that tie are the first by number")
    lists: dict[str, list[Head]] = {}
    where = in_layers(ranked_layers(samples), len(means))
    for kind in HeadKind:
        if kind in samples:
            means_of = mean_over_examples(samples[kind])
            lists[kind.value] = top_heads(means_of, k, kind)
            none = f"none above the floor{where}"
            lines.append(f"top {readable(kind)} heads: {_listed(lists[kind.value], means_of) or none}")
    middle = verdict("A3.middle", [(in_middle, Sign.HIGHER)], needs=focus)
    if not clear:
        middle = verdict("A3.middle", [], why=f"no head stands out by {score}")
    verdicts = [looks, focus, middle]
    verdicts += [
        _little_overlap(kind, top, lists.get(kind), where, focus) for kind in (HeadKind.INDUCTION, HeadKind.RETRIEVAL)
    ]
    verdicts += [verdict("A4", moves, needs=focus), verdict("A4.stops", stops, needs=focus)]
    overlaps = table("overlaps")
    for row in records(overlaps[overlaps["first"] == score]):
        if row["second"] in lists and row["n_second"]:
            lines.append(f"shared with the {readable(row['second'])} heads: {overlap_text(row)}")
    lines += _two_receivers(samples, k)
    recalled = (
        table("probes").dropna(subset="recalled").groupby("example", sort=False)["recalled"].first().astype(float)
    )
    if len(recalled):
        found = bootstrap_mean(recalled.to_numpy(), rng_for(seed, "recalled"))
        headlines.append(Headline("share of a needle's tokens that the model wrote", found))
    answers = table("answers")
    correct = answers["correct"].dropna().to_numpy(dtype=float)
    # Of given traces only those on the explorer's page are graded: their accuracy says nothing of all.
    if len(correct) and set(heads["example"]) <= set(answers["example"]):
        headlines.append(Headline("accuracy of the answers", binomial_estimate(int(correct.sum()), len(correct))))
    scores = [or_null(float(means[head])) for head in top]
    facts = HeadsFacts(score, top, scores, lists, list(options.reflection_words), len(values))
    return Findings(headlines, facts, lines, verdicts=verdicts)


def _two_receivers(samples: Mapping[str, Samples], k: int) -> list[str]:
    """How far the two definitions of receiver heads agree: by token (Paper B) and by sentence (thought-anchors)."""
    kinds = (HeadKind.RECEIVER, HeadKind.RECEIVER_SENTENCES)
    if not all(kind in samples for kind in kinds):
        return []
    by_token, by_sentence = (mean_over_examples(samples[kind]) for kind in kinds)
    known = ~(np.isnan(by_token) | np.isnan(by_sentence))
    if known.sum() < 3:
        return []
    rho = rank_correlation(by_token[known], by_sentence[known])
    tops = [top_heads(one, k, kind) for one, kind in zip((by_token, by_sentence), kinds, strict=True)]
    if np.isnan(rho) or not all(tops):
        return []
    shared = overlap(*tops)
    expected = len(tops[0]) * len(tops[1]) / int(known.sum())
    return [
        f"receiver heads by token and by sentence: rank correlation over heads {rho:+.2f}, {shared} of the top {k} "
        f"shared (by chance {expected:.1f})"
    ]


def in_middle_third(
    values: Samples, means: np.ndarray, top: list[Head], score: str, resamples: int, seed: int
) -> Headline:
    """How many of the top heads lie in the middle third, against as many drawn from all ranked heads."""
    middle, k = middle_third(len(means)), len(top)
    share = share_in_middle_layers(values, k, seed, score, resamples)
    ranked = ~np.isnan(means)
    inside = int(ranked[middle.start : middle.stop].sum())
    where = f"layers {middle.start}-{middle.stop - 1}" if len(middle) > 1 else f"layer {middle.start}"
    there = sum(head.layer in middle for head in top)
    return Headline(
        f"share of the top {k} in the middle third ({where})",
        share,
        "share of all heads",
        Estimate(inside / int(ranked.sum()), int(ranked.sum())),
        hypergeometric_comparison(there, k, inside, int(ranked.sum())),
    )


def _little_overlap(kind: HeadKind, top: list[Head], others: list[Head] | None, where: str, focus: Verdict) -> Verdict:
    """Whether fewer than half of the top heads are of another kind: shown by few shared ones, not by a test that finds
    no more than chance. `where`: the layers that were ranked, if not all."""
    claim = f"A3.{kind}"
    if not others:
        none = f"no {kind} head is above the floor{where}"
        return verdict(claim, [], why=f"{kind} heads were not looked for" if others is None else none)
    shared = overlap(top, others)
    number = Headline(
        f"share of the top {len(top)} that are {kind} heads",
        binomial_estimate(shared, len(top)),
        "half of them",
        Estimate(0.5, len(top)),
        binomial_comparison(shared, len(top), 0.5),
    )
    return verdict(claim, [(number, Sign.LOWER)], needs=focus)


def overlap_text(row: dict[str, Any]) -> str:
    """A row of overlaps.parquet in words."""
    p = f"p = {row['p']:.2g}, {row['p_adjusted']:.2g} after Benjamini-Hochberg"
    return f"{row['shared']} (by chance {row['expected']:.2f}, {p}, {row['p_within_layers']:.2g} within layers)"


def _listed(heads: list[Head], means: np.ndarray) -> str:
    return ", ".join(f"{head} {three_digits(float(means[head]))}" for head in heads)


def _masses(heads: pd.DataFrame, seed: int) -> tuple[list[Headline], Verdict]:
    """The mean mass from the answer to each segment, and whether the reasoning gets more than the prompt."""
    by_segment = masses_by_segment(heads)
    by_trace = heads.groupby("example", sort=False)
    even = by_trace["answer_reasoning_even"].first().to_numpy()
    headlines, to_reasoning = [], by_segment["answer_reasoning"].to_numpy()
    for s in Segment:
        values = by_segment[f"answer_{s}"].to_numpy()
        masses = bootstrap_mean(values, rng_for(seed, "mass", s))
        if s == Segment.REASONING:
            control = ("an even head", bootstrap_mean(even, rng_for(seed, "even")))
            compared = Comparison.paired(values, even, rng_for(seed, "mass", s, "even"))
            headlines.append(Headline(f"mass answer->{s}, all heads", masses, *control, compared))
        elif masses.n:
            headlines.append(Headline(f"mass answer->{s}, all heads", masses))
    raw = reasoning_or_prompt(to_reasoning, by_segment["answer_prompt"].to_numpy(), seed)
    of_token = by_trace[["answer_reasoning_per_token", "answer_prompt_per_token"]].mean().astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(of_token["answer_reasoning_per_token"] / of_token["answer_prompt_per_token"]).to_numpy()
    ratio = np.where(np.isfinite(ratio), ratio, np.nan)
    density = Headline(
        "log ratio of the attention that a token of the reasoning and of the prompt gets from the answer",
        bootstrap_mean(ratio, rng_for(seed, "density")),
        "an even head",
        Estimate(0.0, len(ratio)),
        Comparison.paired(ratio, 0.0, rng_for(seed, "density", "test")),
    )
    headlines.append(density)
    return headlines, verdict("A2", [(density, Sign.HIGHER), (raw, Sign.HIGHER)], least=[LEAST_DENSITY, LEAST_FOCUS])


def reasoning_or_prompt(
    reasoning: Float[np.ndarray, " trace"], prompt: Float[np.ndarray, " trace"], seed: int
) -> Headline:
    """Whether the reasoning gets more of the answer's attention than the prompt does."""
    return Headline(
        "mass answer->reasoning, all heads",
        bootstrap_mean(reasoning, rng_for(seed, "mass", Segment.REASONING)),
        "answer->prompt",
        bootstrap_mean(prompt, rng_for(seed, "mass", Segment.PROMPT)),
        Comparison.paired(reasoning, prompt, rng_for(seed, "reasoning or prompt")),
    )


def split_half(mass: Samples, values: Samples, k: int, random_sets: int, seed: int) -> list[Headline]:
    """Ranks on every other trace and measures on the rest, so that choosing the best does not flatter the result."""
    chosen = rank_heads(mean_over_examples(values[0::2]), k)
    again = rank_heads(mean_over_examples(values[1::2]), k)
    mass = mass[1::2]
    pool = [(int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(values).all(axis=0))]
    sets = relabelled([chosen], layers_of(pool), random_sets, rng_for(seed, "random heads"))
    own = mean_over(mass, chosen)
    drawn = [np.nanmean(mean_over(mass, [Head(*place) for place in one])) for (one,) in sets.heads]
    control, compared = among_draws(float(np.nanmean(own)), np.array(drawn))
    shared, n_ranked = overlap(chosen, again), int((~np.isnan(values[0])).sum())
    return [
        Headline(
            f"mass answer->reasoning, top {k} heads of the other half of the traces",
            bootstrap_mean(own, rng_for(seed, "top heads")),
            sets.named if control else None,
            control,
            compared,
        ),
        Headline(
            f"share of the top {k} heads that both halves of the traces agree on",
            binomial_estimate(shared, k),
            "expected by chance",
            Estimate(k / n_ranked, n_ranked),
            hypergeometric_comparison(shared, k, k, n_ranked),
        ),
    ]


def _behind_another_answer(heads: pd.DataFrame, values: np.ndarray, k: int, seed: int) -> Headline | None:
    """What the top heads of one half of the traces give the reasoning of the rest, beside what they give it when the
    answer is another question's; None where that was not measured."""
    if COLUMN not in heads:
        return None
    chosen = rank_heads(mean_over_examples(values[0::2]), k)
    own, other = (mean_over(head_array(heads, heads[name])[1::2], chosen) for name in ("answer_reasoning", COLUMN))
    return Headline(
        f"mass answer->reasoning, top {k} heads of the other half of the traces, their own answer",
        bootstrap_mean(own, rng_for(seed, "own answer")),
        "an answer to another question",
        bootstrap_mean(other, rng_for(seed, "another answer")),
        Comparison.paired(own, other, rng_for(seed, "own or another answer")),
    )
