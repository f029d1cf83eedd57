"""All ways to find the sentences that carry the answer, on texts where these are known by construction."""

from __future__ import annotations

from benchmarks.sentence_truth import known_planted, known_reasoner, scored
from interp.model.lens import Lens
from interp.organisms.planted import COLOURS, NUMBERS
from interp.text.sentences import reasoning_sentences


def test_on_planted_every_way_names_the_number_word_alone(planted: Lens) -> None:
    texts = list(known_planted(planted, 7))
    for known in texts:
        words = known.trace.text.split()
        (colour,), (number,) = ([w for w in words if w in kind] for kind in (COLOURS, NUMBERS))
        assert COLOURS.index(colour) != NUMBERS.index(number), "else the model would have written it anyway"
    scores = scored(planted, iter(texts), draws=8)
    for way in ("suppressed", "demanded", "resampled", "relevance", "answer_mass", "rfh_mass"):
        assert (scores[way].precision, scores[way].recall) == (1.0, 1.0), way


def test_on_reasoner_interventions_name_what_states_and_what_decides_and_attention_does_not(reasoner: Lens) -> None:
    texts = list(known_reasoner(reasoner, 4))
    assert {known.states == known.decides for known in texts} == {True, False}
    for known in texts:
        assert known.sentences == reasoning_sentences(known.trace)
        start, end = known.sentences[known.decides]
        step = known.trace.text[known.trace.offsets[start][0] : known.trace.offsets[end - 1][1]].split()
        if "=" in step:
            left, sign, right, total = int(step[-5]), step[-4], int(step[-3]), int(step[-1].rstrip("."))
            assert total != (left + right if sign == "+" else left - right), "the slip"
    scores = scored(reasoner, iter(texts), draws=6)
    for way in ("suppressed", "demanded", "relevance"):
        assert scores[way].recall >= 0.8, way
        assert scores[way].precision >= 0.8, way
    assert scores["resampled"].recall >= 0.8
    assert scores["resampled"].precision >= 0.8
    assert scores["rfh_mass"].recall >= 0.8
    assert scores["rfh_mass"].precision <= 0.5
    # What rollouts cost, which nothing else here does.
    assert scores["resampled"].tokens > 1000
    assert scores["suppressed"].tokens == scores["demanded"].tokens == 0
