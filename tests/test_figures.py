"""Figures show what the tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from interp.figures import heads as figures
from interp.figures import style
from interp.figures.training import training_curve
from interp.heads import Head
from interp.trace import Segment


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
    top = [Head(2, 1), Head(0, 3)]
    figure = figures.head_masses(heads, top, "m", "difference score")
    for axis, segment in zip(figure.axes, figures.PANELS, strict=False):
        image = axis.images[0]
        assert image.get_clim() == (0, 1)
        expected = heads.groupby(["layer", "head"])[f"answer_{segment}"].mean().to_numpy().reshape(3, 4)
        np.testing.assert_allclose(image.get_array(), expected)
        boxes = [p for p in axis.patches if isinstance(p, Rectangle)]
        assert [(box.get_y() + 0.5, box.get_x() + 0.5) for box in boxes] == [(2, 1), (0, 3)]


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
