"""Attention masses that somebody published, head by head, beside those of runs on the same traces (Paper A, Fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from interp.errors import UserError
from interp.heads.ranking import Samples, mean_over_examples, overlap_rows, resampled_means
from interp.heads.scores import head_array, rank_heads
from interp.runs.headlines import Headline
from interp.stats import CONFIDENCE, Estimate, rng_for

RESAMPLES = 1000
LISTS = (10, 20)
"""Sizes of the lists of top heads that are compared."""
NEEDED = ("ids", "answer_reasoning", "answer_answer")


@dataclass(frozen=True)
class Published:
    """Masses of every head by trace, `<source>_<destination>`."""

    ids: tuple[str, ...]
    reasoning: Samples
    answer: Samples

    @property
    def difference(self) -> Samples:
        """The authors' score of Reasoning-Focus Heads."""
        return self.reasoning - self.answer


def load_published(path: str) -> Published:
    """Reads a NumPy archive with `ids` and masses of shape (trace, layer, head). Raises UserError for anything else."""
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as archive:
            missing = [name for name in NEEDED if name not in archive]
            if missing:
                raise UserError(f"{path} has no {', '.join(missing)}: published masses need {', '.join(NEEDED)}")
            ids = tuple(str(one) for one in archive["ids"])
            reasoning, answer = (archive[name].astype(float) for name in NEEDED[1:])
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise UserError(f"cannot read published masses from {path}: {error}") from error
    if reasoning.ndim != 3 or reasoning.shape != answer.shape or len(reasoning) != len(ids):
        raise UserError(f"{path}: masses must have the shape (trace, layer, head), one for each of {len(ids)} ids")
    return Published(ids, reasoning, answer)


def beside_published(label: str, heads: pd.DataFrame, published: Published) -> tuple[list[Headline], list[dict]]:
    """Correlations over heads of mean masses on the traces that both have, and the overlap of the top heads.

    A trace of the run is a published one if the published id is a part of its own, between slashes. Intervals:
    bootstrap over the traces, both sides drawn together. `within layers`: layer means taken away first, since two
    profiles of layers correlate whatever the heads do.

    Raises:
        UserError: another shape of model, or fewer than two traces in both.
    """
    rows, theirs = _shared(label, heads, published)
    ours = {
        "answer->reasoning": head_array(rows, rows["answer_reasoning"].astype(float)),
        "answer->answer": head_array(rows, rows["answer_answer"].astype(float)),
    }
    ours["difference"] = ours["answer->reasoning"] - ours["answer->answer"]
    if ours["difference"].shape[1:] != published.difference.shape[1:]:
        here, there = ("{} x {}".format(*one.shape[1:]) for one in (ours["difference"], published.difference))
        raise UserError(f"{label} has {here} heads and the published model {there}: they do not correspond")
    published_by = {
        "answer->reasoning": published.reasoning[theirs],
        "answer->answer": published.answer[theirs],
        "difference": published.difference[theirs],
    }
    headlines = []
    for name, samples in ours.items():
        pairs = list(_paired_means(samples, published_by[name]))
        for how, measure in (("", _pearson), (", within layers", _within_layers), (", ranks", _spearman)):
            values = [measure(*pair) for pair in pairs]
            headlines.append(Headline(f"{label} with published {name}{how}", _estimate(values, len(theirs))))
    means = [mean_over_examples(one["difference"]) for one in (ours, published_by)]
    overlaps = []
    for k in LISTS:
        if k <= means[0].size // 2:
            lists = {f"{label}: top {k}": rank_heads(means[0], k), f"published: top {k}": rank_heads(means[1], k)}
            overlaps += overlap_rows(lists, means[0].size, means[0].shape[1])
    return headlines, overlaps


def _shared(label: str, heads: pd.DataFrame, published: Published) -> tuple[pd.DataFrame, list[int]]:
    """The rows of the traces that both have, and their places among the published ones, in the same order."""
    place = {one: i for i, one in enumerate(published.ids)}
    found = {str(example): _place(str(example), place) for example in heads["example"].unique()}
    known = {example: i for example, i in found.items() if i is not None}
    if len(set(known.values())) < len(known):
        raise UserError(f"{label} measured a published trace several times: choose one model and condition of them")
    if len(known) < 2:
        raise UserError(f"{label} has {len(known)} of the {len(place)} published traces: at least two are needed")
    return heads[heads["example"].astype(str).isin(list(known))], list(known.values())


def _place(example: str, place: dict[str, int]) -> int | None:
    parts = example.split("/")
    parts_of = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return next((place[part] for part in parts_of if part in place), None)


Means = Float[np.ndarray, "layer head"]


def _paired_means(ours: Samples, theirs: Samples) -> list[tuple[Means, Means]]:
    """Means over the traces, then over resamples of them, the same for both sides."""
    both = np.concatenate([ours, theirs], axis=1)  # along layers: drawn together
    drawn = resampled_means(both, rng_for(0, "published"), RESAMPLES)
    split = ours.shape[1]
    return [(one[:split], one[split:]) for one in (mean_over_examples(both), *drawn)]


def _estimate(values: list[float], n: int) -> Estimate:
    """The first value, with the middle 95 % of the others."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return Estimate(values[0], n, float(low), float(high))


def _pearson(ours: Means, theirs: Means) -> float:
    return float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])


def _within_layers(ours: Means, theirs: Means) -> float:
    return _pearson(ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean(axis=1, keepdims=True))


def _spearman(ours: Means, theirs: Means) -> float:
    return float(stats.spearmanr(ours.ravel(), theirs.ravel()).statistic)
