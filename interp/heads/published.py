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
from interp.heads.findings import LEAST_FOCUS, in_middle_third, reasoning_or_prompt, split_half
from interp.heads.ranking import Samples, mean_over_examples, overlap_rows, resampled_means, top_heads
from interp.heads.scores import HeadScore, head_array, rank_heads, usual_count
from interp.runs.headlines import Headline
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import around, rng_for

RESAMPLES = 1000
RANDOM_SETS = 200
Means = Float[np.ndarray, "layer head"]
LISTS = (10, 20)
"""Sizes of the lists of top heads that are compared."""
NEEDED = ("ids", "answer_reasoning", "answer_answer")


@dataclass(frozen=True)
class Published:
    """Masses of every head by trace, `<source>_<destination>`."""

    ids: tuple[str, ...]
    reasoning: Samples
    answer: Samples
    prompt: Samples | None
    """None where it was not published."""


def load_published(path: str) -> Published:
    """Reads a NumPy archive with `ids` and masses of shape (trace, layer, head). Raises UserError for anything else."""
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as archive:
            missing = [name for name in NEEDED if name not in archive]
            if missing:
                raise UserError(f"{path} has no {', '.join(missing)}: published masses need {', '.join(NEEDED)}")
            ids = tuple(str(one) for one in archive["ids"])
            reasoning, answer = (archive[name].astype(float) for name in NEEDED[1:])
            prompt = archive["answer_prompt"].astype(float) if "answer_prompt" in archive else None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise UserError(
            f"cannot read published masses from {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if reasoning.ndim != 3 or reasoning.shape != answer.shape or len(reasoning) != len(ids):
        raise UserError(f"{path}: masses must have the shape (trace, layer, head), one for each of {len(ids)} ids")
    if prompt is not None and prompt.shape != reasoning.shape:
        raise UserError(f"{path}: answer_prompt has another shape than answer_reasoning")
    return Published(ids, reasoning, answer, prompt)


def published_verdicts(published: Published, seed: int) -> tuple[list[Headline], list[Verdict]]:
    """What published masses say by themselves of A2, raw, and A3, by the numbers and random sets of a run's."""
    values = published.reasoning - published.answer
    k = usual_count(values[0].size)
    means = mean_over_examples(values)
    headlines, verdicts = [], []
    if published.prompt is not None:
        reasoning, prompt = (masses.mean((1, 2)) for masses in (published.reasoning, published.prompt))
        headlines.append(reasoning_or_prompt(reasoning, prompt, seed))
        verdicts.append(verdict("A2", [(headlines[-1], Sign.HIGHER)], least=[LEAST_FOCUS]))
    if len(values) < 2:
        return headlines, verdicts
    halves = split_half(published.reasoning, values, k, RANDOM_SETS, seed)
    focus = verdict("A3", [(halves[0], Sign.HIGHER)], least=[LEAST_FOCUS])
    middle = in_middle_third(values, means, rank_heads(means, k), HeadScore.DIFFERENCE, RESAMPLES, seed)
    verdicts += [focus, verdict("A3.middle", [(middle, Sign.HIGHER)], needs=focus)]
    return [*headlines, *halves, middle], verdicts


def beside_published(label: str, heads: pd.DataFrame, published: Published) -> tuple[list[Headline], list[dict]]:
    """Correlations over heads between a run's mean masses and published ones, and the overlap of the top heads.

    Each side's means are over all its traces, and its traces are resampled apart from the other's; `same traces`: over
    those that both have, drawn together. A trace of the run is a published one if the published id is a part of its
    own, between slashes. `within layers`: layer means taken away first, since two profiles of layers correlate whatever
    the heads do.

    Raises:
        UserError: another shape of model.
    """
    ours = _by_name(*(head_array(heads, heads[name].astype(float)) for name in NEEDED[1:]))
    theirs = _by_name(published.reasoning, published.answer)
    if ours["difference"].shape[1:] != theirs["difference"].shape[1:]:
        here, there = ("{} x {}".format(*one["difference"].shape[1:]) for one in (ours, theirs))
        raise UserError(f"{label} has {here} heads and the published model {there}: they do not correspond")
    headlines = []
    for name, samples in ours.items():
        pairs = list(zip(_means(samples, "run"), _means(theirs[name], "published"), strict=True))
        headlines += _correlations(f"{label} with published {name}", pairs, len(samples))
    mine, places = _shared(label, list(heads["example"].unique()), published)
    if len(mine) >= 2:
        both = np.concatenate([ours["difference"][mine], theirs["difference"][places]], axis=1)  # along layers
        split = both.shape[1] // 2
        pairs = [(one[:split], one[split:]) for one in _means(both, "both")]
        headlines += _correlations(f"{label} with published difference, same traces", pairs, len(mine))
    means = [mean_over_examples(one["difference"]) for one in (ours, theirs)]
    overlaps = []
    for k in LISTS:
        if k <= means[0].size // 2:
            lists = {
                f"{of}: top {k}": top_heads(one, k, HeadScore.DIFFERENCE)
                for of, one in zip((label, "published"), means, strict=True)
            }
            overlaps += overlap_rows(lists, means[0].size, means[0].shape[1])
    return headlines, overlaps


def _by_name(reasoning: Samples, answer: Samples) -> dict[str, Samples]:
    return {"answer->reasoning": reasoning, "answer->answer": answer, "difference": reasoning - answer}


def _correlations(name: str, pairs: list[tuple[Means, Means]], n: int) -> list[Headline]:
    ways = (("", _pearson), (", within layers", _within_layers), (", ranks", _spearman))
    return [
        Headline(f"{name}{how}", around(own, np.array(drawn), n))
        for how, measure in ways
        for own, *drawn in [[measure(*pair) for pair in pairs]]
    ]


def _shared(label: str, examples: list[str], published: Published) -> tuple[list[int], list[int]]:
    """Places of the traces that both have, among the run's and among the published ones."""
    place = {one: i for i, one in enumerate(published.ids)}
    found = {i: there for i, one in enumerate(examples) if (there := _place(str(one), place)) is not None}
    if len(set(found.values())) < len(found):
        raise UserError(f"{label} measured a published trace several times: choose one model and condition of them")
    return list(found), list(found.values())


def _place(example: str, place: dict[str, int]) -> int | None:
    parts = example.split("/")
    parts_of = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return next((place[part] for part in parts_of if part in place), None)


def _means(samples: Samples, *labels: str) -> list[Means]:
    """Means over the traces, then over resamples of them."""
    drawn = resampled_means(samples, rng_for(0, "published", *labels), RESAMPLES)
    return [mean_over_examples(samples), *drawn]


def _pearson(ours: Means, theirs: Means) -> float:
    return float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])


def _within_layers(ours: Means, theirs: Means) -> float:
    return _pearson(ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean(axis=1, keepdims=True))


def _spearman(ours: Means, theirs: Means) -> float:
    return float(stats.spearmanr(ours.ravel(), theirs.ravel()).statistic)
