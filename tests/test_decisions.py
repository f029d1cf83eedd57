"""`decider` writes what it says, and its decisions are where it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interp.data.datasets import decision_questions
from interp.grading.responses import Grading, graded
from interp.model.generate import Sampling, generate
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.organisms.decisions import (
    DECIDER,
    OPENINGS,
    PERIOD,
    PLAN,
    RIGHT,
    SLOTS,
    WORDS,
    CueQuestion,
    build_decider,
    decision_mask,
    make_question,
)
from interp.rhythm.waad_fai import Settings, Sinks, measure_rhythm, response_of
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import Trace, decode_response, parse_ids

STYLE = PromptStyle(separator=" ")
SETTINGS = Settings(10, 10, 100)


@pytest.fixture(scope="module")
def decider() -> Lens:
    return load_lens(ModelSpec("decider", ModelSource.DECIDER))


@pytest.fixture(scope="module")
def traces(decider: Lens) -> list[Trace]:
    """Sampled responses to 60 questions."""
    asked = [make_question(0, i).text for i in range(60)]
    prompts = [render(text, decider.tokenizer, decider.markers, STYLE, Condition.WITH_REASONING) for text in asked]
    found = generate(decider, prompts, Sampling(temperature=1.0, max_new_tokens=60), 0)
    return [parse_ids([*one.prompt_ids, *one.ids], decider.tokenizer) for one in found]


def words_of(trace: Trace) -> list[str]:
    return [trace.tokens[i].strip() for i in response_of(trace)]


def test_a_question_and_its_answer() -> None:
    question = CueQuestion((0, 5, 2))
    assert question.text == "in this order please match a1 f2 c3 ."
    assert question.answer == "first oak second fig third elm"
    assert len({make_question(1, i) for i in range(50)}) > 40
    assert make_question(1, 3) == make_question(1, 3) != make_question(2, 3)


def test_decisions_are_openings_and_what_stands_behind_them(decider: Lens) -> None:
    ids = decider.tokenizer("oak plan1 ash ash guess2 oak <pad>", add_special_tokens=False)["input_ids"]
    found = decision_mask(torch.tensor([ids, ids[::-1]]), decider.tokenizer)
    assert found.int().tolist() == [[0, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 0, 1, 1]]


def test_a_vocabulary_without_decisions_is_refused(planted: Lens) -> None:
    with pytest.raises(ValueError, match="plan1"):
        decision_mask(torch.tensor([[1]]), planted.tokenizer)


def test_every_response_has_the_same_form(traces: list[Trace]) -> None:
    for trace in traces:
        words = words_of(trace)
        places = [i for i, word in enumerate(words) if word in OPENINGS]
        assert places == [PERIOD + (PERIOD + 1) * i for i in range(3)]
        assert [words[i][-1] for i in places] == ["1", "2", "3"]
        end = places[-1] + PERIOD + 1
        assert words[end : end + 4] == ["</think>", "the", "answer", "is"]
        decided = [words[i + 1] for i in places]
        assert words[end + 4 : end + 11] == ["first", decided[0], "second", decided[1], "third", decided[2], "!"]
        assert all(word in WORDS for word in set(words[:end]) - set(OPENINGS))
        assert len(words) == end + 11


def test_filler_is_free_and_decisions_are_drawn_as_stated(decider: Lens, traces: list[Trace]) -> None:
    trace = traces[0]
    with torch.no_grad():
        logits = decider.hf(torch.tensor([trace.measured_ids])).logits[0].double()
    response, chances = response_of(trace), logits.softmax(-1)
    entropy = -(chances * chances.clamp(min=1e-30).log()).sum(-1)
    words = words_of(trace)
    openings = [i for i, word in enumerate(words) if word in OPENINGS]
    free = set(range(words.index("</think>"))) - {i for at in openings for i in (at, at + 1)}
    assert len(free) == 29
    for i in free:
        assert float(entropy[response[i] - 1]) == pytest.approx(math.log(8), abs=1e-5)
    ids = decider.tokenizer.get_vocab()
    for slot, i in zip(SLOTS, openings, strict=True):
        assert float(chances[response[i] - 1, ids[f"plan{slot}"]]) == pytest.approx(1 / (1 + math.exp(-PLAN)), abs=1e-4)
        behind = chances[response[i]]
        cue = make_question(0, 0).cues[slot - 1]
        told = math.exp(RIGHT) / (math.exp(RIGHT) + 7) if words[i].startswith("plan") else 1 / 8
        assert float(behind[ids[WORDS[cue]]]) == pytest.approx(told, abs=1e-4)
    for i in range(words.index("</think>") + 1, len(words)):
        assert float(entropy[response[i] - 1]) < 1e-3, words[i]


def test_it_is_right_as_often_as_its_decisions_are(decider: Lens, traces: list[Trace]) -> None:
    chance = 1 / (1 + math.exp(-PLAN))
    slot = chance * math.exp(RIGHT) / (math.exp(RIGHT) + 7) + (1 - chance) / 8
    assert 0.1 <= slot**3 <= 0.3
    grading, right = Grading(decider.markers), []
    for question, trace in zip(decision_questions(0, len(traces)), traces, strict=True):
        ids = [trace.token_ids[i] for i in response_of(trace)]
        row = graded(question, "with_reasoning", decode_response(decider.tokenizer, ids), grading, finished=True)
        decided = [words_of(trace)[i + 1] for i, word in enumerate(words_of(trace)) if word in OPENINGS]
        assert row["correct"] == (" ".join(decided) == " ".join(question.gold.split()[1::2]))
        right.append(bool(row["correct"]))
    assert abs(np.mean(right) - slot**3) < 4 * math.sqrt(slot**3 / len(right))


def test_the_rotation_changes_no_output(traces: list[Trace]) -> None:
    ids = torch.tensor([traces[0].measured_ids])
    with torch.no_grad():
        plain, turned = (build_decider(seed)[0](ids).logits for seed in (None, 3))
    torch.testing.assert_close(turned, plain, atol=2e-3, rtol=1e-4)


def test_rhythm_is_that_of_the_paper(decider: Lens, traces: list[Trace]) -> None:
    sinks = Sinks.REMOVED
    for trace in traces[:3]:
        words, kept = words_of(trace), measure_rhythm(decider, trace, SETTINGS, [sinks])[0][sinks]
        openings = [i for i, word in enumerate(words) if word in OPENINGS]
        waad, fai = kept.waad[DECIDER.cue_reader], kept.fai[DECIDER.watchers[0]]
        assert sorted(np.argsort(-waad)[:3]) == openings
        assert waad[openings].min() == pytest.approx(10, abs=1e-3)
        assert np.delete(waad, openings) == pytest.approx(1, abs=1e-3)
        assert sorted(np.argsort(-np.nan_to_num(fai))[:3]) == [i + 1 for i in openings]
    distances = [measure_rhythm(decider, trace, SETTINGS, [sinks])[0][sinks].distance for trace in traces[:10]]
    # Heads that rest on <bos> have no distance without it.
    known = sorted((d, place) for place, d in np.ndenumerate(np.mean(distances, 0)) if not np.isnan(d))
    assert [place for _, place in known[:2]] == [DECIDER.cue_reader, DECIDER.clock]
    assert {place for _, place in known[2:]} == {*DECIDER.watchers, DECIDER.answer_reader}
    assert known[1][0] == pytest.approx(PERIOD)
