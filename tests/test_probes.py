"""Induction and retrieval heads: against TransformerLens' detector and the definition by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformer_lens.head_detector import detect_head

from interp.errors import UserError
from interp.heads.haystack import CUE, NEEDLES, VOCABULARY_NEEDLE, haystacks, ordinary_ids, reads_english
from interp.heads.probes import HALF, Decoding, induction_scores, retrieval_scores
from interp.heads.scores import Head, rank_heads
from interp.model.lens import Lens
from interp.stats import rng_for
from interp.text.prompts import PromptStyle
from tests.test_attention import full_patterns


def test_induction_equals_transformer_lens_on_text(word_reasoner: Lens) -> None:
    """Where words survive the way through text, the detector itself gives the same scores."""
    words = ordinary_ids(word_reasoner.tokenizer)
    half = rng_for(0, "induction", 3).choice(words, min(HALF, len(words)), replace=False).tolist()
    names = word_reasoner.tokenizer.convert_ids_to_tokens([word_reasoner.tokenizer.bos_token_id, *half, *half])
    text = " ".join(names)
    assert word_reasoner.bridge.to_tokens(text, prepend_bos=False)[0].tolist() == [
        word_reasoner.tokenizer.bos_token_id,
        *half,
        *half,
    ]

    class WithoutSecondBos:
        """The detector tokenizes by itself and would add another <bos>."""

        cfg, run_with_cache = word_reasoner.bridge.cfg, word_reasoner.bridge.run_with_cache

        @staticmethod
        def to_tokens(seq: str) -> torch.Tensor:
            return word_reasoner.bridge.to_tokens(seq, prepend_bos=False)

    expected = detect_head(WithoutSecondBos(), text, "induction_head").numpy()
    np.testing.assert_allclose(induction_scores(word_reasoner, 0, 3), expected, atol=1e-6)


def test_a_language_model_has_both_kinds_and_they_overlap(smollm2: Lens) -> None:
    induction = np.mean([induction_scores(smollm2, 0, i) for i in range(2)], axis=0)
    assert induction.max() > 0.3
    assert np.median(induction) < 0.05
    needles = haystacks(smollm2.tokenizer, smollm2.markers, PromptStyle(), [120], [0.5], 0)
    copied = retrieval_scores(smollm2, needles[0], Decoding.FORCED, 0)
    assert copied.recalled == 1
    assert copied.scores.max() > 0.4
    assert np.median(copied.scores) == 0
    assert set(rank_heads(induction, 10)) & set(rank_heads(copied.scores, 10))


def test_a_generated_answer_is_scored_as_the_needle_is(smollm2: Lens) -> None:
    needle = haystacks(smollm2.tokenizer, smollm2.markers, PromptStyle(), [100], [0.9], 0)[0]
    found = retrieval_scores(smollm2, needle, Decoding.GENERATED, 30)
    assert found.recalled > 0.7, "it repeats the sentence"
    assert found.scores.max() > 0.4
    nothing = retrieval_scores(smollm2, needle, Decoding.GENERATED, 1)
    assert nothing.recalled < 0.2
    assert nothing.scores.max() <= 1 / len(set(needle.ids[needle.needle.start : needle.needle.stop])) + 1e-9


def test_retrieval_by_definition(word_reasoner: Lens) -> None:
    needle = haystacks(word_reasoner.tokenizer, word_reasoner.markers, PromptStyle(), [60], [0.4], 0)[0]
    found = retrieval_scores(word_reasoner, needle, Decoding.FORCED, 0).scores
    wanted = needle.ids[needle.needle.start + CUE : needle.needle.stop]
    ids = [*needle.ids, *wanted]
    patterns = full_patterns(word_reasoner, tuple(ids))
    for head in (Head(layer, h) for layer in range(word_reasoner.n_layers) for h in range(word_reasoner.n_heads)):
        copied = set()
        for step, token in enumerate(wanted):
            key = int(patterns[head.layer, head.head, len(needle.ids) - 1 + step].argmax())
            if key in needle.needle and ids[key] == token:
                copied.add(token)
        assert found[head] == pytest.approx(len(copied) / len(set(wanted))), head


def test_needles_lie_where_asked(smollm2: Lens) -> None:
    assert reads_english(smollm2.tokenizer)
    depths = [0.0, 0.5, 1.0]
    made = haystacks(smollm2.tokenizer, smollm2.markers, PromptStyle(), [200], depths, 0)
    for haystack, depth, (sentence, question) in zip(made, depths, NEEDLES, strict=False):
        text = smollm2.tokenizer.decode(haystack.ids)
        assert smollm2.tokenizer.decode(haystack.ids[haystack.needle.start : haystack.needle.stop]).strip() == sentence
        assert question in text
        assert 200 <= len(haystack.ids) < 330
        place = haystack.needle.start / len(haystack.ids)
        assert abs(place - 0.75 * depth) < 0.2
    assert made == haystacks(smollm2.tokenizer, smollm2.markers, PromptStyle(), [200], depths, 0)


def test_a_vocabulary_without_english_gets_needles_of_its_own_words(word_reasoner: Lens) -> None:
    assert not reads_english(word_reasoner.tokenizer)
    haystack = haystacks(word_reasoner.tokenizer, word_reasoner.markers, PromptStyle(), [80], [0.25], 0)[0]
    needle = haystack.ids[haystack.needle.start : haystack.needle.stop]
    assert len(needle) == VOCABULARY_NEEDLE
    assert haystack.ids[-CUE:] == needle[:CUE]
    assert haystack.needle.start == 1 + 20
    assert word_reasoner.tokenizer.unk_token_id not in haystack.ids
    outside = set(haystack.ids[1 : haystack.needle.start]) | set(haystack.ids[haystack.needle.stop : -CUE])
    assert not outside & set(needle), "one place to copy from"


@pytest.mark.parametrize(("lengths", "depths"), [([10], [0.5]), ([100], [1.5])])
def test_impossible_haystacks(word_reasoner: Lens, lengths: list[int], depths: list[float]) -> None:
    with pytest.raises(UserError, match="haystacks need depths between 0 and 1 and at least 40 tokens"):
        haystacks(word_reasoner.tokenizer, word_reasoner.markers, PromptStyle(), lengths, depths, 0)
