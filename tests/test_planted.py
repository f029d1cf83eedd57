"""The ground truth is what it claims to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import interp
from interp.errors import UserError
from interp.heads.reductions import SegmentMasses
from interp.heads.unrelated import with_unrelated_answer
from interp.model.generate import Sampling, generate
from interp.model.lens import Lens
from interp.model.streaming import stream
from interp.organisms import planted as organism
from interp.organisms.planted import CIRCUIT, NUMBERS, make_question
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import Segment, Trace, parse_ids

STYLE = PromptStyle(separator=" ")


def respond(lens: Lens, n: int, condition: Condition) -> list[tuple[str, str]]:
    """(right answer, text of the response) of the first n questions."""
    questions = [make_question(0, i) for i in range(n)]
    prompts = [render(q.question, lens.tokenizer, lens.markers, STYLE, condition) for q in questions]
    responses = generate(lens, prompts, Sampling(max_new_tokens=24), 0)
    return [
        (q.answer, lens.tokenizer.decode(r.ids, skip_special_tokens=True))
        for q, r in zip(questions, responses, strict=True)
    ]


def traces(lens: Lens, n: int) -> list[Trace]:
    questions = [make_question(0, i) for i in range(n)]
    prompts = [render(q.question, lens.tokenizer, lens.markers, STYLE, Condition.WITH_REASONING) for q in questions]
    return [
        parse_ids([*r.prompt_ids, *r.ids], lens.tokenizer)
        for r in generate(lens, prompts, Sampling(max_new_tokens=24), 0)
    ]


def answer_logits(lens: Lens, trace: Trace, hooks: list) -> torch.Tensor:
    """Next-token logits where the digit is predicted, three tokens into the answer."""
    position = trace[Segment.ANSWER].start + 2
    with torch.no_grad():
        return lens.bridge.run_with_hooks(torch.tensor([trace.measured_ids]), fwd_hooks=hooks)[0, position]


def test_it_answers_by_reasoning_and_only_by_reasoning(planted: Lens) -> None:
    with_reasoning = respond(planted, 40, Condition.WITH_REASONING)
    assert all(text.endswith(f"the answer equals {gold}!") for gold, text in with_reasoning)
    without = respond(planted, 40, Condition.WITHOUT_REASONING)
    right = sum(f"equals {gold}" in text for gold, text in without)
    assert right <= 14, "chance is one in eight"


def test_embeddings_have_equal_norm(planted: Lens) -> None:
    norms = planted.hf.get_input_embeddings().weight.norm(dim=-1)
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))


def test_the_heads_look_where_they_should(planted: Lens) -> None:
    for trace in traces(planted, 5):
        masses = SegmentMasses(trace, planted.n_layers, planted.n_heads)
        stream(planted, trace.measured_ids, masses)
        reading = masses.of(Segment.ANSWER, Segment.REASONING)
        assert reading[CIRCUIT.rfh] > 0.999
        assert reading[CIRCUIT.decoy] > 0.999
        for place in CIRCUIT.prompt_readers:
            assert masses.of(Segment.ANSWER, Segment.PROMPT)[place] > 0.999
        for place in CIRCUIT.previous_token:
            assert masses.distance[*place, 0] == pytest.approx(1, abs=1e-4)
        rest = reading.clone()
        rest[CIRCUIT.rfh] = rest[CIRCUIT.decoy] = 0
        assert rest.max() < 0.5, "only the even head gives the reasoning its share"


def test_only_the_rfh_carries_the_answer(planted: Lens) -> None:
    """Each head's output set to zero: without the RFH nothing favours the right digit, without another all is well."""
    trace = traces(planted, 1)[0]
    gold = trace.token_ids[trace[Segment.ANSWER].start + 3]
    digits = planted.tokenizer.convert_tokens_to_ids(list(organism.DIGITS))
    plain = answer_logits(planted, trace, [])
    assert plain.argmax() == gold
    for layer in range(planted.n_layers):
        for head in range(planted.n_heads):

            def silence(z: torch.Tensor, hook: object, head: int = head) -> torch.Tensor:
                z[:, :, head] = 0
                return z

            logits = answer_logits(planted, trace, [(f"blocks.{layer}.attn.hook_z", silence)])
            if (layer, head) == CIRCUIT.rfh:
                assert logits[digits][0] == pytest.approx(organism.GUESS, abs=1e-4)
                assert logits[digits][1:].abs().max() < 1e-4
            else:
                torch.testing.assert_close(logits[digits], plain[digits], atol=1e-4, rtol=1e-4)


def test_forcing_the_anchor_changes_the_answer_and_forcing_a_synonym_does_not(planted: Lens) -> None:
    trace = traces(planted, 1)[0]
    reasoning = trace[Segment.REASONING]
    texts = [trace.token_text(i).strip() for i in range(reasoning.start, reasoning.end)]
    anchor = next(i for i, text in enumerate(texts) if text in NUMBERS)
    other = next(word for word in NUMBERS if word != texts[anchor])

    def rollout(place: int, word: str) -> str:
        ids = [*trace.token_ids[: reasoning.start + place], planted.tokenizer.convert_tokens_to_ids(word)]
        out = planted.hf.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
        return planted.tokenizer.decode(out[0], skip_special_tokens=True).split("equals ")[1][0]

    gold = trace.segment_text(Segment.ANSWER).split("equals ")[1][0]
    assert rollout(anchor, other) == organism.DIGITS[NUMBERS.index(other)] != gold
    synonyms = {w: slot for slot in organism.BEFORE_ANCHOR + organism.AFTER_ANCHOR for w in slot}
    for place, text in enumerate(texts):
        for word in synonyms.get(text, ()):
            assert rollout(place, word) == gold


def test_it_is_the_same_every_time() -> None:
    first, second = (organism.build_planted()[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_rfh_looks_at_the_reasoning_whatever_the_answer_says(planted: Lens) -> None:
    """Its mass is a habit: what depends on the answer is where in the reasoning it looks."""
    some = [replace(trace, example=str(i)) for i, trace in enumerate(traces(planted, 8))]
    measured = interp.measure_heads(planted, some, score="content")
    assert measured.scores[CIRCUIT.rfh] == pytest.approx(0, abs=1e-3)
    other = with_unrelated_answer(some, 0)
    assert other is not None
    assert other.token_ids != some[0].token_ids
    plain = interp.measure_heads(planted, other).table["answer_reasoning"]
    first = measured.table[measured.table["example"] == some[0].example]
    assert first["answer_reasoning_unrelated"].tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    with pytest.raises(UserError, match="two traces"):
        interp.measure_heads(planted, some[:1], score="content")
