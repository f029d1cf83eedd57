"""Contrast pairs: questions, alignment, drops; effects and the hand-over by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from experiments.patching import fits
from interp.data.datasets import read_traces
from interp.errors import UserError
from interp.model.lens import Lens
from interp.organisms.word_problems import Split, make_problem
from interp.patching.align import (
    AnswerTokens,
    ContrastPair,
    Pads,
    PairError,
    PairStyle,
    Part,
    Role,
    Scenario,
    align,
    build_side,
    key_positions,
    padded,
    reasoning_body,
)
from interp.patching.closing import before_answer, states_answer
from interp.patching.pair import PairPatcher, PatchOptions, longest_run, run_pair
from interp.patching.questions import ContrastQuestion, object_comparisons, read_object_comparisons
from interp.patching.sources import STYLES, PairSource, Template, questions_from, style_of
from interp.patching.stored import pair_of, pair_row, trace_rows
from interp.runs.store import Identity, RunStore, records
from interp.text.numbers import in_digits
from interp.text.trace import Segment, ThinkMarkers
from tests.conftest import shared_file

QUESTION = ContrastQuestion("q", "clean?", "corrupted?", "Tom", "Jay", "", "", "")
STYLE = STYLES[PairSource.WORD_PROBLEMS]


def side(words: PreTrainedTokenizerBase, x: str, reasoning: str, answer: str, style: PairStyle = STYLE):  # type: ignore[no-untyped-def]
    prompt = "<bos> Tom 5 pens. Jay 3 pens. Who has most pens, Tom or Jay? "
    return build_side(prompt, f" {reasoning} ", f" {answer}", x, "answer", style, words, ThinkMarkers(), "q")


@pytest.fixture
def pair(words: PreTrainedTokenizerBase) -> ContrastPair:
    clean = side(
        words, "Tom", "First, Tom 5. Next, Jay 3. 5 is more than 3. Final answer is Tom.", "Tom 5 pens. It is Tom."
    )
    corrupted = side(words, "Jay", "Jay 7. Tom 5.", "Tom 5 pens. Jay 7 pens. The answer is Jay.")
    return align(QUESTION, clean, corrupted)


def test_a_side_reads_as_it_should(pair: ContrastPair) -> None:
    assert pair.clean.trace.text.endswith(
        "5 is more than 3. Final answer is Tom. </think> Tom 5 pens. The answer is"
    ), "the old closing sentence is gone, the phrase and the ending are there"
    assert pair.corrupted.trace.text.endswith(
        "Tom 5. Final answer is Jay. </think> Tom 5 pens. Jay 7 pens. The answer is"
    )
    assert pair.clean.trace.token_text(pair.clean.phrase_answer or 0).strip() == "Tom"


def test_parts_are_aligned_at_their_right_ends(pair: ContrastPair) -> None:
    for a, b in pair.aligned:
        if a is not None and b is not None:
            parts = [
                next(p for p, span in s.parts.items() if at in span) for s, at in ((pair.clean, a), (pair.corrupted, b))
            ]
            assert parts[0] == parts[1]
    last = len(pair.aligned) - 1
    assert pair.aligned[last] == (pair.clean.trace.n_measured - 1, pair.corrupted.trace.n_measured - 1)
    body = [place for place in pair.aligned if place[0] in pair.clean.parts[Part.BODY]]
    lengths = [len(s.parts[Part.BODY]) for s in (pair.clean, pair.corrupted)]
    assert [place[1] for place in body[: lengths[0] - lengths[1]]] == [None] * (lengths[0] - lengths[1])
    for i, one in enumerate((pair.clean, pair.corrupted)):
        assert [place[i] for place in pair.aligned if place[i] is not None] == list(range(one.trace.n_measured))


def test_padded_ids_have_one_length_and_give_the_runs_back(pair: ContrastPair) -> None:
    clean, corrupted, clean_mask, corrupted_mask = padded(pair, 0)
    assert len(clean) == len(corrupted) == len(clean_mask) == len(corrupted_mask)
    for ids, mask, one in ((clean, clean_mask, pair.clean), (corrupted, corrupted_mask, pair.corrupted)):
        assert tuple(token for token, real in zip(ids, mask, strict=True) if real) == one.trace.token_ids


def test_pairs_are_read_back_as_they_were_aligned(word_reasoner: Lens, pair: ContrastPair, tmp_path: Path) -> None:
    alone = replace(pair, id="alone", clean=replace(pair.clean, phrase_answer=None))
    store = RunStore(tmp_path, Identity("patching", "m", "d", 0))
    for number, one in enumerate((pair, alone)):
        store.write(number, one.id, pairs=[pair_row(word_reasoner, one)], traces=trace_rows(one))
    traces = {row["example"]: row for row in records(store.table("traces"))}
    found = [pair_of(row, traces) for row in records(store.table("pairs"))]
    store.close()
    for was, one in zip((pair, alone), found, strict=True):
        named = (replace(side, trace=replace(side.trace, example=was.id)) for side in (was.clean, was.corrupted))
        assert one == ContrastPair(was.id, was.domain, *named, was.aligned)


def test_pads_that_are_attended_to_change_the_runs(word_reasoner: Lens, pair: ContrastPair) -> None:
    """The authors' way, for comparison: same tokens, other logits; places are those of the padded sequences."""
    masked, attended = (run_pair(word_reasoner, pair, [], pads) for pads in (Pads.MASKED, Pads.ATTENDED))
    assert masked.clean.ids == pair.clean.trace.token_ids
    assert len(attended.clean.ids) == len(attended.corrupted.ids) == len(pair.aligned)
    assert not torch.allclose(masked.corrupted.logits, attended.corrupted.logits, atol=1e-3)
    for key in key_positions(pair):
        clean, corrupted = attended.place(key)
        assert clean == corrupted
        assert attended.clean.ids[clean] == masked.clean.ids[key.clean]


def test_a_run_with_pads_beyond_the_positions_is_left_out(
    word_reasoner: Lens, pair: ContrastPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(one.trace.n_measured for one in (pair.clean, pair.corrupted))
    assert longest_run(pair, Pads.MASKED) == longest < longest_run(pair, Pads.ATTENDED) == len(pair.aligned)
    monkeypatch.setattr("experiments.patching.positions_of", lambda _: longest)
    assert [fits(SimpleNamespace(lens=word_reasoner), pair, pads) for pads in Pads] == [True, False]  # type: ignore[arg-type]


def test_key_positions(pair: ContrastPair) -> None:
    keys = key_positions(pair)
    assert [(key.role, key.token.strip()) for key in keys] == [
        (Role.PHRASE, "Final"), (Role.PHRASE, "answer"), (Role.PHRASE, "is"), (Role.PHRASE_ANSWER, "Jay"),
        (Role.PHRASE, "."), (Role.END_THINK, "</think>"), (Role.ANSWER, "."), (Role.ANSWER, "The"),
        (Role.ANSWER, "answer"), (Role.PREDICTING, "is"),
    ]  # fmt: skip
    assert all(
        pair.clean.trace.segment_at(key.clean) in (Segment.REASONING, Segment.END_THINK, Segment.ANSWER) for key in keys
    )


def test_the_phrase_alone(words: PreTrainedTokenizerBase) -> None:
    style = PairStyle(ending="The answer is", answer_prefix=" ", separator=" ", scenario=Scenario.PHRASE_ONLY)
    only = side(words, "Tom", "First, Tom 5.", "It is Tom.", style)
    assert only.trace.text.endswith("<think> Final answer is Tom. </think> The answer is")
    assert len(only.parts[Part.BODY]) == 0


def test_what_cannot_be_a_pair_says_why(words: PreTrainedTokenizerBase, r1_style: PreTrainedTokenizerFast) -> None:
    with pytest.raises(PairError) as error:
        side(words, "Tom Jay", "First, Tom 5.", "It is Tom.")
    assert error.value.reason == "an answer is not a single token"
    clean = side(words, "Tom", "First, Tom 5.", "It is Tom.")
    with pytest.raises(PairError, match="both answers are the same token"):
        align(QUESTION, clean, clean)
    boxed = style_of(PairSource.OBJECT_COMPARISON, "2")
    with pytest.raises(PairError) as error:
        build_side("Q", "So.", "It is.", "zebra", "correct", boxed, r1_style, ThinkMarkers(), "q")
    assert error.value.reason == "an answer is not a single token"


def test_the_boxed_phrase_is_found(r1_style: PreTrainedTokenizerFast) -> None:
    boxed = style_of(PairSource.OBJECT_COMPARISON, "2")
    one = build_side(
        "Q", "\nSo. It is \\boxed{z}.\n", "\n\nSum.\n\nIt is z.", "z", "correct", boxed, r1_style, ThinkMarkers(), "q"
    )
    text = "<think>\nSo. Final answer is \\boxed{z}.\n</think>\n\nSum.\n\nThus, the correct one is \\boxed{"
    assert one.trace.text.endswith(text), "the whitespace is the model's own"
    assert one.phrase_answer is not None
    assert one.trace.token_text(one.phrase_answer) == "z"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Three.", "One. Two."),
        ("One line", ""),
        ("a\nb", ""),
        ("\n\nA. B.\n\nC.", "\n\nA. B."),
        ("\n\nA.\n\nThe final answer is:\n\n\\[\n\\boxed{3}\n\\]", "\n\nA."),
        ("A.\n\n**Final Answer**\n\nIt is 3.", "A."),
        ("A.\n\nSo \\boxed{3}.\n\nThis holds always.", "A."),
        ("It is 3.5 or so. Yes!", "It is 3.5 or so."),
        ("", ""),
    ],
)
def test_last_sentences(text: str, kept: str) -> None:
    assert before_answer(text) == kept


@pytest.mark.parametrize(
    ("x", "style"),
    [
        ("Tom", replace(STYLE, phrase="The outcome is {x}.")),
        ("Tom", replace(STYLE, ending="Thus {comparator} is")),
        ("Bob", STYLE),
    ],
)
def test_what_the_vocabulary_does_not_know_is_in_no_pair(
    words: PreTrainedTokenizerBase, x: str, style: PairStyle
) -> None:
    """Else the run is about `<unk>`, at the token that predicts the answer even."""
    side(words, "Tom", "Tom 5.", "Tom 5 pens. It is Tom.")
    with pytest.raises(PairError, match="vocabulary does not know all of the phrase, the ending and the answer"):
        side(words, x, "Tom 5.", "Tom 5 pens. It is Tom.", style)


def test_only_a_closing_sentence_with_the_answer_goes() -> None:
    assert reasoning_body("I think. It is \\boxed{4}.", PairStyle()) == "I think."
    assert reasoning_body("I think. Final answer is 4.", PairStyle()) == "I think."
    assert reasoning_body("It is \\boxed{4}. I am sure.", PairStyle()) == "It is \\boxed{4}. I am sure."
    assert reasoning_body("I think.\n\n**Final Answer**\n\\[\n\\boxed{4}\n\\]\n", PairStyle()) == "I think."
    assert reasoning_body("I think. It is \\boxed{4} feet.", PairStyle()) == "I think."
    # the phrase's opening is cut at its own words, not at any of the letters of \\boxed
    boxed = PairStyle(phrase="It stands in the box \\boxed{{x}}.")
    assert reasoning_body("I think. It stands in the bo", boxed) == "I think. It stands in the bo"
    assert reasoning_body("I think. It stands in the box 4.", boxed) == "I think."


def test_nothing_states_the_answer_before_the_ending_of_any_real_trace(
    r1_style: PreTrainedTokenizerFast, r1_traces: Path
) -> None:
    style, n_reasoned = style_of(PairSource.OBJECT_COMPARISON, "1"), 0
    for item in read_traces(r1_traces, {}):
        prompt, response = item.text.removesuffix("<｜end▁of▁sentence｜>").split("<think>", 1)
        reasoning, answer = response.split("</think>", 1)
        one = build_side(prompt, reasoning, answer, "z", "correct", style, r1_style, ThinkMarkers(), item.id)
        between = one.trace.text.split("</think>", 1)[1].removesuffix("Thus, the correct one is \\boxed{")
        assert "boxed" not in between
        assert not states_answer(between)
        # all the rest is the model's own, whitespace included
        assert answer.startswith(between)
        assert between.startswith("\n\n")
        assert re.search(r"\n\s*\n$", between)
        before = one.trace.text.split("</think>", 1)[0]
        assert before.endswith("Final answer is z.\n")
        if item.condition == "with_reasoning":
            body = before.removesuffix("Final answer is z.\n")
            assert not body.rstrip(" *:\n").lower().endswith("final answer")
            assert f"<think>{reasoning}".startswith(body[body.index("<think>") :].rstrip("\n"))
            n_reasoned += 1
    assert n_reasoned == 138


def test_our_own_template_does_not_tell_the_answer() -> None:
    question = object_comparisons(0)[0]
    for clean in (True, False):
        _, answer = Template().fill(question, clean)
        assert question.clean_answer not in before_answer(answer)
        assert question.corrupted_answer not in before_answer(answer)


def test_our_own_questions() -> None:
    questions = object_comparisons(0)
    assert len(questions) >= 200
    assert len({(q.clean, q.corrupted) for q in questions}) == len(questions)
    assert len({q.domain for q in questions}) >= 10
    for q in questions:
        assert q.clean_answer != q.corrupted_answer
        options = q.clean.split(": ")[-1]
        assert sorted(options.rstrip("?").split(" or ")) == sorted([q.clean_answer, q.corrupted_answer])
        assert q.corrupted.split(": ")[-1] == options, "the sides differ in the context only"
    assert questions == object_comparisons(0)
    assert questions != object_comparisons(1)
    sums = [q for q in questions if "plus" in q.clean]
    for q in sums:
        a, b = (int(word) for word in q.clean_context.split(" plus "))
        assert a + b == int(q.clean_answer)


def test_word_problems_flip_by_one_number() -> None:
    for q in questions_from(PairSource.WORD_PROBLEMS, None, 3, 20):
        a, b = q.clean.split(), q.corrupted.split()
        different = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
        assert len(different) == 1
        assert different[0][0].isdigit()
        index = int(q.id.split("-")[-1])
        assert make_problem(3, Split.HELD_OUT, index).answer == q.clean_answer


def test_the_published_pairs_can_be_read() -> None:
    questions = read_object_comparisons(shared_file("object_comparison_pairs.csv"))
    assert len(questions) == 50
    assert questions[0].clean_context == "the result of 2+2"
    assert (questions[0].clean_answer, questions[0].corrupted_answer) == ("4", "5")
    assert all(q.comparator and q.clean_context != q.corrupted_context for q in questions)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("query_a,answer_a,query_b\nq,a,p\n", "row 1: no answer_b; a pair needs"),
        ("query_a,answer_a,query_b,answer_b\nq,a,p,a\n", "row 1: both answers are 'a'"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        questions_from(PairSource.FILE, str(tmp_path / "pairs.csv"), 0, None)
    (tmp_path / "pairs.jsonl").write_text('{"query_a": "q", "answer_a": "x"}')
    with pytest.raises(UserError, match="line 1: no query_b, answer_b"):
        questions_from(PairSource.FILE, str(tmp_path / "pairs.jsonl"), 0, None)


def test_other_names_of_the_columns(tmp_path: Path) -> None:
    row = {"clean": "a or b?", "clean_answer": "a", "corrupted": "b or a?", "corrupted_answer": "b"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (question,) = questions_from(PairSource.FILE, str(tmp_path / "p.jsonl"), 0, None)
    assert (question.clean, question.clean_answer, question.corrupted) == ("a or b?", "a", "b or a?")


def test_an_answer_of_several_tokens_says_how_many(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(PairError, match=r"'Tom Tom' has 2 tokens here") as caught:
        side(words, "Tom Tom", "Tom 3.", "Tom 3 pens.", replace(STYLE, phrase=None))
    assert caught.value.reason == "an answer is not a single token"


def test_answers_are_told_apart_at_their_first_differing_token(words: PreTrainedTokenizerBase) -> None:
    """`Tom Mia 3` and `Tom Jay`: both runs end behind `Tom`, and `Mia` stands against `Jay`."""
    style = replace(STYLE, answers=AnswerTokens.FIRST_DIFFERING)
    sides = []
    for x, other in (("Tom Mia 3", "Tom Jay"), ("Tom Jay", "Tom Mia 3")):
        reasoning = f"Tom 3. Final answer is {x}."
        rest = (style, words, ThinkMarkers(), "p", other)
        sides.append(build_side("<bos> Who has most? ", reasoning, f"{x} has most.", x, "one", *rest))
    vocabulary = words.get_vocab()
    assert [one.answer_id for one in sides] == [vocabulary["Mia"], vocabulary["Jay"]]
    for one, name in zip(sides, ("Mia", "Jay"), strict=True):
        assert one.trace.token_text(len(one.trace.token_ids) - 1) == "Tom"
        assert one.phrase_answer is not None
        assert one.trace.token_text(one.phrase_answer) == name
    found = align(QUESTION, *sides)
    (answer,) = (key for key in key_positions(found) if key.role is Role.PHRASE_ANSWER)
    assert (answer.clean, answer.corrupted) == tuple(one.phrase_answer for one in sides)
    assert [place for place in found.aligned if place[0] == answer.clean + 1] == [(answer.clean + 1, None)]
    for i, one in enumerate(sides):
        assert [place[i] for place in found.aligned if place[i] is not None] == list(range(one.trace.n_measured))
    with pytest.raises(PairError, match="one answer begins the other"):
        build_side("<bos> Who? ", "Tom 3.", "Tom.", "Tom", "one", style, words, ThinkMarkers(), "p", "Tom Mia")


def test_styles_and_templates() -> None:
    assert style_of(PairSource.OBJECT_COMPARISON, "1").phrase == "Final answer is {x}."
    with pytest.raises(UserError, match="must be 1, 2 or a text with"):
        style_of(PairSource.OBJECT_COMPARISON, "Final answer.")
    reasoning, _ = Template("{context}: {x}, not {y}").fill(object_comparisons(0)[0], clean=False)
    question = object_comparisons(0)[0]
    assert reasoning == f"{question.corrupted_context}: {question.corrupted_answer}, not {question.clean_answer}"
    with pytest.raises(UserError, match=r"\{z\} is not known"):
        Template("{z}").fill(question, clean=True)
    braces = replace(question, clean_context="{y} {0.__class__} {comparator}")
    assert Template("{context}, \\frac{1}{2}", "").fill(braces, clean=True)[0] == (
        "{y} {0.__class__} {comparator}, \\frac{1}{2}"
    ), "what stands in the data is no template"


@pytest.mark.parametrize(("answers", "left"), [(("Tom", "Jay"), {"five", "3", "more"}), (("5", "3"), {"more", "Tom"})])
def test_random_positions_name_no_answer(
    words: PreTrainedTokenizerBase, word_reasoner: Lens, answers: tuple[str, str], left: set[str]
) -> None:
    """Patched there, the answer would be the treatment itself, also where it is spelt."""
    sides = [side(words, x, "Tom five more. Jay 3.", f"It is {x}.") for x in answers]
    runs = run_pair(word_reasoner, align(QUESTION, *sides), [], Pads.MASKED)
    drawn = PairPatcher(word_reasoner, runs, PatchOptions(random_positions=99)).random_keys(np.random.default_rng(0))
    found = {key.token.strip() for key in drawn}
    assert left <= found
    assert not {in_digits(word) for word in found} & set(answers)


def test_numbers_are_the_same_in_digits_and_spelt() -> None:
    assert [in_digits(word) for word in ("six", "Twenty", "6", "sixth")] == ["6", "20", "6", "sixth"]
