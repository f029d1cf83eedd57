"""Rankings of heads with their uncertainty over examples, where in the network they sit, and how lists overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from interp.errors import UserError
from interp.heads.scores import Head, HeadScore, head_array, rank_heads, score_values
from interp.runs.columns import BOOL, FLOAT, INT, TEXT, Column, Table, ends
from interp.stats import FEWEST, Estimate, adjust, around, or_null, rng_for, wide_enough

RANKING_TABLE = Table(
    "ranking",
    Column("kind", TEXT, "what heads are ranked by: a score of RFHs, or another kind of head"),
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
    Column("value", FLOAT, "mean over examples", null="no example has a value"),
    *ends("", "its 95 % bootstrap interval over examples", null=f"fewer than {FEWEST} examples"),
    Column("n", INT, "number of examples with a value"),
    Column("rank", INT, "place in the ranking, from 1"),
    Column("top", BOOL, "whether it is one of the top k, above the kind's floor and above every head that is not"),
    Column(
        "inclusion",
        FLOAT,
        "share of bootstrap resamples with it in the top k and above every head that is not",
        null="fewer than two examples",
    ),
)
LAYERS_TABLE = Table(
    "layers",
    Column("kind", TEXT, "as in `ranking`"),
    Column("measure", TEXT, "`mean` over the layer's heads, or `top_share`: share of the top k that lie in it"),
    Column("layer", INT, "layer, from 0"),
    Column("value", FLOAT, "mean over examples", null="no head of the layer has a value"),
    *ends("", "its 95 % bootstrap interval over examples", null=f"as `value`, or fewer than {FEWEST} examples"),
    Column("n", INT, "number of examples"),
)
OVERLAPS_TABLE = Table(
    "overlaps",
    Column("first", TEXT, "a list of heads: a kind of this run, or run and kind"),
    Column("second", TEXT, "another one"),
    Column("n_first", INT, "heads in the first, of those that the second could hold"),
    Column("n_second", INT, "heads in the second, of those that the first could hold"),
    Column("n_heads", INT, "heads that could be in both: of the layers that were ranked"),
    Column("shared", INT, "heads in both"),
    Column("expected", FLOAT, "the same by chance"),
    Column("p", FLOAT, "hypergeometric probability of so many or more by chance", null="a list is empty"),
    Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the table", null="a list is empty"),
    Column(
        "p_within_layers",
        FLOAT,
        "the same as p if each list kept as many heads in every layer: lists that prefer the same layers share heads",
        null="a list is empty",
    ),
)


class HeadKind(StrEnum):
    """What else heads are ranked by, beside the scores of Reasoning-Focus Heads."""

    TRAJECTORY = "trajectory"
    """How far the attended reasoning position moves along with the answer (interp/heads/trajectories.py)."""
    RECEIVER = "receiver"
    """Kurtosis of the attention that tokens receive: Paper B's version by token."""
    RECEIVER_SENTENCES = "receiver_sentences"
    """The same by sentence, as thought-anchors defines receiver heads (Bogdan et al. 2025)."""
    INDUCTION = "induction"
    """TransformerLens' head detector on repeated sequences."""
    RETRIEVAL = "retrieval"
    """Copy-paste score on needles in haystacks (Wu et al. 2024)."""


TIED = 1e-6
"""Scores closer than this, relative to the largest, are one score: attention has float32's digits."""
FLOOR = {HeadKind.INDUCTION: 0.1, HeadKind.RETRIEVAL: 0.1}
"""Heads below are not called so, even among the top k: a model may have none. Wu et al. use .1 for retrieval heads."""
COLUMNS = {
    HeadKind.TRAJECTORY: "trajectory",
    HeadKind.RECEIVER: "kurtosis",
    HeadKind.RECEIVER_SENTENCES: "kurtosis_sentences",
}

NEEDS = {
    HeadScore.LOG_RATIO: "answer_prompt_per_token",
    HeadScore.FOCUS: "answer_focus",
    HeadScore.CONTENT: "answer_reasoning_unrelated",
}
"""Columns of heads.parquet that not every run has."""

Samples = Float[np.ndarray, "example layer head"]


def scores_in(heads: pd.DataFrame) -> list[HeadScore]:
    """The scores of Reasoning-Focus Heads whose columns are there."""
    return [score for score in HeadScore if NEEDS.get(score, "answer_reasoning") in heads]


def samples_by_kind(heads: pd.DataFrame, probes: pd.DataFrame, layers: Sequence[int]) -> dict[str, Samples]:
    """For each kind of head that was measured, one value an example (or probe prompt) and head.

    Heads outside `layers` have NaN: they take no part in rankings.
    """
    found: dict[str, Samples] = {
        score.value: head_array(heads, score_values(heads, score)) for score in scores_in(heads)
    }
    for kind, column in COLUMNS.items():
        if column in heads:
            found[kind.value] = head_array(heads, heads[column].astype(float))
    for kind_name, rows in probes.groupby("kind", sort=False):
        found[str(kind_name)] = head_array(rows, rows["value"])
    inside = {kind: within_layers(samples, layers) for kind, samples in found.items()}
    return {kind: samples for kind, samples in inside.items() if not np.isnan(samples).all()}


def within_layers(samples: Samples, layers: Sequence[int]) -> Samples:
    """The samples with NaN for heads of other layers."""
    chosen = np.isin(np.arange(samples.shape[1]), layers)
    return np.where(chosen[None, :, None], samples, np.nan)


def ranked_layers(samples: Mapping[str, Samples]) -> list[int]:
    """The layers in which heads have a value of any kind."""
    return sorted({int(layer) for one in samples.values() for layer in np.flatnonzero(~np.isnan(one).all(axis=(0, 2)))})


def mean_over_examples(samples: Samples) -> Float[np.ndarray, "layer head"]:
    """Mean over the examples that have a value; NaN for a head that has none."""
    return _weighted_means(samples, np.ones((1, len(samples))))[0]


def _weighted_means(
    samples: Samples, weights: Float[np.ndarray, "draw example"]
) -> Float[np.ndarray, "draw layer head"]:
    flat = samples.reshape(len(samples), -1)
    known = ~np.isnan(flat)
    with np.errstate(invalid="ignore"):
        means = weights @ np.where(known, flat, 0.0) / (weights @ known)
    return means.reshape(len(weights), *samples.shape[1:])


def resampled_means(samples: Samples, rng: np.random.Generator, resamples: int) -> Float[np.ndarray, "draw layer head"]:
    """Every head's mean in bootstrap resamples of the examples, all heads resampled together."""
    n = len(samples)
    return _weighted_means(samples, rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float))


def top_heads(scores: Float[np.ndarray, "layer head"], k: int, kind: str) -> list[Head]:
    """The top k, without heads that have no value, lie below the kind's floor, or score like one that is left out:
    which of those came first would be decided by their numbers. None at all where all heads score alike."""
    member = _in_top(scores[None], k)[0]
    return [head for head in best_heads(scores, k, kind) if member[head]]


def best_heads(scores: Float[np.ndarray, "layer head"], k: int, kind: str) -> list[Head]:
    """The first k to be cut, ties by layer, then head: without heads that have no value or lie below the kind's floor,
    and none at all where all heads score alike."""
    known = scores[~np.isnan(scores)]
    if not len(known) or (scores.size > k and np.ptp(known) <= TIED * np.abs(known).max()):
        return []
    floor = FLOOR.get(HeadKind(kind), -np.inf) if kind in set(HeadKind) else -np.inf
    return [head for head in rank_heads(scores, k) if scores[head] >= floor]


def ranking_rows(samples: Samples, kind: str, k: int, seed: int, resamples: int) -> list[dict[str, Any]]:
    """The rows of ranking.parquet for one kind: mean, interval, rank and how often a head stays in the top k."""
    means = mean_over_examples(samples)
    chosen = set(top_heads(means, k, kind))
    ranked = rank_heads(means, means.size)
    counts = (~np.isnan(samples)).sum(axis=0)
    low = high = inclusion = None
    if len(samples) >= 2:
        drawn = resampled_means(samples, rng_for(seed, "ranking", kind), resamples)
        low, high = _interval(drawn, len(samples))
        inclusion = _in_top(drawn, k).mean(axis=0)
    return [
        {
            "kind": kind,
            "layer": head.layer,
            "head": head.head,
            "value": or_null(means[head]),
            "low": None if low is None else or_null(low[head]),
            "high": None if high is None else or_null(high[head]),
            "n": int(counts[head]),
            "rank": rank,
            "top": head in chosen,
            "inclusion": None if inclusion is None else float(inclusion[head]),
        }
        for rank, head in enumerate(ranked, start=1)
    ]


def _interval(drawn: Float[np.ndarray, "draw ..."], n: int) -> tuple[np.ndarray, np.ndarray]:
    """NaN where there is none, as for `bootstrap_mean`."""
    known = ~np.isnan(drawn).all(axis=0) & (n >= FEWEST)
    tail = (1 - wide_enough(max(n, 2))) / 2
    low, high = np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(drawn[:, known], [tail, 1 - tail], axis=0)
    return low, high


def _in_top(drawn: Float[np.ndarray, "draw layer head"], k: int) -> Bool[np.ndarray, "draw layer head"]:
    """Whether each is one of the k largest of its draw, and larger than all others."""
    flat = np.nan_to_num(drawn.reshape(len(drawn), -1), nan=-np.inf)
    known = np.isfinite(flat)
    if k >= flat.shape[1]:
        return known.reshape(drawn.shape)
    beyond = -np.partition(-flat, k, axis=1)[:, k, None]  # the largest that is left out
    scale = np.where(known, np.abs(flat), 0.0).max(axis=1, keepdims=True)
    return (known & (flat > beyond + TIED * scale)).reshape(drawn.shape)


def stability(samples: Samples, k: int, seed: int, kind: str, resamples: int) -> Estimate:
    """Share of the top k that a bootstrap resample of the examples keeps, on average."""
    chosen = rank_heads(mean_over_examples(samples), k)
    drawn = resampled_means(samples, rng_for(seed, "ranking", kind), resamples)
    kept = _in_top(drawn, k)[:, [h.layer for h in chosen], [h.head for h in chosen]]
    return Estimate(float(kept.mean()), len(samples))


def middle_third(n_layers: int) -> range:
    """Layers floor(L/3) to floor(2L/3) - 1, but at least one."""
    start = n_layers // 3
    return range(start, max(start + 1, 2 * n_layers // 3))


def share_in_middle_layers(samples: Samples, k: int, seed: int, kind: str, resamples: int) -> Estimate:
    """Share of the top k heads that sit in the middle third of the layers, with an interval over resamples."""
    middle = list(middle_third(samples.shape[1]))
    chosen = rank_heads(mean_over_examples(samples), k)
    share = float(np.mean([head.layer in middle for head in chosen]))
    if len(samples) < 2:
        return Estimate(share, len(samples))
    drawn = resampled_means(samples, rng_for(seed, "ranking", kind), resamples)
    return around(share, _in_top(drawn, k)[:, middle].sum(axis=(1, 2)) / k, len(samples))


def layer_rows(samples: Samples, kind: str, k: int, seed: int, resamples: int) -> list[dict[str, Any]]:
    """The rows of layers.parquet for one kind: by layer the mean over heads and the share of the top k heads, of
    layers that have a head with a value."""
    means = mean_over_examples(samples)
    ranked = ~np.isnan(means).all(axis=1)
    n, (n_layers, _) = len(samples), means.shape
    drawn = resampled_means(samples, rng_for(seed, "ranking", kind), resamples) if n >= 2 else means[None]
    with np.errstate(all="ignore"):
        # A layer without any known head has no mean.
        by_measure = {
            "mean": (_nanmean(means[None])[0], _nanmean(drawn)),
            "top_share": tuple(
                np.where(ranked, shares, np.nan)
                for shares in (_in_top(means[None], k).sum(axis=2)[0] / k, _in_top(drawn, k).sum(axis=2) / k)
            ),
        }
    rows = []
    for measure, (values, resampled) in by_measure.items():
        low, high = _interval(resampled, n)
        rows += [
            {
                "kind": kind,
                "measure": measure,
                "layer": layer,
                "value": or_null(values[layer]),
                "low": or_null(low[layer]),
                "high": or_null(high[layer]),
                "n": n,
            }
            for layer in range(n_layers)
        ]
    return rows


def _nanmean(values: Float[np.ndarray, "draw layer head"]) -> Float[np.ndarray, "draw layer"]:
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(axis=2) / np.where(known.any(axis=2), known.sum(axis=2), np.nan)


def overlap_rows(lists: Mapping[str, Sequence[Head]], n_heads: int, per_layer: int) -> list[dict[str, Any]]:
    """Every pair of lists: how many heads they share, and whether that is more than chance.

    `p`: hypergeometric, one-sided: so many or more shared if the second list were drawn from all `n_heads` heads;
    `p_adjusted`: Benjamini-Hochberg over the pairs. `p_within_layers`: the second list drawn anew within its layers of
    `per_layer` heads each. Pairs with an empty list have none of them.
    """
    rows: list[dict[str, Any]] = []
    for first, second in combinations(lists, 2):
        a, b = set(lists[first]), set(lists[second])
        if len(a | b) > n_heads:
            raise UserError(f"{first} and {second} name more heads than the model's {n_heads}")
        shared = len(a & b)
        p = float(stats.hypergeom.sf(shared - 1, n_heads, len(a), len(b))) if a and b else None
        expected = len(a) * len(b) / n_heads
        row = {"first": first, "second": second, "n_first": len(a), "n_second": len(b), "n_heads": n_heads}
        within = _p_within_layers(a, b, per_layer) if a and b else None
        rows.append({**row, "shared": shared, "expected": expected, "p": p, "p_within_layers": within})
    adjust(rows)
    return rows


def _p_within_layers(a: Set[Head], b: Set[Head], per_layer: int) -> float:
    """Probability of sharing so many or more: the shared heads of the layers are independent hypergeometric numbers."""
    chances = np.ones(1)
    for layer in {head.layer for head in a} & {head.layer for head in b}:
        n_a, n_b = (sum(head.layer == layer for head in heads) for heads in (a, b))
        chances = np.convolve(chances, stats.hypergeom.pmf(np.arange(min(n_a, n_b) + 1), per_layer, n_a, n_b))
    return float(min(1.0, chances[len(a & b) :].sum()))
