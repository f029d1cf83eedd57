"""Traces: where the segments lie, and that every token maps back to its text."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp.data.datasets import read_traces
from interp.errors import TraceError
from interp.model.lens import Lens
from interp.text.scrambled import SCRAMBLED, scrambled
from interp.text.trace import (
    Segment,
    ThinkMarkers,
    Trace,
    after_reasoning,
    decode_response,
    decode_with_offsets,
    parse_ids,
    parse_text,
)

TEXT = "<bos> How many? <think> Wait, 3. </think> The answer is 3. <eos>"


def lengths(trace: Trace) -> dict[str, int]:
    return {str(span.segment): len(span) for span in trace.spans}


def assert_sound(trace: Trace) -> None:
    """Segments follow one another and cover all but what ends the sequence; texts add up to the whole."""
    assert [span.segment for span in trace.spans] == list(Segment)
    assert trace.spans[0].start == 0
    assert all(a.end == b.start for a, b in zip(trace.spans, trace.spans[1:], strict=False))
    assert len(trace.token_ids) - trace.n_measured in (0, 1)
    assert len(trace.offsets) == len(trace.token_ids)


def test_segments_of_a_small_trace(words: PreTrainedTokenizerBase) -> None:
    trace = parse_text(TEXT, words)
    assert words.convert_ids_to_tokens(list(trace.token_ids)) == (
        [
            "<bos>",
            "How",
            "many",
            "?",
            "<think>",
            "Wait",
            ",",
            "3",
            ".",
            "</think>",
            "The",
            "answer",
            "is",
            "3",
            ".",
            "<eos>",
        ]
    )
    assert lengths(trace) == {"bos": 1, "prompt": 3, "think": 1, "reasoning": 4, "end_think": 1, "answer": 5}
    assert trace.n_measured == 15
    assert trace.segment_at(4) is Segment.THINK
    assert trace.segment_at(15) is None
    assert trace.segment_text(Segment.REASONING) == "Wait, 3."
    assert trace.token_text(5) == "Wait"
    assert_sound(trace)


def test_ids_and_text_agree(words: PreTrainedTokenizerBase) -> None:
    from_text = parse_text(TEXT, words)
    from_ids = parse_ids(from_text.token_ids, words)
    assert from_ids.token_ids == from_text.token_ids
    assert from_ids.spans == from_text.spans
    assert from_ids.segment_text(Segment.ANSWER).strip() == "The answer is 3."


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_scrambled_tokens_stay_in_their_segments(words: PreTrainedTokenizerBase, seed: int) -> None:
    trace = parse_text("<bos> a b c d <think> red blue pink green 1 2 3 </think> old box <eos>", words)
    other = scrambled(trace, words, np.random.default_rng(seed))
    assert other.spans == trace.spans
    for span in trace.spans:
        ids, before = (one.token_ids[span.start : span.end] for one in (other, trace))
        assert sorted(ids) == sorted(before)
        assert span.segment in SCRAMBLED or ids == before
    assert other.token_ids[-1] == trace.token_ids[-1]
    shown = [other.text[a:b].strip() for a, b in other.offsets]
    assert shown == [words.decode([i]).strip() for i in other.token_ids]


def test_the_first_markers_count(words: PreTrainedTokenizerBase) -> None:
    trace = parse_text("How <think> Wait <think> . </think> The answer </think> is 3 .", words)
    assert lengths(trace) == {"bos": 1, "prompt": 1, "think": 1, "reasoning": 3, "end_think": 1, "answer": 6}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("How many? The answer is 3.", "no <think>"),
        ("How many? <think> Wait, 3.", "never closed"),
        ("How many? </think> 3 <think> Wait", "comes before"),
        ("Wait, 3. </think> 3 .", "without <think> before it"),
        ("How many? <think> Wait, 3. </think>", "answer segment is empty"),
        ("How many? <think> Wait, 3. </think> <eos>", "answer segment is empty"),
    ],
)
def test_what_is_not_a_trace_is_refused_with_the_reason(words: PreTrainedTokenizerBase, text: str, reason: str) -> None:
    with pytest.raises(TraceError, match=f"trace mine: .*{reason}"):
        parse_text(text, words, example="mine")
    with pytest.raises(TraceError, match=reason):
        parse_ids(words(text)["input_ids"], words)


def test_an_end_of_turn_token_ends_a_trace_too(r1_style: PreTrainedTokenizerFast) -> None:
    """Chat models stop with a token that need not be the tokenizer's end-of-sequence token."""
    r1_style.add_tokens(["<|eot_id|>"])
    ids = r1_style("Why?<think>So</think>3<|eot_id|>", add_special_tokens=False)["input_ids"]
    trace = parse_ids(ids, r1_style)
    assert trace.segment_text(Segment.ANSWER) == "3"
    assert trace.n_measured == len(ids) - 1


def test_several_begins_and_ends_belong_to_no_other_segment(words: PreTrainedTokenizerBase) -> None:
    """Chat template and tokenizer may both write <bos>; batches are padded with <eos>."""
    once = lengths(parse_text(TEXT, words))
    for text in (f"<bos>{TEXT}", f"\n<bos> <bos>{TEXT.removeprefix('<bos>')}", f"{TEXT} <eos>\n<eos> <pad>"):
        assert lengths(parse_text(text, words)) == once, text
    plain = parse_text(TEXT, words).token_ids
    begun = lengths(parse_ids([words.bos_token_id, *plain], words))
    assert begun == {**once, "bos": 2}, "these tokens, and no others"
    ended = parse_ids([*plain, words.eos_token_id, words.pad_token_id], words)
    assert lengths(ended) == once
    assert ended.measured_ids == plain[:-1]


def test_what_stands_behind_the_end_is_no_answer(r1_style: PreTrainedTokenizerFast) -> None:
    turn = "<｜User｜>again<｜Assistant｜>new"
    for text in (f"<｜User｜>q<｜Assistant｜><think>a</think>b{turn}", "<think>a</think>b<｜end▁of▁sentence｜>more"):
        with pytest.raises(TraceError, match="another turn, without think tags, is behind the answer"):
            parse_text(text, r1_style)
    asked = "Q\nUser: q\nAssistant: <think>the user said\nAssistant: hm</think>It is 3."
    assert parse_text(asked, r1_style).segment_text(Segment.REASONING) == "the user said\nAssistant: hm"
    assert parse_text("<think>None</think>None", r1_style).segment_text(Segment.ANSWER) == "None"


def test_the_answer_part_of_a_response() -> None:
    assert after_reasoning("So 3 </think> The answer </think> is 3", ThinkMarkers()) == " The answer </think> is 3"
    assert after_reasoning("never closed", ThinkMarkers()) == "never closed"


SYSTEM = "<|im_start|>system\nReason within <think> </think> tags, i.e. <think> so </think> 3.<|im_end|>\n"
USER, ASSISTANT = "<|im_start|>user\nWhy?<|im_end|>\n", "<|im_start|>assistant\n"


def test_tags_that_a_prompt_mentions_are_not_the_reasoning(r1_style: PreTrainedTokenizerFast) -> None:
    prompt, response = SYSTEM + USER + ASSISTANT, "<think>Because.</think>So."
    earlier = USER + ASSISTANT + "<think>Hm.</think>No.<|im_end|>\n"
    for before in (prompt, SYSTEM + earlier + USER + ASSISTANT):
        trace = parse_text(before + response, r1_style)
        assert [trace.segment_text(s) for s in (Segment.REASONING, Segment.ANSWER)] == ["Because.", "So."]
    ids = [r1_style(part, add_special_tokens=False)["input_ids"] for part in (prompt, response)]
    opened = r1_style(prompt + "<think>", add_special_tokens=False)["input_ids"]
    for n_prompt, whole in ((len(ids[0]), ids[0] + ids[1]), (len(opened), opened + ids[1][1:])):
        trace = parse_ids(whole, r1_style, n_prompt=n_prompt)
        assert [trace.segment_text(s) for s in (Segment.REASONING, Segment.ANSWER)] == ["Because.", "So."]
        assert trace[Segment.THINK].start == len(ids[0])
    with pytest.raises(TraceError, match="without <think> before it"):
        parse_ids(ids[0] + ids[1][2:-3], r1_style, n_prompt=len(ids[0]))


def test_a_response_keeps_its_think_tags_and_loses_its_ends(r1_style: PreTrainedTokenizerFast) -> None:
    """The tags are special tokens in some vocabularies: then `skip_special_tokens` makes one text of both parts."""
    own = copy.deepcopy(r1_style)
    own.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|im_end|>"]})
    ids = own("<｜begin▁of▁sentence｜><think>So</think>3<|im_end|>", add_special_tokens=False)["input_ids"]
    ids = [*ids, own.eos_token_id, own.eos_token_id]
    assert "think" not in own.decode(ids, skip_special_tokens=True)
    assert decode_response(own, ids) == "<think>So</think>3"


def test_one_place_decodes_responses() -> None:
    root = Path(__file__).resolve().parents[1]
    files = [file for package in ("interp", "experiments") for file in (root / package).rglob("*.py")]
    assert not [file.name for file in files if "skip_special_tokens=True" in file.read_text()]


def test_the_family_of_the_text_does_not_matter(words: PreTrainedTokenizerBase) -> None:
    """A trace of an R1 model gets the reading model's own first and last token."""
    foreign = "<｜begin▁of▁sentence｜>How many? <think> Wait, 3. </think> The answer is 3.<｜end▁of▁sentence｜>"
    assert parse_text(foreign, words).token_ids == parse_text(TEXT, words).token_ids


def test_markers_of_ones_own(words: PreTrainedTokenizerBase) -> None:
    trace = parse_text("How many ? Wait : 3 . So : The answer is 3 .", words, ThinkMarkers("Wait :", "So :"))
    assert lengths(trace) == {"bos": 1, "prompt": 3, "think": 2, "reasoning": 2, "end_think": 2, "answer": 5}


def test_a_token_that_shares_a_character_with_a_marker_belongs_to_it(smollm2: Lens) -> None:
    trace = parse_text("Why? <think>\n\nBecause.\n</think>\n\nSo.", smollm2.tokenizer)
    assert len(trace[Segment.THINK]) > 1
    assert "<think>" in trace.segment_text(Segment.THINK)
    assert "</think>" in trace.segment_text(Segment.END_THINK)
    assert "Because." in trace.segment_text(Segment.REASONING)
    assert_sound(trace)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<>"), max_size=12)] * 3))
def test_any_text_maps_back(r1_style: PreTrainedTokenizerFast, parts: tuple[str, str, str]) -> None:
    prompt, reasoning, answer = parts
    text = f"{prompt}<think>{reasoning}</think>{answer}!"
    trace = parse_text(text, r1_style)
    assert_sound(trace)
    assert (trace[Segment.THINK].end - trace[Segment.THINK].start, len(trace[Segment.END_THINK])) == (1, 1)
    assert trace.segment_text(Segment.REASONING) == reasoning
    assert trace.segment_text(Segment.ANSWER) == f"{answer}!"


def test_bytes_of_one_character(r1_style: PreTrainedTokenizerFast) -> None:
    """An emoji is several tokens here: the one that completes it gets the character."""
    ids = r1_style("a🎉b", add_special_tokens=False)["input_ids"]
    text, offsets = decode_with_offsets(r1_style, ids)
    assert text == "a🎉b"
    assert [text[a:b] for a, b in offsets if b > a] == ["a", "🎉", "b"]
    assert len(offsets) == len(ids) > 3


def check_real(tokenizer: PreTrainedTokenizerBase, path: object) -> int:
    n = 0
    for item in read_traces(path, {}):  # type: ignore[arg-type]
        trace = parse_text(item.text, tokenizer, example=item.id)
        assert_sound(trace)
        assert trace[Segment.BOS].end == (tokenizer.bos_token_id is not None)
        assert "".join(trace.token_text(i) for i in range(trace.n_measured)) in (trace.text, trace.text.strip())
        before, after = trace.text.split("</think>", 1)
        assert trace.segment_text(Segment.ANSWER).strip() == after.strip()
        assert trace.segment_text(Segment.REASONING).strip() == before.split("<think>", 1)[1].strip()
        assert trace.token_ids[-1] == tokenizer.eos_token_id
        n += 1
    return n


def test_all_real_traces_with_tags_of_one_token(r1_style: PreTrainedTokenizerFast, r1_traces: object) -> None:
    assert check_real(r1_style, r1_traces) == 276


def test_all_real_traces_with_tags_of_several_tokens(smollm2: Lens, r1_traces: object) -> None:
    assert smollm2.tokenizer.tokenize("<think>") != ["<think>"]
    assert check_real(smollm2.tokenizer, r1_traces) == 276
