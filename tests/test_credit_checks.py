"""What credit did to a step, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from interp.credit.checks import (
    ADVANTAGE,
    EFFECTIVE,
    ENTROPY,
    MEASURES,
    POSITION,
    SHARE,
    Stopwatch,
    Treatment,
    cosine,
    measures_of,
    sums_of,
)
from interp.runs.training_state import TRAINING_TABLE

# Two responses with an advantage, of four tokens and two, and one without.
ADVANTAGES = torch.tensor([1.0, -2.0, 0.0])
GAMMA = torch.tensor([[3.0, 1, 1, 1], [1, 3, 1, 1], [1, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
NATS = torch.tensor([[0.5, 0.25, 0.25, 0], [0.5, 0.5, 9, 9], [9, 9, 9, 9]])


def test_the_measures_of_a_step() -> None:
    found = measures_of(sums_of(ADVANTAGES, GAMMA, MASK, NATS))
    # Of eight tokens two are changed; six have an advantage.
    assert found[SHARE] == pytest.approx(2 / 8)
    # Places .5/4 and 1.5/2.
    assert found[POSITION] == pytest.approx((0.125 + 0.75) / 2)
    # Gamma 3 1 1 1 and 1 3: (10)^2 / 22 of 6.
    assert found[EFFECTIVE] == pytest.approx(100 / 22 / 6)
    assert found[ENTROPY] == pytest.approx((0.5 + 0.5) / 2)
    # Weights 3 1 1 1 and 2 6.
    assert found[ADVANTAGE] == pytest.approx((3 + 6) / 14)


def test_gamma_below_1_elsewhere_is_credit_too() -> None:
    masked = torch.where(GAMMA > 1, 1.0, 0.0)
    found = measures_of(sums_of(ADVANTAGES, masked, MASK, NATS))
    assert found[SHARE] == pytest.approx(4 / 8)
    assert found[ADVANTAGE] == 1
    assert found[POSITION] == pytest.approx((0.125 + 0.75) / 2)
    assert found[EFFECTIVE] == pytest.approx(2 / 6)


def test_soft_credit_counts_from_its_mean_and_equal_gamma_credits_none() -> None:
    soft = torch.tensor([[1.5, 0.5, 1.2, 0.8], [1.0, 1.0, 1, 1], [1, 1, 1, 1]])
    found = measures_of(sums_of(ADVANTAGES, soft, MASK, NATS, floor=1.0))
    assert found[ADVANTAGE] == pytest.approx((1.5 + 1.2) / (4 + 4))
    flat = measures_of(sums_of(ADVANTAGES, torch.full_like(GAMMA, 1.5), MASK, NATS))
    assert flat[ADVANTAGE] == 0
    assert POSITION not in flat


def test_a_step_without_advantages_has_no_measure_but_the_share() -> None:
    assert measures_of(sums_of(torch.zeros(3), GAMMA, MASK, NATS)) == {SHARE: 0.0}
    assert Treatment().take() == {}


def test_parts_of_a_step_add_up() -> None:
    whole, parts = Treatment(), Treatment()
    whole.add(sums_of(ADVANTAGES, GAMMA, MASK, NATS))
    for i in range(3):
        parts.add(sums_of(*(value[i : i + 1] for value in (ADVANTAGES, GAMMA, MASK, NATS))))
    assert parts.take() == pytest.approx(whole.take())
    assert whole.take() == {}


def test_the_cosine_of_two_gradients() -> None:
    one, other = [torch.tensor([3.0, 0.0]), torch.tensor([4.0]), None], [torch.tensor([3.0, 0.0]), None, None]
    assert cosine(one, other) == pytest.approx(9 / (5 * 3))
    assert cosine(one, [None, None, None]) is None
    treatment = Treatment()
    assert treatment.take_cosine(one) is None
    treatment.add_plain(other)
    treatment.add_plain([None, torch.tensor([4.0]), None])
    assert treatment.take_cosine(one) == pytest.approx(1)
    assert treatment.take_cosine(one) is None


def test_every_measure_is_declared() -> None:
    about = next(column.meaning for column in TRAINING_TABLE.columns if column.name == "measure")
    assert [name for name in MEASURES.values() if f"`{name}`" not in about] == []


def test_the_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch:
            sum(range(1000))
    assert watch.take() > 0
    assert watch.take() == 0
