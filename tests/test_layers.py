"""Names for sets of layers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from interp.errors import UserError
from interp.model.layers import THIRDS, in_layers, layer_set, layer_sets


def test_thirds_are_the_papers_and_cover_everything() -> None:
    for n in range(3, 80):
        parts = [layer_set(third, n) for third in THIRDS]
        assert [layer for part in parts for layer in part] == list(range(n)) == layer_set("all", n)
        assert parts[1] == list(range(n // 3, 2 * n // 3))


def test_five_layers_of_the_middle_third() -> None:
    assert layer_set("five", 36) == [12, 15, 18, 20, 23]
    assert layer_set("five", 6) == [2, 3]
    for n in range(3, 80):
        five = layer_set("five", n)
        middle = layer_set("middle", n)
        assert set(five) <= set(middle)
        assert len(five) == min(5, len(middle))
        assert {five[0], five[-1]} == {middle[0], middle[-1]}


def test_the_other_reading_of_the_middle_third() -> None:
    assert layer_set("five_closed", 36) == [12, 15, 18, 21, 24]
    assert layer_set("five_closed", 6) == [2, 3, 4]
    assert layer_set("five_closed", 1) == [0]


def test_ranges_and_lists() -> None:
    assert layer_set("4-8", 10) == [4, 5, 6, 7, 8]
    assert layer_set("1+5+9", 10) == [1, 5, 9]
    assert layer_set("0-2+2-3+7", 10) == [0, 1, 2, 3, 7]
    assert layer_set(3, 10) == [3]
    assert list(layer_sets(["all", "thirds", 2], 9)) == ["all", *THIRDS, "2"]
    assert layer_sets("top", 3) == {"top": [2]}


@pytest.mark.parametrize("spec", ["upper", "4-", "10", "3-12", "8-4", "", "-1", []])
def test_what_is_not_there(spec: str | list[str]) -> None:
    with pytest.raises(UserError, match="layer"):
        layer_sets(spec, 10)


def test_a_model_too_small_for_thirds() -> None:
    with pytest.raises(UserError, match="has none there"):
        layer_set("bottom", 2)


@pytest.mark.parametrize(
    ("layers", "said"),
    [(range(6), ""), ([2, 3], " in layers 2-3"), ([4], " in layer 4"), ([5, 0, 1, 3], " in layers 0-1, 3, 5")],
)
def test_layers_are_named_where_they_are_not_all(layers: Sequence[int], said: str) -> None:
    assert in_layers(layers, 6) == said
