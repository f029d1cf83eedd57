"""Scores and rankings, against the authors' own measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.errors import UserError
from interp.heads.ranking import middle_third
from interp.heads.scores import (
    Head,
    HeadScore,
    head_array,
    masses_by_segment,
    mean_over,
    overlap,
    rank_heads,
    score_values,
)
from interp.heads.unrelated import with_unrelated_answer
from interp.text.trace import Segment, Span, Trace

PUBLISHED_RFHS = [(16, 2), (1, 5), (19, 1), (12, 1), (16, 11), (23, 2), (14, 3), (19, 5), (20, 9), (16, 0)]
PUBLISHED_FIG_2 = {
    "bos": 0.151,
    "prompt": 0.032,
    "think": 0.001,
    "reasoning": 0.259,
    "end_think": 0.012,
    "answer": 0.545,
}


@pytest.fixture(scope="module")
def authors_heads(published_masses: Path) -> pd.DataFrame:
    """The authors' masses for R1-Distill-Qwen-1.5B in the form of heads.parquet."""
    with np.load(published_masses) as published:
        n, layers, heads = published["answer_reasoning"].shape
        example, layer, head = np.indices((n, layers, heads)).reshape(3, -1)
        columns = {name: published[name].astype(float).ravel() for name in published.files if "_" in name[6:]}
        columns |= {f"answer_{s}": published[f"answer_{s}"].astype(float).ravel() for s in Segment}
        return pd.DataFrame({"example": published["ids"][example], "layer": layer, "head": head, **columns})


def test_the_difference_score_gives_the_published_heads_in_order(authors_heads: pd.DataFrame) -> None:
    scores = head_array(authors_heads, score_values(authors_heads, HeadScore.DIFFERENCE)).mean(axis=0)
    assert rank_heads(scores, 10) == PUBLISHED_RFHS


def test_the_plain_mass_gives_eight_of_them(authors_heads: pd.DataFrame) -> None:
    scores = head_array(authors_heads, score_values(authors_heads, HeadScore.MASS)).mean(axis=0)
    top = rank_heads(scores, 10)
    assert overlap(top, [Head(*place) for place in PUBLISHED_RFHS]) == 8
    assert scores[top[0]] == pytest.approx(0.89, abs=0.005)


def test_figure_2_of_the_paper(authors_heads: pd.DataFrame) -> None:
    masses = masses_by_segment(authors_heads)
    assert len(masses) == 100
    for segment, published in PUBLISHED_FIG_2.items():
        assert masses[f"answer_{segment}"].mean() == pytest.approx(published, abs=0.0006)


LLAMA_8B = [(8, 11), (10, 31), (0, 22), (13, 6), (16, 1), (13, 18), (13, 5), (8, 9), (13, 4), (8, 1)]
QWEN_7B = [(16, 0), (19, 15), (14, 7), (1, 1), (17, 18), (22, 7), (17, 19), (17, 14), (16, 14), (14, 0)]


@pytest.mark.parametrize(
    ("heads", "n_layers", "inside", "p"),
    [(LLAMA_8B, 32, 6, 0.09), (QWEN_7B, 28, 7, 0.02), (PUBLISHED_RFHS, 28, 5, 0.19)],
)
def test_the_published_heads_in_the_middle_third(
    heads: list[tuple[int, int]], n_layers: int, inside: int, p: float
) -> None:
    """One-sided, against the share of layers, as `interp.runs.claims` says."""
    middle = middle_third(n_layers)
    assert sum(layer in middle for layer, _ in heads) == inside
    found = stats.binomtest(inside, 10, len(middle) / n_layers, alternative="greater").pvalue
    assert found == pytest.approx(p, abs=0.005)


def small_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "example": ["b", "b", "a", "a"],
            "layer": [0, 0, 0, 0],
            "head": [0, 1, 0, 1],
            "answer_reasoning": [0.6, 0.5, 0.4, 0.7],
            "answer_answer": [0.4, 0.1, 0.2, np.nan],
            "answer_reasoning_even": [0.5, 0.5, 0.3, 0.3],
            "answer_reasoning_per_token": [0.06, 0.05, 0.04, 0.07],
            "answer_prompt_per_token": [0.06, 0.025, 0.08, 0.07],
            "answer_focus": [0.5, 0.0, 1.0, 0.25],
            "answer_reasoning_unrelated": [0.1, 0.5, 0.3, 0.8],
        }
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (HeadScore.MASS, [0.6, 0.5, 0.4, 0.7]),
        (HeadScore.DIFFERENCE, [0.2, 0.4, 0.2, 0.7]),
        (HeadScore.EXCESS, [0.1, 0.0, 0.1, 0.4]),
        (HeadScore.PER_TOKEN, [0.06, 0.05, 0.04, 0.07]),
        (HeadScore.LOG_RATIO, [0.0, np.log(2), -np.log(2), 0.0]),
        (HeadScore.FOCUS, [0.5, 0.0, 1.0, 0.25]),
        (HeadScore.CONTENT, [0.5, 0.0, 0.1, -0.1]),
    ],
)
def test_scores_by_hand(score: HeadScore, expected: list[float]) -> None:
    assert score_values(small_frame(), score).tolist() == pytest.approx(expected)


def test_arrays_keep_the_order_of_examples() -> None:
    frame = small_frame()
    array = head_array(frame, frame["answer_reasoning"])
    assert array.tolist() == [[[0.6, 0.5]], [[0.4, 0.7]]]
    assert mean_over(array, [Head(0, 0), Head(0, 1)]).tolist() == pytest.approx([0.55, 0.55])


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan")]), min_size=6, max_size=6))
def test_ranking_is_best_first_and_stable(values: list[float]) -> None:
    scores = np.array(values).reshape(2, 3)
    ranked = rank_heads(scores, 6)
    assert sorted(ranked) == [(layer, head) for layer in range(2) for head in range(3)]
    keys = [(-np.inf if np.isnan(scores[h]) else scores[h], -h.layer, -h.head) for h in ranked]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.parametrize("k", [0, 7])
def test_more_heads_than_there_are(k: int) -> None:
    with pytest.raises(UserError, match="between 1 and 6"):
        rank_heads(np.zeros((2, 3)), k)


def lettered(example: str, reasoning: str, answer: str) -> Trace:
    """A trace of one token a letter."""
    parts = ("", "p", "[", reasoning, "]", answer)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    spans = tuple(Span(s, end - len(part), end) for s, end, part in zip(Segment, ends, parts, strict=True))
    text = "".join(parts)
    return Trace(example, text, tuple(map(ord, text)), tuple((i, i + 1) for i in range(len(text))), spans, "made")


def test_an_answer_to_another_question_takes_the_place_of_a_traces_own() -> None:
    traces = [lettered("a", "xyz", "fghij"), lettered("b", "xy", "kl"), lettered("c", "x", "mno")]

    def answers(some: list[Trace]) -> list[str | None]:
        found = [with_unrelated_answer(some, i) for i in range(len(some))]
        return ["".join(map(chr, one.token_ids)) if one else None for one in found]

    assert answers(traces) == ["p[xyz]klmno", "p[xy]mn", "p[x]fgh"]
    assert answers([traces[0], traces[1]]) == ["p[xyz]klklk", "p[xy]fg"]
    assert answers([traces[0], lettered("d", "x", "fghij")]) == [None, None]
    assert answers(traces[:1]) == [None]
