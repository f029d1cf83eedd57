"""Credit by sentence: whole sentences in the order of their mean signal, by hand, on a batch, in a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from interp.credit import batches, grpo
from interp.credit.by_sentence import first_tokens, sentence_numbers_of, whole_sentences
from interp.credit.function import credit
from interp.credit.gamma import BY_SENTENCE, CreditRule, End, Signals, Strategy, Unit, coupled_shares, gamma_of
from interp.credit.rows import credited_rows
from interp.credit.signals import CreditHeads, Measuring
from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.rhythm.waad_fai import Settings
from interp.text.trace import parse_response
from tests.test_credit import NAN, row, same
from tests.test_credit_trainer import losses, make

SENTENCES = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2]])
EIGHT = torch.ones(1, 8, dtype=torch.long)


def by_sentence(strategy: Strategy, q: float, **more: object) -> CreditRule:
    return CreditRule(strategy, q=q, unit=Unit.SENTENCE, **more)


def test_sentences_are_credited_in_order_of_their_mean_until_the_share_is_reached() -> None:
    fai = row(0.3, 0.3, 0.9, 0.0, NAN, 0.1, 0.1, 0.4)  # means .3, .45, .2: a token without FAI does not count
    signals = Signals(fai=fai, sentences=SENTENCES)
    second = (1, 1, 1.5, 1.5, 1.5, 1, 1, 1)
    same(gamma_of(by_sentence(Strategy.GLOBAL_ANCHOR, 0.1), signals, EIGHT), *second)
    same(gamma_of(by_sentence(Strategy.GLOBAL_ANCHOR, 3 / 8), signals, EIGHT), *second)
    same(gamma_of(by_sentence(Strategy.GLOBAL_ANCHOR, 0.5), signals, EIGHT), *([1.5] * 5), 1, 1, 1)
    bottom = by_sentence(Strategy.GLOBAL_ANCHOR, 0.1, end=End.BOTTOM)
    same(gamma_of(bottom, signals, EIGHT), *([1] * 5), 1.5, 1.5, 1.5)
    scaled = by_sentence(Strategy.GLOBAL_ANCHOR, 0.1, preserve_mass=True)
    assert float(gamma_of(scaled, signals, EIGHT).mean()) == pytest.approx(1)


def test_equal_sentences_go_by_their_place_and_those_without_a_signal_get_nothing() -> None:
    signals = Signals(entropy=row(1, 1, NAN, NAN, NAN, 1, 1, 1), sentences=SENTENCES)
    same(gamma_of(by_sentence(Strategy.ENTROPY, 0.2), signals, EIGHT), 1.5, 1.5, *([1] * 6))
    same(gamma_of(by_sentence(Strategy.ENTROPY, 1.0), signals, EIGHT), 1.5, 1.5, 1, 1, 1, 1.5, 1.5, 1.5)


def test_padding_is_in_no_sentence() -> None:
    sentences = torch.tensor([[0, 0, 1, -1], [0, 1, 2, 3]])
    mask = (sentences >= 0).long()
    signals = Signals(entropy=torch.tensor([[0.1, 0.1, 0.5, 9.0], [0.1, 0.2, 0.3, 0.4]]), sentences=sentences)
    found = gamma_of(by_sentence(Strategy.ENTROPY, 0.5), signals, mask)
    # The first response of three tokens wants two: its last sentence has one, so the first goes with it.
    assert found.tolist() == [[1.5, 1.5, 1.5, 1], [1, 1, 1.5, 1.5]]
    assert not whole_sentences(torch.zeros(1, 0), torch.zeros(1, 0).long(), torch.zeros(1, 0).bool(), 0.5).numel()


def test_coupled_sentences_are_those_with_the_most_bonus_a_token() -> None:
    torch.manual_seed(0)
    waad, fai = torch.rand(1, 8) * 10, torch.rand(1, 8)
    rule = by_sentence(Strategy.COUPLED, 0.3)
    shares = coupled_shares(rule, waad, fai, EIGHT.bool())[0]
    means = [float(shares[SENTENCES[0] == s].mean()) for s in range(3)]
    first = max(range(3), key=means.__getitem__)
    found = gamma_of(rule, Signals(waad=waad, fai=fai, sentences=SENTENCES), EIGHT)
    assert bool((found[0, SENTENCES[0] == first] == 1.5).all())


def test_random_sentences_are_as_often_short_as_long() -> None:
    """A mean over more numbers would lie nearer to the middle, and short sentences at the top."""
    torch.manual_seed(0)
    n = 400
    sentences = torch.tensor([[0] * 1 + [1] * 9 + [2] * 9]).expand(n, -1)
    mask = torch.ones_like(sentences)
    signals = Signals(noise=torch.rand(sentences.shape), sentences=sentences)
    gamma = gamma_of(by_sentence(Strategy.RANDOM, 0.01), signals, mask)
    assert float((gamma[:, 0] > 1).float().mean()) == pytest.approx(1 / 3, abs=0.07)
    assert first_tokens(sentences, mask.bool())[0].nonzero().flatten().tolist() == [0, 1, 10]


def test_tokens_of_tools_take_no_credit_from_others(words: PreTrainedTokenizerBase) -> None:
    """They stand in the middle of a response, and the mask leaves them out."""
    ids = torch.tensor([words("Tom 3 pens . Mia 5 . Leo 2 . Tom 6 pens .", add_special_tokens=False)["input_ids"]])
    mask = torch.ones_like(ids)
    mask[0, 4:7] = 0  # Mia's
    sentences = sentence_numbers_of(ids, mask, words)
    assert sentences[0].tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 4
    assert first_tokens(sentences, mask.bool())[0].nonzero().flatten().tolist() == [0, 7, 10]
    for strategy in (Strategy.FIRST, Strategy.RANDOM):
        signals = Signals(noise=torch.rand(ids.shape), sentences=sentences)
        gamma = gamma_of(by_sentence(strategy, 1.0), signals, mask)
        assert (gamma[0] > 1).tolist() == mask.bool()[0].tolist()
    within = torch.tensor([[0] * 3 + [1] * 3])
    mask = torch.tensor([[1, 0, 1, 0, 1, 1]])
    assert first_tokens(within, mask.bool())[0].nonzero().flatten().tolist() == [0, 4], "one number a sentence"


@pytest.mark.parametrize("strategy", [Strategy.COUPLED, Strategy.BOTTOM])
def test_sentences_without_a_bonus_are_not_credited(strategy: Strategy) -> None:
    """Where FAI is not known there is none, and what is wanted is not filled up by place."""
    nothing = Signals(waad=torch.rand(1, 8), fai=torch.full((1, 8), torch.nan), sentences=SENTENCES)
    assert (gamma_of(by_sentence(strategy, 0.5), nothing, EIGHT) == 1).all()
    fai = torch.tensor([[0.5, 0.9, *[torch.nan] * 6]])
    some = Signals(waad=torch.ones(1, 8), fai=fai, sentences=SENTENCES)
    credited = gamma_of(by_sentence(strategy, 0.9), some, EIGHT)[0] > 1
    assert set(SENTENCES[0][credited].tolist()) == {0}


def test_first_sentences_and_their_own_share() -> None:
    signals = Signals(sentences=SENTENCES)
    same(gamma_of(by_sentence(Strategy.FIRST, 0.2), signals, EIGHT), 1.5, 1.5, *([1] * 6))
    same(gamma_of(CreditRule(Strategy.FIRST, q=0.1, first_q=0.4), Signals(), EIGHT), 1.5, 1.5, 1.5, *([1] * 5))
    others = CreditRule(Strategy.ENTROPY, q=0.1, first_q=0.4)
    assert int((gamma_of(others, Signals(entropy=torch.rand(1, 8)), EIGHT) > 1).sum()) == 1


def test_rules_that_have_no_sentences_are_refused() -> None:
    for strategy in Strategy:
        rule = by_sentence(strategy, 0.4)
        if strategy in (Strategy.UNIFORM, *BY_SENTENCE):
            rule.check()
        else:
            with pytest.raises(UserError, match=f"unit=sentence is not made for strategy={strategy}, but for random"):
                rule.check()
    assert by_sentence(Strategy.UNIFORM, 0.4).needs == ()
    with pytest.raises(UserError, match="first_q"):
        CreditRule(first_q=1.5).check()


RESPONSE = ["Tom", "5", "apples", ".", "Tom", "3", "apples", ".", "</think>", "Who", "?", "Tom", "7"]
NUMBERS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3]


def test_sentences_of_a_batch_by_hand(words: PreTrainedTokenizerBase) -> None:
    own = words.convert_tokens_to_ids(RESPONSE)
    assert words.unk_token_id not in own
    ids = torch.tensor([own, own[:6] + [words.pad_token_id] * 7, [words.pad_token_id] * 13])
    mask = torch.tensor([[1] * 13, [1] * 6 + [0] * 7, [0] * 13])
    found = sentence_numbers_of(ids, mask, words)
    assert found.tolist() == [NUMBERS, NUMBERS[:6] + [-1] * 7, [-1] * 13]


def test_the_rows_of_a_trace_are_credited_by_whole_sentences(small_lens: Lens) -> None:
    own = small_lens.tokenizer.convert_tokens_to_ids(RESPONSE)
    prompt = small_lens.tokenizer.convert_tokens_to_ids(["<bos>", "Who", "?", "<think>"])
    trace = parse_response(prompt, own, small_lens.tokenizer, small_lens.markers)
    measuring = Measuring(CreditHeads.of([(0, 1)], [(2, 1)]), Settings(4, 1, 6))
    rows = credited_rows(small_lens, trace, by_sentence(Strategy.ENTROPY, 0.3), measuring, 0)
    gamma = {n: {one["gamma"] for one, m in zip(rows, NUMBERS, strict=True) if m == n} for n in set(NUMBERS)}
    assert all(len(values) == 1 for values in gamma.values())
    assert {frozenset(values) for values in gamma.values()} == {frozenset([1.0]), frozenset([1.5])}


def test_the_library_needs_the_sentences(small_lens: Lens) -> None:
    ids = torch.randint(5, 20, (2, 12))
    mask, completions = torch.ones_like(ids), torch.ones(2, 8, dtype=torch.long)
    heads, rule = CreditHeads([Head(0, 0)], [Head(1, 0)]), by_sentence(Strategy.GLOBAL_ANCHOR, 0.4)
    about = {"heads": heads, "settings": Settings(4, 1, 6)}
    with pytest.raises(UserError, match="credit by sentence needs sentences="):
        credit(small_lens.hf, ids, mask, completions, rule, **about)
    sentences = SENTENCES.expand(2, -1)
    gamma = credit(small_lens.hf, ids, mask, completions, rule, sentences=sentences, **about)
    for values in gamma:
        assert all(len(set(values[sentences[0] == s].tolist())) == 1 for s in range(3))
    assert set(gamma.flatten().tolist()) == {1.0, 1.5}


@pytest.mark.parametrize("extra_pass", [True, False])
@pytest.mark.parametrize("strategy", [Strategy.ENTROPY, Strategy.GLOBAL_ANCHOR])
def test_a_trainer_credits_whole_sentences(
    words: PreTrainedTokenizerBase,
    tmp_path: Path,
    strategy: Strategy,
    extra_pass: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model with random weights writes no full stops: here a sentence has three tokens."""
    in_threes = torch.arange(12)[None] // 3

    def threes(ids: torch.Tensor, mask: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
        assert tokenizer is words
        return torch.where(mask > 0, in_threes[:, : ids.shape[1]], -1)

    monkeypatch.setattr(batches, "sentence_numbers_of", threes)
    put, seen = batches.put, []

    def watched(batch: dict[str, Any], gamma: torch.Tensor, rule: CreditRule) -> None:
        seen.append((gamma, batch["completion_mask"]))
        put(batch, gamma, rule)

    monkeypatch.setattr(grpo, "put", watched)
    losses(make(words, tmp_path, by_sentence(strategy, 0.3), extra_pass))
    both = 0
    for gamma, mask in seen:
        for values, real in zip(gamma, mask.bool(), strict=True):
            own = [set(values[real & (in_threes[0, : len(real)] == s)].tolist()) for s in range(4)]
            assert all(len(one) <= 1 for one in own)
            both += {1.0} in own and {1.5} in own
    assert both > 4
