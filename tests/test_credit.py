"""Gamma worked out by hand, and what holds for any signal (Paper B, section 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interp.credit.gamma import (
    NEEDS,
    NEVER_1,
    CreditRule,
    End,
    Signals,
    Signs,
    Strategy,
    chosen,
    gamma_of,
    token_advantages,
    waad_change,
)
from interp.errors import UserError

NAN = float("nan")
FIVE = torch.ones(1, 5, dtype=torch.long)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def same(found: torch.Tensor, *values: float) -> None:
    torch.testing.assert_close(found, row(*values), equal_nan=True)


def test_changes_of_waad_look_one_token_ahead() -> None:
    same(waad_change(row(1.0, 4.0, 4.0, 2.0)), 3.0, 0.0, 2.0, NAN)


def test_local_chunk_credits_the_largest_changes() -> None:
    rule = CreditRule(Strategy.LOCAL_CHUNK, q=0.4)
    same(gamma_of(rule, Signals(waad=row(1, 5, 5, 2, 2)), FIVE), 1.5, 1, 1.5, 1, 1)


def test_global_anchor_credits_the_highest_fai_and_never_a_token_without_one() -> None:
    rule = CreditRule(Strategy.GLOBAL_ANCHOR, q=0.4)
    same(gamma_of(rule, Signals(fai=row(0.1, 0.4, 0.2, NAN, NAN)), FIVE), 1, 1.5, 1.5, 1, 1)
    all_of_them = CreditRule(Strategy.GLOBAL_ANCHOR, q=1.0)
    same(gamma_of(all_of_them, Signals(fai=row(0.1, 0.4, 0.2, NAN, NAN)), FIVE), 1.5, 1.5, 1.5, 1, 1)


def test_the_bottom_end_credits_the_lowest() -> None:
    rule = CreditRule(Strategy.GLOBAL_ANCHOR, q=0.2, end=End.BOTTOM)
    same(gamma_of(rule, Signals(fai=row(0.1, 0.4, 0.05, NAN, NAN)), FIVE), 1, 1, 1.5, 1, 1)


@pytest.mark.parametrize("strategy", [Strategy.ENTROPY, Strategy.RANDOM])
def test_baselines_credit_the_highest_of_their_own_signal(strategy: Strategy) -> None:
    (name,) = NEEDS[strategy]
    found = gamma_of(CreditRule(strategy, q=0.4), Signals(**{name: row(3, 1, 2, 0, 1)}), FIVE)
    same(found, 1.5, 1, 1.5, 1, 1)


@pytest.mark.parametrize("strategy", [strategy for strategy in Strategy if strategy not in NEVER_1])
def test_an_amplification_of_1_is_plain_grpo(strategy: Strategy) -> None:
    signals = Signals(waad=WAAD, fai=FAI, entropy=FAI, noise=FAI, decisions=FAI > 0.5)
    same(gamma_of(CreditRule(strategy, gamma_amp=1.0), signals, SIX), *[1.0] * 6)


def test_uniform_credit_is_1_everywhere() -> None:
    same(gamma_of(CreditRule(Strategy.UNIFORM), Signals(), FIVE), 1, 1, 1, 1, 1)


# WAAD has its median at 2; its changes are 5, 1, 0, 4, 3 and have their median at 3.
# FAI is highest at tokens 2 and 5.
WAAD = row(7.0, 2.0, 1.0, 1.0, 5.0, 2.0)
FAI = row(0.1, 0.2, 0.9, 0.1, 0.3, 0.8)
SIX = torch.ones(1, 6, dtype=torch.long)


def test_coupled_credit_moves_half_of_a_dominated_anchors_bonus_to_what_introduces_it() -> None:
    rule = CreditRule(Strategy.COUPLED, q=1 / 3)
    # Token 2: WAAD 1 <= 2, and of the changes at 0 and 1 (5 and 1) the largest is at 0.
    # Token 5: WAAD 2 <= 2, and of those at 2, 3 and 4 (0, 4 and 3) the largest is at 3.
    same(gamma_of(rule, Signals(waad=WAAD, fai=FAI), SIX), 1.25, 1, 1.25, 1.25, 1, 1.25)


def test_an_anchor_that_looks_far_or_follows_no_change_keeps_its_bonus() -> None:
    # With k = 1 token 2 follows a change of 1, under the median of 3; token 5 one of 3.
    nearest = CreditRule(Strategy.COUPLED, q=1 / 3, k=1)
    same(gamma_of(nearest, Signals(waad=WAAD, fai=FAI), SIX), 1, 1, 1.5, 1, 1.25, 1.25)
    # At the lowest quantile only tokens with the smallest WAAD look locally.
    low = CreditRule(Strategy.COUPLED, q=1 / 3, tau_waad=0.0)
    same(gamma_of(low, Signals(waad=WAAD, fai=FAI), SIX), 1.25, 1, 1.25, 1, 1, 1.5)


def test_alpha_is_the_share_that_moves() -> None:
    rule = CreditRule(Strategy.COUPLED, q=1 / 3, alpha=0.2)
    same(gamma_of(rule, Signals(waad=WAAD, fai=FAI), SIX), 1.1, 1, 1.4, 1.1, 1, 1.4)


def test_a_token_that_introduces_several_anchors_gets_a_part_of_each() -> None:
    waad, fai = row(9.0, 1.0, 1.0, 9.0), row(0.0, 0.9, 0.8, 0.0)
    rule = CreditRule(Strategy.COUPLED, q=0.5)
    # Both anchors look locally; the change at 0 (8) is the largest before either.
    same(gamma_of(rule, Signals(waad=waad, fai=fai), torch.ones(1, 4, dtype=torch.long)), 1.5, 1.25, 1.25, 1)


def test_once_a_token_gets_its_largest_bonus_alone() -> None:
    waad, fai = row(9.0, 1.0, 1.0, 9.0), row(0.0, 0.9, 0.8, 0.0)
    rule = CreditRule(Strategy.COUPLED, q=0.5, once=True)
    same(gamma_of(rule, Signals(waad=waad, fai=fai), torch.ones(1, 4, dtype=torch.long)), 1.25, 1.25, 1.25, 1)
    less = replace(rule, gamma_amp=0.5, alpha=0.2)
    same(gamma_of(less, Signals(waad=waad, fai=fai), torch.ones(1, 4, dtype=torch.long)), 0.9, 0.6, 0.6, 1)


def test_matched_random_credit_exchanges_bonuses_within_a_tenth() -> None:
    # Twenty tokens, two a tenth; the anchors (tokens 3 and 12) look far and keep their bonus.
    fai = torch.full((1, 20), 0.1)
    fai[0, [3, 12]] = torch.tensor([0.9, 0.8])
    waad = torch.arange(20.0)[None]
    waad[0, [3, 12]] = 30.0
    noise = torch.arange(20.0, 0, -1)[None]  # the later token of each tenth comes first
    found = gamma_of(
        CreditRule(Strategy.MATCHED_RANDOM, q=0.1), Signals(waad, fai, noise=noise), torch.ones(1, 20).long()
    )
    assert found[0].nonzero().numel() == 20
    assert (found[0] > 1).nonzero().flatten().tolist() == [2, 13]
    same(found[:, [2, 13]], 1.5, 1.5)
    # A token without FAI is no place for credit, though it lies in the same tenth.
    fai[0, 13] = NAN
    found = gamma_of(
        CreditRule(Strategy.MATCHED_RANDOM, q=0.1), Signals(waad, fai, noise=noise), torch.ones(1, 20).long()
    )
    assert (found[0] > 1).nonzero().flatten().tolist() == [2, 12]


def test_first_credits_the_first_tokens() -> None:
    same(gamma_of(CreditRule(Strategy.FIRST, q=0.4), Signals(), FIVE), 1.5, 1.5, 1, 1, 1)
    last = CreditRule(Strategy.FIRST, q=0.4, end=End.BOTTOM)
    same(gamma_of(last, Signals(), FIVE), 1, 1, 1, 1.5, 1.5)


def test_bottom_is_coupled_credit_of_the_tokens_with_the_lowest_fai() -> None:
    # The lowest FAI are at tokens 0 and 3. Token 0 has WAAD 7 > 2; of the changes before token 3 (5, 1, 0) the
    # largest is at token 0.
    found = gamma_of(CreditRule(Strategy.BOTTOM, q=1 / 3), Signals(waad=WAAD, fai=FAI), SIX)
    same(found, 1.75, 1, 1, 1.25, 1, 1)
    by_end = gamma_of(CreditRule(Strategy.COUPLED, q=1 / 3, end=End.BOTTOM), Signals(waad=WAAD, fai=FAI), SIX)
    assert torch.equal(found, by_end)


def test_oracle_credits_the_tokens_that_decide_and_no_padding() -> None:
    rule, decide = CreditRule(Strategy.ORACLE, gamma_amp=3.0), torch.tensor([[True, False, False, True, True]])
    same(gamma_of(rule, Signals(decisions=decide), FIVE), 3, 1, 1, 3, 3)
    same(gamma_of(rule, Signals(decisions=decide), torch.tensor([[1, 1, 1, 1, 0]])), 3, 1, 1, 3, 1)
    with pytest.raises(ValueError, match="decisions"):
        gamma_of(rule, Signals(), FIVE)


def test_mask_leaves_nothing_to_tokens_without_credit() -> None:
    found = gamma_of(CreditRule(Strategy.MASK, q=1 / 3), Signals(waad=WAAD, fai=FAI), SIX)
    same(found, 1.25, 0, 1.25, 1.25, 0, 1.25)
    flat = gamma_of(CreditRule(Strategy.MASK, q=1 / 3, gamma_amp=1.0), Signals(waad=WAAD, fai=FAI), SIX)
    same(flat, 1, 0, 1, 1, 0, 1)
    # A response that is too short for FAI is left as it is, not lost.
    same(gamma_of(CreditRule(Strategy.MASK), Signals(waad=WAAD, fai=torch.full((1, 6), NAN)), SIX), *[1.0] * 6)


def test_a_rule_by_its_names_is_the_rule() -> None:
    made = {name: torch.rand(2, 30, generator=torch.Generator().manual_seed(0)) for name in ("waad", "fai")}
    real = torch.ones(2, 30, dtype=torch.long)
    names: list[dict[str, Any]] = [
        {"strategy": "local_chunk"},
        {"strategy": "first", "first_q": 0.1},
        {"end": "bottom"},
    ]
    members = (
        CreditRule(strategy=Strategy.LOCAL_CHUNK), CreditRule(strategy=Strategy.FIRST, first_q=0.1),
        CreditRule(end=End.BOTTOM),
    )  # fmt: skip
    for named, rule in zip(names, members, strict=True):
        torch.testing.assert_close(*(gamma_of(one, Signals(**made), real) for one in (CreditRule(**named), rule)))
    with pytest.raises(UserError, match="end=nonsense: use top, bottom"):
        CreditRule(end="nonsense")  # type: ignore[arg-type]


def test_soft_credit_is_proportional_to_fai_with_mean_1() -> None:
    rule = CreditRule(Strategy.SOFT)
    same(gamma_of(rule, Signals(fai=row(0.1, 0.4, 0.1, NAN, NAN)), FIVE), 0.5, 2, 0.5, 1, 1)
    same(gamma_of(rule, Signals(fai=row(0, 0, 0, NAN, NAN)), FIVE), 1, 1, 1, 1, 1)


def test_padding_neither_gets_nor_takes_credit() -> None:
    padded = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]])
    waad = torch.cat([WAAD, row(99.0, -99.0)], dim=1)
    fai = torch.cat([FAI, row(99.0, 99.0)], dim=1)
    for strategy in Strategy:
        rule = CreditRule(strategy, q=1 / 3)
        plain = gamma_of(rule, Signals(WAAD, FAI, FAI, FAI, FAI > 0.5), SIX)
        found = gamma_of(rule, Signals(waad, fai, fai, fai, fai > 0.5), padded)
        torch.testing.assert_close(found, torch.cat([plain, row(1.0, 1.0)], dim=1))


def test_mass_preserving_credit_has_mean_1_over_each_response() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    rule = CreditRule(Strategy.GLOBAL_ANCHOR, q=0.5, preserve_mass=True)
    gamma = gamma_of(rule, Signals(fai=torch.tensor([[4.0, 3, 2, 1], [2, 1, 9, 9]])), mask)
    torch.testing.assert_close(gamma, torch.tensor([[1.2, 1.2, 0.8, 0.8], [1.2, 0.8, 1, 1]]))


def test_signs_choose_which_advantages_are_scaled() -> None:
    gamma, advantages = torch.tensor([[1.5, 1.0], [1.5, 1.0]]), torch.tensor([2.0, -2.0])
    assert token_advantages(advantages, gamma).tolist() == [[3, 2], [-3, -2]]
    assert token_advantages(advantages, gamma, Signs.POSITIVE).tolist() == [[3, 2], [-2, -2]]
    assert token_advantages(advantages, gamma, Signs.NEGATIVE).tolist() == [[2, 2], [-3, -2]]


def test_no_gradient_goes_through_credit() -> None:
    waad, fai = WAAD.clone().requires_grad_(), FAI.clone().requires_grad_()
    gamma = gamma_of(CreditRule(), Signals(waad=waad, fai=fai), SIX)
    assert not gamma.requires_grad
    assert not token_advantages(torch.ones(1), torch.ones(1, 6, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    "wrong", [{"q": 0.0}, {"q": 1.1}, {"alpha": -0.1}, {"k": 0}, {"gamma_amp": -1.0}, {"tau_waad": 2.0}]
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        CreditRule(**wrong).check()


def test_a_missing_signal_is_an_error() -> None:
    with pytest.raises(ValueError, match="fai"):
        gamma_of(CreditRule(), Signals(waad=WAAD), SIX)


signals = arrays("float32", (3, 12), elements=st.floats(0, 10, width=16))
lengths = st.lists(st.integers(1, 12), min_size=3, max_size=3)


def mask_of(found: list[int]) -> torch.Tensor:
    return (torch.arange(12)[None] < torch.tensor(found)[:, None]).long()


@given(signals, signals, lengths, st.sampled_from(list(Strategy)), st.floats(0.05, 1))
def test_each_response_is_credited_by_itself(waad, fai, found, strategy, q) -> None:  # type: ignore[no-untyped-def]
    mask, rule = mask_of(found), CreditRule(strategy, q=q)
    named = {"waad": waad, "fai": fai, "entropy": fai, "noise": waad, "decisions": fai > 5}
    whole = gamma_of(rule, Signals(**{n: torch.tensor(v) for n, v in named.items()}), mask)
    for i, length in enumerate(found):
        alone = Signals(**{n: torch.tensor(v[i : i + 1, :length]) for n, v in named.items()})
        torch.testing.assert_close(whole[i : i + 1, :length], gamma_of(rule, alone, mask[i : i + 1, :length]))
        assert bool((whole[i, length:] == 1).all())


@given(signals, signals, lengths, st.floats(0, 1), st.integers(1, 5))
def test_coupled_credit_gives_in_all_what_global_anchor_credit_gives(waad, fai, found, alpha, k) -> None:  # type: ignore[no-untyped-def]
    mask = mask_of(found)
    given_signals = Signals(waad=torch.tensor(waad), fai=torch.tensor(fai))
    coupled = gamma_of(CreditRule(Strategy.COUPLED, alpha=alpha, k=k), given_signals, mask)
    anchors = gamma_of(CreditRule(Strategy.GLOBAL_ANCHOR), given_signals, mask)
    torch.testing.assert_close(coupled.sum(1), anchors.sum(1))


@given(signals, signals, signals, lengths, st.floats(0.05, 1))
def test_matched_random_credit_has_the_place_and_the_size_of_coupled_credit(waad, fai, noise, found, q) -> None:  # type: ignore[no-untyped-def]
    mask = mask_of(found)
    all_signals = Signals(waad=torch.tensor(waad), fai=torch.tensor(fai), noise=torch.tensor(noise))
    coupled, drawn = (
        gamma_of(CreditRule(s, q=q), all_signals, mask) for s in (Strategy.COUPLED, Strategy.MATCHED_RANDOM)
    )
    for ours, theirs, n in zip(coupled, drawn, found, strict=True):
        tenth = [10 * t // n for t in range(n)]
        assert sorted(zip(tenth, ours.tolist(), strict=False)) == sorted(zip(tenth, theirs.tolist(), strict=False))


@given(signals, lengths)
def test_soft_credit_has_mean_1_over_each_response(fai, found) -> None:  # type: ignore[no-untyped-def]
    mask = mask_of(found)
    gamma = gamma_of(CreditRule(Strategy.SOFT), Signals(fai=torch.tensor(fai)), mask)
    torch.testing.assert_close((gamma * mask).sum(1), mask.sum(1).float())


@given(signals, lengths, st.floats(0.05, 1))
def test_the_share_of_chosen_tokens_is_q(signal, found, q) -> None:  # type: ignore[no-untyped-def]
    mask = mask_of(found)
    picked = chosen(torch.tensor(signal), mask.bool(), q)
    for i, length in enumerate(found):
        assert int(picked[i].sum()) == max(1, int(torch.tensor(q * length + 0.5).floor()))
