"""Figures of what is missing, next to nothing, or of few examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from interp.figures import evaluation as evaluation_figures
from interp.figures import key_tokens as key_token_figures
from interp.figures import maps as map_figures
from interp.figures import patching as patch_figures
from interp.figures import rhythm as rhythm_figures
from interp.figures import sentences as sentence_figures
from interp.figures import style
from interp.figures.credit import looks
from interp.figures.intervals import curve
from interp.runs.effects import over_examples


def place_rows(*rows: tuple[str, float, float, float, int]) -> pd.DataFrame:
    """Shares of answers that change in the first and second step, each with its interval and number of traces."""
    names = ("value_of_group", "value", "low", "high", "n")
    same = {"kind": "change_number", "metric": "answer_changed"}
    return pd.DataFrame(
        [{"group": g, **same, **dict(zip(names, row, strict=True))} for g in ("third", "step_from_end") for row in rows]
    )


def test_one_trace_is_neither_sure_nor_joined_to_others() -> None:
    rows = place_rows(("1", 0.3, np.nan, np.nan, 1), ("2", 0.5, 0.2, 0.8, 6), ("3", 0.4, 0.1, 0.7, 6))
    axis = key_token_figures.by_place(rows, "m").axes[0]
    points = {tuple(line.get_xydata()[0]): line for line in axis.lines if line.get_marker() == "o"}
    assert [points[at].get_markerfacecolor() == "white" for at in ((1, 0.3), (2, 0.5), (3, 0.4))] == [
        True,
        False,
        False,
    ]
    assert [text.get_text() for text in axis.texts] == ["n = 1"]
    whiskers = [line.get_xydata().tolist() for line in axis.lines if len(line.get_xydata()) == 2]
    assert whiskers == [[[2, 0.2], [2, 0.8]], [[3, 0.1], [3, 0.7]]]
    (joined,) = (line for line in axis.lines if len(line.get_xydata()) == 3)
    assert np.isnan(joined.get_ydata()[0])


def test_a_sentence_without_a_value_is_named_and_not_drawn_as_zero() -> None:
    nothing = dict.fromkeys(sentence_figures.CAUSAL, np.nan)
    texts = [{"example": "e", "text": name, **nothing, "resampled": 0.0} for name in "abc"]
    sentences = pd.DataFrame(texts).assign(counterfactual=[0.5, np.nan, 0.0])
    rollouts, other = sentence_figures.along_the_text(sentences, "m").axes
    assert not rollouts.texts
    assert [(text.get_text(), text.get_position()) for text in other.texts] == [("none", (0, 1))]


def test_types_of_peaks_that_there_are_not_have_no_share() -> None:
    shares = {"share of tokens": (0.4, 20), "share of waad_peaks": (0.1, 14), "share of receiver_peaks": (0.2, 1)}
    rows = [
        {"type": "word", "measure": name, "value": value, "n": n}
        | ({"low": np.nan, "high": np.nan} if n == 1 else {"low": value - 0.1, "high": value + 0.1})
        for name, (value, n) in shares.items()
    ]
    axis = rhythm_figures.token_types(pd.DataFrame(rows), "m").axes[0]
    assert [text.get_text().strip() for text in axis.texts] == ["none", "n = 1"]
    assert [bar.get_height() for bar in axis.patches] == [0.4, 0.1, 0.2]
    assert [bar.get_facecolor()[:3] == (1, 1, 1) for bar in axis.patches] == [False, False, True]
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [text.partition("(")[2] for text in legend] == ["n = 20)", "n = 14)", "n = 0)", "n = 1)"]


def test_each_correlation_says_of_how_many_traces_it_is() -> None:
    rows = [
        {"causal": "suppressed", "other": other, "given": given, "value": 0.2, "low": 0.1, "high": 0.3, "n": n}
        for other, given, n in (("demanded", "nothing", 48), ("received", "nothing", 13), ("received", "place", 12))
    ]
    axis = sentence_figures.signals(pd.DataFrame(rows), "m").axes[0]
    assert [text.get_text() for text in axis.texts] == ["48", "12 to 13"]


def test_attention_that_is_next_to_nothing_has_no_peaks_and_no_contrast() -> None:
    curve = {"receiver_fai": [0.0, 1e-9, 0.0], "fai_to_end": [0.0, 0.5, 0.0], "waad": [1.0, 2.0, 1.0]}
    peaks = {key: [False, True, False] for key in ("receiver_peak", "fai_peak", "waad_peak")}
    rest = {"entropy": 1.0, "example": "e", "token": list("abc"), "sentence_start": False}
    tokens = pd.DataFrame({**curve, **peaks, **rest})
    nothing, something, *_ = rhythm_figures.curves(tokens, "m").axes
    assert [text.get_text() for text in nothing.texts] == ["next to nothing, 1e-09 at most"]
    marked = [[line for line in axis.lines if line.get_marker() == "v"] for axis in (nothing, something)]
    assert [[line.get_xydata().tolist() for line in lines] for lines in marked] == [[], [[[1, 0.5]]]]
    assert map_figures.root_scale(np.full(9, 1e-8)).vmax == map_figures.NOTHING
    assert map_figures.root_scale(np.full(9, 0.25)).vmax == 0.25


def test_paths_have_the_intervals_of_all_effects() -> None:
    rows = [
        {"example": str(i), "intervention": f"{verb}_resid_pre", "metric": "nld", "layer": layer, "head": None,
         "position": 5, "role": "phrase_answer", "value": i / 6 + layer, "control": None, "seed": 0}
        for verb in ("patch", "through") for layer in (0, 1) for i in range(6)
    ]  # fmt: skip
    effects = pd.DataFrame(rows).assign(rows=None, heads_kind=None, n_heads=None, layer_end=None)
    figure = patch_figures.paths(effects, "m")
    assert figure is not None
    band = [one for one in figure.axes[0].collections if isinstance(one, PolyCollection)][1].get_paths()[0].vertices
    first = effects[(effects["intervention"] == "through_resid_pre") & (effects["layer"] == 0)]
    estimate = over_examples(first)
    ends = sorted({y for x, y in band if x == 0})
    assert ends == pytest.approx([estimate.low, estimate.high])


def test_curves_are_hollow_and_their_bands_stop_where_there_is_no_interval() -> None:
    of = pd.DataFrame({"value": [0.1, 0.2, 0.3, 0.4], "low": [0.0, 0.1, np.nan, 0.3], "high": [0.2, 0.3, np.nan, 0.5]})
    _, axis = style.subplots(figsize=(3, 3))
    curve(axis, pd.Series([0, 1, 2, 3]), of, "red", label="a")
    points = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    marks = {line.get_markerfacecolor(): line.get_xdata().tolist() for line in points}
    assert marks == {"red": [0, 1, 3], "white": [2]}
    (bars,) = (one for one in axis.collections if isinstance(one, LineCollection))
    assert [path.vertices.tolist() for path in bars.get_paths()] == [[[3, 0.3], [3, 0.5]]], (
        "an interval with none beside it is a bar"
    )


def test_bars_say_their_numbers_in_their_order() -> None:
    rows = [("A", "with_reasoning", 9), ("A", "without_reasoning", 3), ("B", "hinted", 5), ("B", "with_reasoning", 6)]
    same = {"value": 0.5, "low": 0.4, "high": 0.6, "group": "all", "measure": "accuracy", "kept": "all"}
    accuracy = pd.DataFrame([{"writer": w, "condition": c, "n": n, **same} for w, c, n in rows])
    paired = pd.DataFrame(columns=["group", "measure", "kept", "writer"])
    axis = evaluation_figures.accuracy_bars(accuracy, paired).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["A\nn = 9 / 3", "B\nn = 6 / 5"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "with reasoning",
        "without reasoning",
        "hinted",
    ]


def test_an_arm_keeps_its_colour_whatever_stands_beside_it() -> None:
    few, many = looks(["coupled"]), looks(["uniform", "entropy, q .2", "entropy, q .4", "coupled"])
    assert few["coupled"] == many["coupled"]
    assert len(set(many.values())) == 4
    assert many["entropy, q .2"][0] == many["entropy, q .4"][0]
