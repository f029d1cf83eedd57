"""Training by a curriculum of accuracy: what it waits for, what it encodes, and that interruptions change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.organisms.lookups import Kind, Piece, training_pieces, written
from interp.organisms.word_llama import Shape
from interp.organisms.word_problems import Reasoning
from interp.training import curriculum
from interp.training.curriculum import (
    IGNORED,
    LEVELS,
    PROBLEMS,
    Progress,
    Recipe,
    Texts,
    accuracy,
    new_reasoner,
    train,
)

SMALL = Recipe(steps=4, decay_steps=2, batch=3, warmup_steps=1, every=2, shape=Shape(1, 16, 2, 16, 8))


def test_encoding_is_the_tokenizers() -> None:
    _, tokenizer = new_reasoner(SMALL)
    texts = Texts(tokenizer, SMALL)
    for index in range(20):
        prompt, pieces = training_pieces(0, index, {Reasoning.FULL: 1.0})
        ids, labels, kinds = texts.encode(prompt, pieces)
        assert ids == tokenizer(f"<bos> {prompt} {written(pieces)} <eos>")["input_ids"]
        assert len(ids) == len(labels) == len(kinds)
        assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
        n_prompt = len(tokenizer(f"<bos> {prompt}")["input_ids"])
        assert set(labels[:n_prompt]) == {IGNORED}


def test_accuracy_is_by_kind() -> None:
    model, tokenizer = new_reasoner(SMALL)
    texts = Texts(tokenizer, SMALL)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely: the first of the vocabulary wins
    pad = tokenizer.convert_ids_to_tokens(0)
    pieces = (Piece("one", Kind.FINAL), Piece(pad, Kind.SUM), Piece("two", Kind.SUM, learn=False))
    found = accuracy(model, texts.side_by_side([("Say.", pieces)]))
    assert found[Kind.FINAL] == 0.0
    assert found[Kind.SUM] == 1.0, "what is not learnt does not count"


def test_a_level_ends_when_its_worst_kind_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer = new_reasoner(SMALL)
    model, texts = new_reasoner(SMALL)[0], Texts(tokenizer, SMALL)
    found: dict[Kind, float] = {}
    monkeypatch.setattr(curriculum, "accuracy", lambda *_: found)
    now = Progress(level=PROBLEMS - 1)

    def advance(**values: float) -> Progress:
        found.clear()
        found.update({Kind[name]: value for name, value in values.items()})
        curriculum._advance(SMALL, now, texts, model, 0.0, lambda *_: None)
        return now

    assert advance(CHAIN_ITEM=0.99, PROMPT_ITEM=0.5, SUM=0.99).level == PROBLEMS - 1
    assert advance(CHAIN_ITEM=0.99, PROMPT_ITEM=0.95, SUM=0.92).level == PROBLEMS - 1, "sums must hold as well"
    assert advance(CHAIN_ITEM=0.99, PROMPT_ITEM=0.95, SUM=0.96, FORM=0.1).level == PROBLEMS, "form is drawn"
    now.step = 2
    assert now.problems_from == 0
    assert advance(SUM=0.98).good == 0, "the price of attention has not risen yet"
    now.step = 1000
    assert advance(SUM=0.98).decay_from is None
    assert advance(SUM=0.90).good == 0
    advance(SUM=0.98)
    assert advance(SUM=0.98).decay_from == 1000, "twice in a row"


def test_the_price_of_attention_rises() -> None:
    def price(step: int) -> float:
        return curriculum._price(Recipe(), Progress(step, PROBLEMS, problems_from=1000))

    assert curriculum._price(Recipe(), Progress(900, 0)) == 0.0
    assert price(1000) == price(1250) == 0.05
    assert price(1300) == pytest.approx(0.1)
    assert price(1400) == pytest.approx(0.4)
    assert price(4000) == Recipe().rest_most


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = replace(SMALL, steps=100, decay_steps=40, warmup_steps=10)
    rate = [curriculum._rate(recipe, Progress(step)) for step in range(100)]
    assert rate[0] == pytest.approx(0.1)
    assert rate[9] == rate[59] == 1.0
    assert rate[80] == pytest.approx(0.5)
    assert rate[99] < 0.01
    early = Progress(50, decay_from=30)
    assert curriculum._rate(recipe, early) == pytest.approx(0.5)
    assert curriculum._end(recipe, early) == 70


def test_the_price_of_attention_is_what_eager_weights_say() -> None:
    model, tokenizer = new_reasoner(replace(SMALL, shape=Shape(2, 32, 2, 32, 16, initial_scale=0.5)))
    batch = Texts(tokenizer, SMALL).batch(0, PROBLEMS)
    model.set_attn_implementation("eager")
    found = model(batch.ids, labels=batch.labels, output_attentions=True)
    real = (batch.ids != 0).float()
    looking = torch.stack([1 - weights[..., 0] for weights in found.attentions])  # layer text head pos
    spent = (looking * real[:, None]).sum((1, 3)) / real.sum()
    price = (spent + curriculum.LEAST).sqrt().mean()
    assert price > 0.3
    loss = (found.loss + 0.05 * price).detach()
    model.set_attn_implementation("sdpa")
    ours = curriculum._loss(model, batch, 0.05)
    torch.testing.assert_close(ours.detach(), loss)
    ours.backward()
    assert model.model.layers[1].self_attn.q_proj.weight.grad.abs().max() > 0


def test_every_level_has_texts() -> None:
    _, tokenizer = new_reasoner(SMALL)
    texts = Texts(tokenizer, SMALL)
    for level in range(len(LEVELS)):
        for step in range(6):
            batch = texts.batch(step, level)
            assert batch.ids.shape == batch.labels.shape == batch.kinds.shape
            assert (batch.labels != IGNORED).any()


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def stop(now: Progress, *_: object) -> None:
        if now.step == 4:
            raise KeyboardInterrupt

    seen: list[int] = []
    whole, _ = train(SMALL, tmp_path / "whole", lambda now, *_: seen.append(now.step))
    assert seen == [2, 4]
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "cut", stop)
    again, _ = train(SMALL, tmp_path / "cut", lambda *_: None, resume=True)
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".safetensors"}, "no pickle"
    for (name, first), second in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
