"""Figures show what the tables say."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from interp.figures import heads as figures
from interp.figures import maps as map_figures
from interp.figures import patching as patch_figures
from interp.figures import style
from interp.figures.compare import along_layers, layer_profiles
from interp.figures.tokens import deciding_positions, token_attention
from interp.figures.training import training_curve
from interp.heads.ranking import overlap_rows
from interp.heads.scores import Head
from interp.text.trace import Segment, Span, Trace


def frame(n: int = 5, layers: int = 3, heads: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    example, layer, head = np.indices((n, layers, heads)).reshape(3, -1)
    masses = rng.dirichlet(np.ones(6), size=len(example))
    columns = {f"answer_{s}": masses[:, i] for i, s in enumerate(Segment)}
    return pd.DataFrame({"example": example.astype(str), "layer": layer, "head": head, **columns})


def test_figure_2_draws_the_means_of_each_model() -> None:
    first, second = frame(), frame(n=7)
    second["answer_bos"] = np.nan
    figure = figures.segment_masses({"a": first, "b": second})
    left, right = figure.axes
    means = left.lines[-1].get_ydata()
    expected = [first.groupby("example")[f"answer_{s}"].mean().mean() for s in Segment]
    np.testing.assert_allclose(means, expected)
    assert "n = 7" in right.get_title()
    assert [t.get_text() for t in right.texts] == ["none"], "a segment that no trace has is named, not drawn as 0"


def test_figure_3_boxes_the_top_heads_on_one_scale() -> None:
    heads = frame()
    heads.loc[heads["layer"] == 2, "answer_bos"] = 0.999
    largest = max(heads.groupby(["layer", "head"])[f"answer_{s}"].mean().max() for s in figures.PANELS[1:])
    top = [Head(2, 1), Head(0, 3)]
    figure = figures.head_masses(heads, top, "m", "difference score")
    for axis, segment in zip(figure.axes, figures.PANELS, strict=False):
        image = axis.images[0]
        assert image.get_clim() == pytest.approx((0, largest)), "the largest mean mass but for that to the sink"
        dots = [tuple(map(int, place)) for line in axis.lines for place in line.get_xydata()]
        assert dots == ([(head, 2) for head in range(4)] if segment is Segment.BOS else []), "what is beyond it"
        expected = heads.groupby(["layer", "head"])[f"answer_{segment}"].mean().to_numpy().reshape(3, 4)
        np.testing.assert_allclose(image.get_array(), expected)
        boxes = [p for p in axis.patches if isinstance(p, Rectangle)]
        assert [(box.get_y() + 0.5, box.get_x() + 0.5) for box in boxes] == [(2, 1), (0, 3)]


def test_figure_3_marks_induction_and_retrieval_heads() -> None:
    marks = {"induction": [Head(1, 2)], "retrieval": []}
    figure = figures.head_masses(frame(), [Head(0, 0)], "m", "mass score", marks)
    assert [tuple(map(int, line.get_xydata()[0])) for line in figure.axes[1].lines if len(line.get_xydata())] == [
        (2, 1)
    ]
    title = figure.get_suptitle()
    assert "circles: top 1 induction heads" in title
    assert "no retrieval head above the floor" in title


def kept_trace() -> tuple[Trace, pd.DataFrame]:
    """Eight tokens, the last three of which answer, with the rows of one head and of the mean."""
    words = ["<bos>", "q", "<think>", " Wait", " <b>so", "</think>", " answer is", " 4"]
    offsets, text = [], ""
    for word in words:
        offsets.append((len(text), len(text) + len(word)))
        text += word
    borders = [0, 1, 2, 3, 5, 6, 8]
    spans = tuple(Span(s, a, b) for s, a, b in zip(Segment, borders, borders[1:], strict=False))
    trace = Trace("x & <y>", text, tuple(range(8)), tuple(offsets), spans, "made")
    rows = []
    for layer, head in ((None, None), (2, 1)):
        for position in (6, 7):
            weights = np.zeros(position + 1, dtype=np.float32)
            weights[[0, 4]] = 0.5 if layer is None else (0.25, 0.75)
            rows.append(
                {"example": trace.example, "layer": layer, "head": head, "position": position, "weights": weights}
            )
    return trace, pd.DataFrame(rows)


def test_maps_are_drawn_from_their_rows() -> None:
    trace, maps = kept_trace()
    assert map_figures.mapped_heads(maps) == [Head(2, 1)]
    dense = map_figures.dense(maps, trace.example, Head(2, 1))
    assert dense.shape == (2, 8)
    assert dense[0].tolist() == [0.25, 0, 0, 0, 0.75, 0, 0, 0]
    heads = pd.DataFrame({"example": [trace.example], "layer": [2], "head": [1], "trajectory": [0.5]})
    axis, bar = map_figures.attention_maps(maps, heads, [trace], ["wait"], "m").axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [style.label(trace.token_text(i)) for i in range(8)]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["answer·is", "4"]
    assert bar.get_ylabel() == "attention weight, 0 to 0.75; white: beyond"
    box = next(p for p in axis.patches if isinstance(p, Rectangle))
    assert (box.get_x(), box.get_width(), box.get_y(), box.get_height()) == (2.5, 2, 5.5, 2)
    assert [line.get_xdata()[0] for line in axis.lines] == [3], "the reflection word"
    assert "trajectory +0.50" in axis.get_title()


def test_margins_show_the_tokens_with_most_weight_where_not_all_have_room() -> None:
    _, axis = style.subplots(figsize=(2, 2))
    weights = np.zeros(100)
    weights[[40, 41, 90]] = 0.9, 0.8, 0.7
    map_figures.token_margin(axis, [f"t{i}" for i in range(100)], 5, weights, below=True)
    shown = [tick.get_text() for tick in axis.get_xticklabels()]
    assert {"t40", "t90"} <= set(shown)
    assert "t41" not in shown
    places = axis.get_xticks()
    assert np.diff(places).min() >= 100 / map_figures.ROOM_BELOW
    assert [f"t{int(place) - 5}" for place in places] == shown


def nld(**values: float) -> pd.DataFrame:
    """Patches of one pair at positions 3, 4, ... of layer 0."""
    rest = {
        "example": "p",
        "intervention": "patch_resid_pre",
        "metric": "nld",
        "layer": 0,
        "head": None,
        "control": None,
    }
    rows = [
        {**rest, "position": 3 + i, "position_end": 4 + i, "role": "phrase", "token": name, "value": value}
        for i, (name, value) in enumerate(values.items())
    ]
    return pd.DataFrame(rows).astype({"head": float})


def test_the_scale_of_a_map_is_chosen_by_its_data_within_bounds() -> None:
    for values, limit, beyond in (
        ({"a": 0.5, "b": -0.3}, 0.5, 0),
        ({"a": 0.001}, 0.1, 0),
        ({"a": 9.0, "b": 1.0}, 1.25, 1),
    ):
        figure = patch_figures.whole_map(nld(**values), "p", "m")
        axis, bar = figure.axes
        assert axis.images[0].get_clim() == (-limit, limit)
        assert sum(len(line.get_xydata()) for line in axis.lines) == beyond
        assert f"{min(values.values()):.2f} to {max(values.values()):.2f}" in bar.get_ylabel()


def test_large_maps_keep_their_lines() -> None:
    weights = np.zeros((900, 2000))
    weights[450, 1999] = 1.0
    pooled = map_figures._pooled(weights)
    assert pooled.shape == (map_figures.MAX_CELLS, map_figures.MAX_CELLS)
    assert pooled.max() == 1


def test_the_final_answer_is_what_the_deciding_queries_write() -> None:
    trace, _ = kept_trace()
    assert list(deciding_positions(trace)) == [6], "the token before `4`"


def test_figure_5_shows_every_token() -> None:
    trace, maps = kept_trace()
    mean, head = token_attention(maps, trace, "m").axes
    assert "".join(t.get_text() for t in head.texts) == trace.text.replace(" ", "")
    assert "darkest: weight 0.750, on the first token 0.25" in head.get_title()
    assert "darkest: weight 0.500" in mean.get_title()


def test_overlaps_say_what_chance_gives() -> None:
    rows = overlap_rows({"a": [Head(0, 0)], "b": [Head(0, 0)], "c": []}, 100, 10)
    axis = figures.overlaps(pd.DataFrame(rows), "m").axes[0]
    assert sorted(t.get_text() for t in axis.texts) == ["1\n(0.0)", "none", "none"]
    assert next(t for t in axis.texts if t.get_text() != "none").get_weight() == "bold"


def test_figure_6_shows_the_phrase_and_the_end() -> None:
    roles = [None] * 40 + ["phrase", "phrase_answer", "end_think"] + [None] * 60 + ["answer", "predicting"]
    tokens = [f"t{i}" for i in range(len(roles))]
    pair = {"clean_tokens": tokens, "corrupted_tokens": [None, *tokens[1:]], "roles": roles, "example": "p"}
    texts = [t.get_text() for t in patch_figures.aligned_pair(pair, "m").axes[0].texts]
    row = texts[: len(texts) // 2]
    assert row[:11] == [f"t{i}" for i in range(32, 43)]
    assert "…" in row
    assert row[-1] == f"t{len(roles) - 1}"


def test_figure_8_draws_the_mean_curves() -> None:
    rows = [
        {"example": e, "intervention": "patch_resid_pre", "metric": "nld", "layer": layer, "head": None, "position": 5,
         "role": role, "token": "x", "value": value + e, "control": None, "clean": 1.0, "corrupted": 0.0}
        for e in (0.0, 0.2) for layer in (0, 1)
        for role, value in (("phrase_answer", 1 - layer), ("predicting", layer))
    ]  # fmt: skip
    effects = pd.DataFrame(rows)
    axis = patch_figures.hand_over_curves(effects, [Head(1, 0)], "m").axes[0]
    curves = {line.get_label(): list(line.get_ydata()) for line in axis.lines if len(line.get_ydata()) == 2}
    assert curves["the phrase's answer"] == [1.1, 0.1]
    assert curves["the token before the prediction"] == [0.1, 1.1]


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        style.save(figures.segment_masses({"m": frame()}), tmp_path / name, "fig")
    for suffix in ("png", "pdf"):
        assert (tmp_path / "a" / f"fig.{suffix}").read_bytes() == (tmp_path / "b" / f"fig.{suffix}").read_bytes()


def test_training_curve_has_a_line_a_measure() -> None:
    rows = [
        {"step": step, "measure": measure, "value": 0.1 * step, "low": 0.0, "high": None}
        for step in (1, 2)
        for measure in ("accuracy_greedy", "accuracy_sampled")
    ]
    axis = training_curve(pd.DataFrame(rows)).axes[0]
    assert [line.get_label() for line in axis.lines] == ["accuracy greedy", "accuracy sampled"]


def compared(*runs: tuple[str, str, float]) -> pd.DataFrame:
    """Numbers of runs, each by its series, its layers and its value."""
    rest = {"name": "a", "low": np.nan, "high": np.nan, "n": 1, "control": None}
    controls = dict.fromkeys(("control_value", "control_low", "control_high"), np.nan)
    rows = [
        {"run": f"{s} {where} {i}", "series": s, "layers": where, "value": v} for i, (s, where, v) in enumerate(runs)
    ]
    return pd.DataFrame([{**row, **rest, **controls} for row in rows])


def test_layers_are_an_axis_where_they_tell_the_runs_of_a_series_apart() -> None:
    (figure,) = along_layers(compared(("x", "0-1", 1.0), ("x", "2-3", 2.0), ("y", "0-1", 3.0), ("y", "2-3", 3.0)))
    axis = next(axis for axis in figure.axes if axis.get_visible())
    assert [line.get_ydata().tolist() for line in axis.lines if line.get_linestyle() == "-"] == [[1, 2], [3, 3]]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0-1", "2-3"]
    assert not list(along_layers(compared(("x", "0-1", 1.0), ("x", "0-1", 2.0), ("x", "2-3", 3.0))))
    assert not list(along_layers(compared(("x", "0-1", 1.0), ("y", "0-1", 2.0))))


def test_the_middle_third_is_that_of_each_number_of_layers() -> None:
    rows = [
        {"kind": "mass", "measure": measure, "layer": layer, "value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
        for measure in ("mean", "top_share") for layer in range(28)
    ]  # fmt: skip
    of = {"a": pd.DataFrame(rows), "b": pd.DataFrame([row for row in rows if row["layer"] < 4])}
    axis = layer_profiles(of, "mass").axes[0]
    spans = [span.get_extents().transformed(axis.transData.inverted()) for span in axis.patches]
    assert [(round(s.x0, 6), round(s.x1, 6)) for s in spans] == [(0.25, 0.5), (round(9 / 28, 6), round(18 / 28, 6))]


@given(st.text())
def test_labels_of_tokens_are_never_read_as_mathematics(token: str) -> None:
    shown = style.label(token)
    assert shown
    with style.look():
        assert not Text(text=shown).get_parse_math()
    assert "\n" not in shown


def test_a_figure_with_dollars_is_saved_wherever_it_was_made(tmp_path: Path) -> None:
    figure, axis = style.subplots(figsize=(2, 2))
    axis.set_title("$\\nothing{")
    assert style.save(figure, tmp_path, "odd").is_file()


def test_labels_show_what_is_there() -> None:
    shown = [style.label(token) for token in (" the", "\n\n", " ", "", None, "$x$", "\x0f", "a b")]
    assert shown == ["the", "⏎⏎", "·", "∅", "pad", "$x$", "\\x0f", "a·b"]


def test_no_sign_is_drawn_as_an_empty_box(tmp_path: Path) -> None:
    """R1's own signs, what a terminal would obey, what turns the direction of writing, other scripts."""
    assert style.drawable("<｜User｜>") == "<|User|>"
    assert style.drawable("<｜begin▁of▁sentence｜>") == "<|begin▁of▁sentence|>"
    assert style.drawable("a\x1b[2J\u202eb\nc") == "a\\x1b[2J\\u202eb\nc"
    assert style.drawable("中") == "\\u4e2d"
    with style.look(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axis = style.subplots(figsize=(2, 2))
        axis.set_title("m \x1b[31m")
        axis.set_xticks([0, 1], ["<｜User｜>", "中\ud800"])
        axis.legend([axis.plot([0, 1], [0, 1])[0]], ["\u202e"])
        figure.tight_layout()
        style.save(figure, tmp_path, "signs")
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["<|User|>", "\\u4e2d\\ud800"]
    assert Text(text="\x1b").get_text() == "\x1b", "as before outside figures"


@given(st.text())
def test_what_is_drawn_is_in_the_font_and_stays(text: str) -> None:
    shown = style.drawable(text)
    assert all(sign == "\n" or style._known(sign) for sign in shown)
    assert style.drawable(shown) == shown


def test_a_learning_curve_has_every_measure() -> None:
    rows = [{"step": s, "measure": f"m{i}", "value": 0.5, "low": None, "high": None} for i in range(9) for s in (1, 2)]
    figure = training_curve(pd.DataFrame(rows))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [f"m{i}" for i in range(9)]
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 9
