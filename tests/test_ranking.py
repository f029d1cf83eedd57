"""Rankings under resampling, layers, overlaps."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.heads.compare import compare
from interp.heads.ranking import (
    best_heads,
    layer_rows,
    mean_over_examples,
    middle_third,
    overlap_rows,
    ranking_rows,
    samples_by_kind,
    share_in_middle_layers,
    stability,
    top_heads,
)
from interp.heads.scores import Head
from interp.runs.compared import Asked, Run


def steady(n: int = 20, noise: float = 0.0) -> np.ndarray:
    """(example, 6 layers, 2 heads): heads of layers 2 and 3 are best, (3,1) before all."""
    values = np.zeros((6, 2))
    values[2], values[3] = [0.5, 0.6], [0.4, 0.9]
    return values + noise * np.random.default_rng(0).normal(size=(n, 6, 2))


def test_a_clear_ranking_is_stable() -> None:
    rows = pd.DataFrame(ranking_rows(steady(noise=0.01), "mass", 4, 0, 200))
    assert rows["rank"].tolist() == list(range(1, 13))
    top = rows[rows["top"]]
    assert list(zip(top["layer"], top["head"], strict=True)) == [(3, 1), (2, 1), (2, 0), (3, 0)]
    assert (top["inclusion"] == 1).all()
    assert (rows["inclusion"].sum()) == pytest.approx(4)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    assert stability(steady(noise=0.01), 4, 0, "mass", 200).value == 1
    share = share_in_middle_layers(steady(noise=0.01), 4, 0, "mass", 200)
    assert (share.value, share.low) == (1, None), "the same in every resample: nothing is known of other traces"


def test_noise_is_told_as_noise() -> None:
    noise = np.random.default_rng(0).normal(size=(10, 8, 8))
    assert stability(noise, 6, 0, "mass", 300).value < 0.75
    rows = pd.DataFrame(ranking_rows(noise, "mass", 6, 0, 300))
    assert rows["inclusion"].max() < 1
    # Student's t with nine degrees of freedom
    assert (rows["high"] - rows["low"]).mean() == pytest.approx(2 * 2.26 / np.sqrt(10), rel=0.1)


def test_one_example_has_no_interval() -> None:
    rows = ranking_rows(steady(1), "mass", 2, 0, 50)
    assert {rows[0]["low"], rows[0]["high"], rows[0]["inclusion"]} == {None}
    assert {row["low"] for row in layer_rows(steady(1), "mass", 2, 0, 50)} == {None}


def test_examples_without_a_value_are_left_out() -> None:
    values = steady(4)
    values[0, 3, 1] = np.nan
    values[:, 0, 0] = np.nan
    assert mean_over_examples(values)[3, 1] == pytest.approx(0.9)
    rows = pd.DataFrame(ranking_rows(values, "trajectory", 2, 0, 50)).set_index(["layer", "head"])
    assert rows.loc[(3, 1), "n"] == 3
    assert pd.isna(rows.loc[(0, 0), "value"])
    assert not rows.loc[(0, 0), "top"]


def test_layers_by_hand() -> None:
    rows = pd.DataFrame(layer_rows(steady(), "mass", 4, 0, 50))
    means = rows[rows["measure"] == "mean"].set_index("layer")["value"]
    assert means.tolist() == pytest.approx([0, 0, 0.55, 0.65, 0, 0])
    share = rows[rows["measure"] == "top_share"].set_index("layer")["value"]
    assert share.tolist() == pytest.approx([0, 0, 0.5, 0.5, 0, 0])


def test_layers_that_are_not_ranked_have_no_share_of_the_top_heads() -> None:
    values = steady()
    values[:, :2] = np.nan
    rows = pd.DataFrame(layer_rows(values, "mass", 4, 0, 50)).set_index(["measure", "layer"])
    assert rows.loc["top_share"]["value"].isna().tolist() == [True, True, False, False, False, False]
    assert rows.loc["top_share"]["low"].isna().tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("layers", "expected"), [(28, range(9, 18)), (4, range(1, 2)), (1, range(0, 1)), (2, range(0, 1))]
)
def test_middle_third(layers: int, expected: range) -> None:
    assert middle_third(layers) == expected


def test_heads_below_the_floor_are_not_called_so() -> None:
    scores = np.array([[0.5, 0.09], [0.2, 0.0]])
    assert top_heads(scores, 3, "induction") == [Head(0, 0), Head(1, 0)]
    assert top_heads(scores, 3, "mass") == [Head(0, 0), Head(1, 0), Head(0, 1)]


def test_heads_that_tie_with_one_left_out_are_no_top_heads() -> None:
    """Their numbers would decide, and the first heads of any two models have the same numbers."""
    scores = np.array([[0.0, 0.5, 0.2], [0.2, 0.2, 0.9]])
    assert top_heads(scores, 2, "mass") == [Head(1, 2), Head(0, 1)]
    assert top_heads(scores, 3, "mass") == top_heads(scores, 4, "mass") == [Head(1, 2), Head(0, 1)]
    assert len(top_heads(scores, 5, "mass")) == 5
    assert len(top_heads(scores, 6, "mass")) == 6, "none is left out"
    assert top_heads(np.zeros((2, 3)), 2, "content") == best_heads(np.zeros((2, 3)), 2, "content") == []
    assert best_heads(scores, 3, "mass") == [Head(1, 2), Head(0, 1), Head(0, 2)], "what is cut may be one of several"
    assert top_heads(np.full((2, 3), np.nan), 2, "receiver") == []
    rows = pd.DataFrame(ranking_rows(np.zeros((7, 2, 3)), "content", 2, 0, 20))
    assert not rows["top"].any()
    assert (rows["inclusion"] == 0).all(), "no resample tells them apart either"


def test_overlap_by_hand() -> None:
    """Two lists of 2 and 3 of 10 heads that share 2: 8 of the 120 ways to draw 3 contain both."""
    lists = {"a": [Head(0, 0), Head(0, 1)], "b": [Head(0, 1), Head(0, 0), Head(0, 5)], "none": []}
    rows = {(row["first"], row["second"]): row for row in overlap_rows(lists, 10, 10)}
    row = rows["a", "b"]
    assert (row["shared"], row["expected"]) == (2, pytest.approx(0.6))
    assert row["p"] == row["p_within_layers"] == pytest.approx(8 / comb(10, 3)), "there is one layer"
    assert row["p_adjusted"] == row["p"], "one pair with a p-value"
    assert rows["a", "none"]["p"] is None


def test_p_values_of_random_heads_are_uniform() -> None:
    """Not more than one in twenty is below .05; the discrete test is conservative."""
    generator = np.random.default_rng(0)
    all_heads = [Head(layer, head) for layer in range(16) for head in range(16)]
    p = []
    for _ in range(500):
        a, b = ([all_heads[i] for i in generator.choice(256, 40, replace=False)] for _ in range(2))
        p.append(overlap_rows({"a": a, "b": b}, 256, 16)[0]["p"])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) < level + 3 * np.sqrt(level * (1 - level) / 500)
    assert np.mean(np.array(p) <= 0.5) > 0.25


def test_only_what_was_measured_is_ranked() -> None:
    heads = pd.DataFrame(
        {
            "example": ["a", "a"], "layer": [0, 0], "head": [0, 1], "answer_reasoning": [0.6, 0.5],
            "answer_answer": [0.1, 0.2], "answer_reasoning_even": [0.5, 0.5],
            "answer_reasoning_per_token": [0.06, 0.05], "trajectory": [None, None], "kurtosis": [3.0, None],
        }
    )  # fmt: skip
    probes = pd.DataFrame(
        {"example": ["p"] * 2, "kind": ["induction"] * 2, "layer": [0, 0], "head": [0, 1], "value": [0.2, 0.3]}
    )
    samples = samples_by_kind(heads, probes, range(heads["layer"].max() + 1))
    assert list(samples) == ["mass", "difference", "excess", "per_token", "receiver", "induction"]
    assert samples["induction"].tolist() == [[[0.2, 0.3]]]


def ranked(label: str, values: dict[Head, float | None], top: list[Head]) -> Run:
    """A run that ranked heads by their mass; None: of a layer that was left out."""
    rows = [
        {"kind": "mass", **head._asdict(), "value": value, "rank": top.index(head) if head in top else 99,
         "top": head in top}
        for head, value in values.items()
    ]  # fmt: skip
    return Run(Path(label), "heads", label, label, {}, lambda _: pd.DataFrame(rows))


def test_runs_share_heads_by_chance_among_those_that_both_rank() -> None:
    """Layer 1 of three was ranked, four heads: two lists of two share 2 * 2 / 4 by chance, one in six both."""
    middle = {Head(layer, head): 0.1 * head if layer == 1 else None for layer in range(3) for head in range(4)}
    every = {head: 0.1 * head.head for head in middle}
    last = {head: 0.1 * head.head if head.layer == 2 else None for head in middle}
    top = [Head(1, 2), Head(1, 3)]
    runs = [
        ranked("a", middle, top),
        ranked("b", middle, top),
        ranked("all", every, [Head(0, 0), Head(1, 3)]),
        ranked("last", last, [Head(2, 0), Head(2, 1)]),
    ]
    found = compare(runs, Asked("mass"))
    rows = {(row["first"], row["second"]): row for row in found.tables["overlaps"]}
    assert rows["a", "b"]["n_heads"] == 4
    assert rows["a", "b"]["expected"] == 1
    assert rows["a", "b"]["p"] == rows["a", "b"]["p_within_layers"] == pytest.approx(1 / 6)
    of_all = rows["a", "all"]
    assert [of_all[name] for name in ("n_first", "n_second", "shared", "expected")] == [2, 1, 1, 0.5]
    assert ("a", "last") not in rows
    assert "2 pairs of runs rank no head in common, such as those of other layers" in found.lines


def test_runs_whose_heads_all_score_alike_have_nothing_in_common(recwarn: pytest.WarningsRecorder) -> None:
    flat = {Head(layer, head): 0.0 for layer in range(2) for head in range(4)}
    steep = {head: 0.1 * i for i, head in enumerate(flat)}
    runs = [ranked("a", flat, []), ranked("b", flat, []), ranked("c", steep, [Head(1, 3)])]
    found = compare(runs, Asked("mass"))
    assert {row["p"] for row in found.tables["overlaps"]} == {None}
    assert found.headlines == []
    assert found.lines == [f"{label}: nothing to rank, all heads have mass 0" for label in "ab"]
    assert not recwarn.list
