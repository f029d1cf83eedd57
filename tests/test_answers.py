"""One response as a row of answers.parquet."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.base.credit_training import reward
from interp.data.datasets import reasoning_gym_questions, traces_of
from interp.data.examples import Question, TraceText
from interp.grading.outcomes import Outcome
from interp.grading.responses import Grading, graded, graded_trace, samples_of
from interp.text.prompts import Condition
from interp.text.trace import DEFAULT_MARKERS, ThinkMarkers

QUESTION = Question("q", "1 + 2?", "3", "sums", "1")
GRADING = Grading(ThinkMarkers())


@pytest.mark.parametrize(
    ("condition", "text", "expected", "words"),
    [
        (Condition.WITH_REASONING, "One and two. </think> The answer is 3.", Outcome.CORRECT, (3, 4)),
        (Condition.WITH_REASONING, "The answer is 3.", Outcome.UNCLOSED, (4, 0)),
        (Condition.WITH_REASONING, "One and two. </think>", Outcome.EMPTY, (3, 0)),
        (Condition.WITHOUT_REASONING, "The answer is 3.", Outcome.CORRECT, (0, 4)),
        (Condition.NO_TAGS, "The answer is 3.", Outcome.CORRECT, (0, 4)),
        (Condition.NO_TAGS, "<think> Hm. The answer is 4. </think> The answer is 3.", Outcome.CORRECT, (5, 4)),
        (Condition.WITH_REASONING, "The answer is 3. </think> The answer is 4.", Outcome.WRONG, (4, 4)),
        (Condition.WITHOUT_REASONING, "", Outcome.EMPTY, (0, 0)),
    ],
)
def test_the_answer_is_what_stands_after_the_reasoning(
    condition: str, text: str, expected: Outcome, words: tuple[int, int]
) -> None:
    row = graded(QUESTION, condition, text, GRADING, finished=True)
    assert row["outcome"] is expected
    assert row["correct"] is (expected is Outcome.CORRECT)
    assert (row["reasoning_words"], row["answer_words"]) == words


def test_a_cut_response_is_not_right_whatever_it_says() -> None:
    row = graded(QUESTION, Condition.NO_TAGS, "The answer is 3.", GRADING, finished=False)
    assert (row["outcome"], row["correct"], row["extracted"]) == (Outcome.TRUNCATED, False, "3")


def test_an_answer_in_the_thought_alone_is_none() -> None:
    row = graded(QUESTION, Condition.WITH_REASONING, "I think \\boxed{3}</think>\n", GRADING, finished=True)
    assert (row["outcome"], row["correct"], row["extracted"]) == (Outcome.EMPTY, False, None)


def test_given_traces() -> None:
    whole = "<｜begin▁of▁sentence｜>1 + 2? <think>\nOne and two.\n</think>\nThe answer is 3.<｜end▁of▁sentence｜>"
    row = graded_trace(TraceText("a", whole, "3", "q", "with_reasoning", "R1"), GRADING)
    assert (row["outcome"], row["reasoning_words"], row["answer_words"]) == (Outcome.CORRECT, 3, 4)
    assert (row["writer"], row["n_tokens"], row["finished"]) == ("R1", None, True)
    padded = graded_trace(TraceText("a", f"{whole}\n<|endoftext|>", "3", "q", "with_reasoning", "R1"), GRADING)
    assert padded == row, "batches are padded with ends"
    bare = graded_trace(TraceText("a", whole.removesuffix("<｜end▁of▁sentence｜>"), "3", "q"), GRADING)
    assert bare["outcome"] is Outcome.CORRECT  # many files leave end-of-sequence tokens out
    cut = graded_trace(TraceText("a", whole, "3", "q", finished=False), GRADING)
    assert cut["outcome"] is Outcome.TRUNCATED
    told = graded_trace(TraceText("a", whole.partition("</think>")[0], "3", "q", finished=True), GRADING)
    assert told["outcome"] is Outcome.UNCLOSED
    suppressed = graded_trace(TraceText("a", whole, "3", "q", "without_reasoning"), GRADING)
    assert suppressed["reasoning_words"] == 0
    tagless = graded_trace(TraceText("a", "1 + 2? The answer is 3.", "3", "q", "no_tags", finished=True), GRADING)
    assert tagless["outcome"] is Outcome.CORRECT


def test_samples_are_counted_by_question_writer_and_condition() -> None:
    traces = [TraceText("", "", None, q, c, w) for q, c, w in ["axm", "axm", "aym", "axn", "bxm", "axm"]]
    assert samples_of(traces) == [0, 1, 0, 0, 0, 2]


def _whole(response: str) -> TraceText:
    return TraceText("a", f"<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n{response}", "3", "q")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>4</think> The answer is 4. <think>No.</think> The answer is 3.", Outcome.CORRECT),
        ("<think>4</think> Wait. <think>The answer is 3.</think> I do not know.", Outcome.NO_ANSWER),
        ("<think>4</think> The answer is 3. <think>Wait, the answer is 4.", Outcome.UNCLOSED),
        ("<think><think>4</think> The answer is 3.", Outcome.CORRECT),
        ("<think>4</think></think> The answer is 3.", Outcome.CORRECT),
        ("4</think> The answer is 3.", Outcome.CORRECT),  # the prompt had opened the tag
    ],
)
def test_reasoning_that_begins_again_is_no_answer(response: str, expected: Outcome) -> None:
    assert graded_trace(replace(_whole(response), finished=True), GRADING)["outcome"] is expected


def test_tags_that_the_prompt_mentions_are_no_reasoning() -> None:
    system = "<|im_start|>system\nWrite <think> your reasoning </think> and the answer.<|im_end|>\n"
    item = _whole("<think>one two three</think> The answer is 3.<|im_end|>")
    row = graded_trace(TraceText("a", system + item.text, "3", "q"), GRADING)
    assert (row["outcome"], row["reasoning_words"], row["answer_words"]) == (Outcome.CORRECT, 3, 4)
    earlier = _whole("<think>x</think> 7<|im_end|>\n<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n")
    row = graded_trace(TraceText("a", earlier.text + "<think>one two</think> The answer is 3.", "3", "q"), GRADING)
    assert (row["outcome"], row["reasoning_words"]) == (Outcome.CORRECT, 2)


@pytest.mark.parametrize("task", ["countdown", "intermediate_integration", "n_queens"])
def test_a_response_that_attacks_its_scorer_is_wrong(task: str, tmp_path: Path) -> None:
    """The way of `evaluate` and of the reward in `credit` alike: it names a file and asks Python to make it."""
    (question,) = reasoning_gym_questions(task, 1, 1, {})
    file = tmp_path / "written"
    for attack in (f"exec(\"open('{file}', 'w')\")", f"__import__('pathlib').Path('{file}').touch()"):
        row = graded(question, Condition.WITH_REASONING, f"So.</think> \\boxed{{{attack}}}", GRADING, finished=True)
        assert (row["extracted"], row["outcome"]) == (attack, Outcome.WRONG)
    assert not file.exists()


def test_a_rewarded_response_keeps_its_think_tags(r1_style: PreTrainedTokenizerFast) -> None:
    """Tags that are special tokens, as TRL decodes them, would leave no answer to reward."""
    own = copy.deepcopy(r1_style)
    own.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    ids = own("So.</think>The answer is 3.<｜end▁of▁sentence｜>", add_special_tokens=False)["input_ids"]
    lens = SimpleNamespace(tokenizer=own, hf=SimpleNamespace(generation_config=None))
    session = SimpleNamespace(lens=lens, grading=GRADING, model_options=SimpleNamespace(reasons=True))
    rewarded = reward(session, [QUESTION])  # type: ignore[arg-type]
    assert rewarded(completion_ids=[ids, ids[:-1], []], index=[0, 0, 0]) == [1.0, 0.0, 0.0]


def test_a_given_text_that_may_have_been_cut_off_is_unknown() -> None:
    about = {"id": "a", "gold": "3"}
    open_ended = ("<think>One", "<think>One</think>", "<think>One</think> Well, let me", "<think>One</think> \\boxed{}")
    for text in open_ended:
        row = graded_trace(TraceText(text=text, **about), GRADING)
        assert (row["outcome"], row["correct"]) == (Outcome.UNKNOWN, None)
        told = graded_trace(TraceText(text=text, finished=True, **about), GRADING)
        assert told["outcome"] is not Outcome.UNKNOWN
        ended = graded_trace(TraceText(text=f"{text}<|im_end|>", **about), GRADING)
        assert ended["outcome"] is not Outcome.UNKNOWN
    whole = graded_trace(TraceText(text="<think>One</think> The answer is 3.", **about), GRADING)
    assert whole["outcome"] is Outcome.CORRECT


def _given(**row: Any) -> dict[str, Any]:
    (trace,) = traces_of(
        [(1, {"gold": "5", "condition": "no_tags", "finished": True, **row})], {}, DEFAULT_MARKERS, "x"
    )
    return graded_trace(trace, GRADING)


def _messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


EARLIER = ("<think>a</think> \\boxed{5}", "And 2 + 3?")
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": _messages("2 + 3? Example: The answer is 5", "I wonder."), "condition": "without_reasoning"},
        {"messages": _messages("1 + 4?", *EARLIER, "I wonder.")},
        {"messages": _messages("1 + 4?", *EARLIER, "<think>b</think>I wonder."), "condition": "with_reasoning"},
        {"arguments": [["Q: 1 + 4? A: The answer is 5. Q: 2 + 3? A:"]], "resps": [["I wonder."]]},
        {"prompt": "2 + 3? Put it within \\boxed{}", "completion": "I wonder."},
        {"prompt": "2 + 3? The answer is 5 or 6.", "completion": "I wonder."},
        {"prompt": "2 + 3? The answer is 5 or 6.", "choices": [{"text": "I wonder."}]},
        {"prompt": "2 + 3? The answer is 5.", "text": "I wonder."},
        {"prompt": "The answer is 5.", "text": CHAT.format("The answer is 5.", "I wonder.")},
        {"question": "2 + 3? The answer is 5.", "response": "I wonder."},
        {"prompt": "The answer is 5.", "full_cot": "The answer is 5. I wonder."},
        {"text": CHAT.format("1 + 4?", EARLIER[0]) + CHAT.format(EARLIER[1], "I wonder.")},
    ],
)
def test_what_was_asked_is_no_answer(row: dict[str, Any]) -> None:
    found = _given(**row)
    assert (found["outcome"], found["extracted"], found["answer_words"]) == (Outcome.NO_ANSWER, None, 2)


@pytest.mark.parametrize(
    ("prompt", "completion", "condition", "words"),
    [
        ("2 + 3? <think>\n", "Two. Three.\n</think>\n\\boxed{5}", "with_reasoning", 2),
        ("2 + 3? <think>\nWell.\n</think>\n", "The answer is 5.", "without_reasoning", 0),
        ("2 + 3? <think>\nWell.\n</think>\n\\boxed{", "5}. So", "without_reasoning", 0),
        ("2 + 3?\n\\boxed{", "5}. So", "no_tags", 0),
        ("2 + 3?\nAnswer:", " 5", "no_tags", 0),
        ("Write <think> your reasoning </think>.\n2 + 3?", "<think>x y</think>The answer is 5", "with_reasoning", 2),
        ("Use <think>. 2 + 3?", "The answer is 5", "no_tags", 0),
    ],
)
def test_what_the_prompt_begins_belongs_to_the_response(
    prompt: str, completion: str, condition: str, words: int
) -> None:
    found = _given(prompt=prompt, completion=completion, condition=condition)
    assert (found["outcome"], found["extracted"], found["reasoning_words"]) == (Outcome.CORRECT, "5", words)


def test_a_response_that_only_goes_on_behind_the_prompt_gives_no_answer() -> None:
    found = _given(prompt="2 + 3?\nAnswer:", completion=" Let me see.\nTwo and three", finished=None)
    assert (found["outcome"], found["extracted"]) == (Outcome.UNKNOWN, None)
