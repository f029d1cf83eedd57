"""Normalised logit differences and the hand-over, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.organisms.lookups import make_problem
from interp.organisms.word_problems import Split
from interp.patching.handover import falls_below_half, hand_over, rises_above_half
from interp.patching.nld import Answers, Direction


def answers(direction: Direction = Direction.DENOISE) -> Answers:
    """Three tokens; the clean run prefers token 0 by 4, the corrupted one token 1 by 2."""
    return Answers(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([0.0, 2.0, 1.0]), 0, 1, direction)


def test_effects_by_hand() -> None:
    found = {
        k: v.tolist()
        for k, v in answers().measure(torch.tensor([[0.0, 2, 1], [4, 0, 1], [1, 1, 3], [3, 0, 1]])).items()
    }
    assert found["ld"] == [-2, 4, 0, 3]
    assert found["nld"] == pytest.approx([0, 1, 1 / 3, 5 / 6])
    assert found["flipped"] == [0, 1, 0, 1]
    assert found["rank_clean"] == [2, 0, 1, 0]
    assert found["rank_corrupted"] == [0, 2, 1, 2]
    assert found["kl"][0] == pytest.approx(0, abs=1e-6)
    p, q = (torch.tensor(x).softmax(-1) for x in ([0.0, 2, 1], [4.0, 0, 1]))
    assert found["kl"][1] == pytest.approx((p * (p / q).log()).sum().item())
    assert found["prob_clean"][1] == pytest.approx(q[0].item())
    assert found["logprob_corrupted"][1] == pytest.approx(q[1].log().item())


def test_noising_counts_from_the_clean_run() -> None:
    found = answers(Direction.NOISE).measure(torch.tensor([[4.0, 0, 1], [0, 2, 1]]))
    assert found["nld"].tolist() == pytest.approx([0, 1])
    assert found["flipped"].tolist() == [0, 1]
    assert found["kl"][0].item() == pytest.approx(0, abs=1e-6)


def test_runs_that_agree_have_no_normalised_effect() -> None:
    same = Answers(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 0, 1)
    assert torch.isnan(same.measure(torch.tensor([[3.0, 0.0]]))["nld"]).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=2), st.floats(-3, 3))
def test_nld_does_not_mind_a_shift_of_all_logits(patched: list[float], shift: float) -> None:
    logits = torch.tensor([[*patched, 0.0]], dtype=torch.float64)
    one, other = (answers().measure(logits + s)["nld"].item() for s in (0.0, shift))
    assert one == pytest.approx(other, abs=1e-5)


def test_the_hand_over_by_hand() -> None:
    token = np.array([0.2, 0.8, 0.8, 0.6, 0.2, 0.0])
    assert falls_below_half(token) == pytest.approx(3.5), "from .6 to .2, half of .8 is half way"
    predicting = np.array([0.0, 0.0, 0.1, 0.4, 0.8, 1.0])
    assert rises_above_half(predicting) == pytest.approx(3.25)
    assert np.isnan(falls_below_half(np.zeros(4)))
    assert np.isnan(rises_above_half(-np.ones(4)))
    assert np.isnan(falls_below_half(np.array([0.1, 0.5, 1.0]))), "it never falls"
    rng = np.random.default_rng(0)
    found = hand_over(np.tile(token, (8, 1)), np.tile(predicting, (8, 1)), rng).token_falls
    assert found.value == pytest.approx(3.5)
    assert found.low is None, "curves that are all alike say nothing of the next one"
    pairs = np.tile(token, (8, 1)), np.tile(predicting, (8, 1))
    apart = hand_over(*pairs, rng, layers=[2, 4, 6, 8, 12, 13])
    assert apart.token_falls.value == pytest.approx(10), "half way from layer 8 to layer 12"
    assert apart.predicting_rises.value == pytest.approx(9)
    late = hand_over(*(curves[:, 4:] for curves in pairs), rng, layers=[4, 5])
    assert np.isnan(late.predicting_rises.value), "it rose before the first patched layer"
    token_curves, later = (curves + 0.3 * rng.normal(size=(8, 6)) for curves in pairs)
    begun = hand_over(token_curves[:, 3:], later[:, 3:], rng, layers=[3, 4, 5]).predicting_rises
    assert begun.low is None, "in many resamples it rose before the first patched layer: no end is known"
    few = hand_over(*(curve + 0.1 * rng.normal(size=(4, 6)) for curve in (token, predicting)), rng)
    assert few.token_falls.low is None, "of four pairs there is no interval"
    noisy = hand_over(token + 0.1 * rng.normal(size=(8, 6)), predicting + 0.1 * rng.normal(size=(8, 6)), rng)
    assert noisy.token_falls.low is not None
    assert noisy.token_falls.low < noisy.token_falls.value < (noisy.token_falls.high or 0)


def test_a_direction_by_its_name_is_the_direction() -> None:
    logits = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 3.0])
    named, member = (Answers(*logits, 0, 1, direction) for direction in ("noise", Direction.NOISE))  # type: ignore[arg-type]
    assert named.nld(torch.tensor(1.0)) == member.nld(torch.tensor(1.0)) == 0
    with pytest.raises(UserError, match="direction=back: use denoise, noise"):
        Answers(*logits, 0, 1, "back")  # type: ignore[arg-type]
    assert make_problem(1, "held_out", 0) == make_problem(1, Split.HELD_OUT, 0)  # type: ignore[arg-type]
