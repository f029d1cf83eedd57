"""What a run of ablate tells and draws of its lists and sets of heads, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from interp.ablation.findings import SETS, findings
from interp.ablation.lists import lists_that_were_cut
from interp.figures import ablation as figures
from interp.heads.scores import Head
from interp.stats import ANY_LAYER, SAME_LAYERS


def doses() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects on two traces of one RFH beside three sets of any layer, and of two beside forty of their layers, and
    what was cut."""
    same = {"intervention": "ablate_head_zero", "heads_kind": "rfh", "rows": "answer", "metric": "ld", "role": None}
    same |= {"layer": np.nan, "layer_end": np.nan, "head": np.nan, "seed": 0, "model": "m"}
    sets = {1: (ANY_LAYER, [0.0, 0.0, -9.0]), 2: (SAME_LAYERS, [*np.linspace(-1.0, 1.0, 40)])}
    rows = [
        {**same, "example": example, "n_heads": n, "draw": draw, "control": control, "value": value}
        for example in "ab"
        for n, (kind, values) in sets.items()
        for draw, control, value in [(np.nan, None, -3.0), *((i, kind, value) for i, value in enumerate(values))]
    ]
    cut = [("rfh", n, rank, 2, rank) for n in (1, 2) for rank in range(1, n + 1)]
    names = ["heads_kind", "n_heads", "rank", "layer", "head"]
    return pd.DataFrame(rows), pd.DataFrame(cut, columns=names).assign(half=0)


def test_a_figure_shows_few_sets_one_by_one_and_of_many_the_middle() -> None:
    figure = figures.doses(doses()[0], "m")
    assert figure is not None
    (axis,) = figure.axes
    dots = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "."]
    assert dots == [[[1, 0], [1, 0], [1, -9]]]
    (bar,) = (one for one in axis.collections if isinstance(one, LineCollection))
    low, high = np.quantile(np.linspace(-1.0, 1.0, 40), [0.025, 0.975])
    assert np.array(bar.get_segments()) == pytest.approx(np.array([[[2, low], [2, high]]]))
    assert [text.get_text() for text in axis.texts] == ["3", "40"]
    assert {line.get_label() for line in axis.lines if line.get_marker() == "s"} == {SETS[ANY_LAYER], SETS[SAME_LAYERS]}


def test_what_the_claims_are_about_is_the_list_at_the_dose_that_decides() -> None:
    effects, cut = doses()
    tables = {"effects": effects, "cut_lists": cut}
    lists = lists_that_were_cut(effects, cut)
    found = findings(tables.__getitem__, lists, 0, halves=True)
    assert found.facts.lists == {"rfh": [Head(2, 1), Head(2, 2)]}
    assert found.lines[0] == "top 2 rfh heads: (2,1), (2,2)"
    (test,) = (line for line in found.lines if line.startswith("top 2 rfh heads, zero"))
    assert "against sets of heads of the same layers: -3.00" in test
    single = pd.DataFrame(
        [
            {"example": "a", "layer": layer, "head": head, "metric": "ld", "value": 0.1}
            for layer in range(3)
            for head in range(3)
        ]
    )
    axis = figures.single_heads(single, found.facts.lists, (3, 3), "m").axes[0]
    assert [(box.get_y() + 0.5, box.get_x() + 0.5) for box in axis.patches] == [(2, 1), (2, 2)]
