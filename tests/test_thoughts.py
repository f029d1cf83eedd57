"""Thoughts closed by force: when, by what tokens, row by row, and nothing else changed."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from interp.grading.responses import demanded_answer
from interp.model.generate import Sampling, generate
from interp.model.lens import Lens
from interp.model.thoughts import ThoughtRule
from interp.organisms.word_problems import Split, make_problem
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.text.prompts import Condition, PromptStyle, WorkedExample, render
from interp.text.trace import decode_response
from tests.command import ok, run

STYLE = PromptStyle(separator=" ")


@pytest.fixture(scope="module")
def prompts(word_reasoner: Lens) -> list[str]:
    problems = [make_problem(5, Split.HELD_OUT, i) for i in range(6)]
    return [
        render(p.question, word_reasoner.tokenizer, word_reasoner.markers, STYLE, Condition.WITH_REASONING)
        for p in problems
    ]


def rule(tokens: int, end: str | None = None) -> ThoughtRule:
    return ThoughtRule(tokens, end, "<think>", "</think>", " </think> ")


def test_thoughts_that_end_by_themselves_are_left_alone(word_reasoner: Lens, prompts: list[str]) -> None:
    plain = generate(word_reasoner, prompts, Sampling(max_new_tokens=200), 0)
    assert all(one.finished for one in plain)
    assert generate(word_reasoner, prompts, Sampling(max_new_tokens=200, thought=rule(150)), 0) == plain


def test_the_budget_closes_a_thought_and_the_answer_follows(word_reasoner: Lens, prompts: list[str]) -> None:
    close = word_reasoner.tokenizer.convert_tokens_to_ids("</think>")
    found = generate(word_reasoner, prompts, Sampling(max_new_tokens=200, thought=rule(10)), 0)
    plain = generate(word_reasoner, prompts, Sampling(max_new_tokens=200), 0)
    for one, free in zip(found, plain, strict=True):
        assert one.forced == range(10, 11)
        assert one.ids[10] == close
        assert one.ids.count(close) == 1
        assert one.ids[:10] == free.ids[:10], "up to there the model's own"
        assert one.finished
        assert one.forced_positions == range(len(one.prompt_ids) + 10, len(one.prompt_ids) + 11)
        assert "The answer is" in decode_response(word_reasoner.tokenizer, one.ids[11:])


def test_rows_side_by_side_are_closed_as_each_alone(word_reasoner: Lens, prompts: list[str]) -> None:
    sampling = Sampling(max_new_tokens=200, thought=rule(150, r"= \d+\s*\."))
    together = generate(word_reasoner, prompts, sampling, 0)
    assert together == [one for prompt in prompts for one in generate(word_reasoner, [prompt], sampling, 0)]
    for one in together:
        assert len(one.forced) == 1
        thought = decode_response(word_reasoner.tokenizer, one.ids[: one.forced.start])
        assert thought.count("=") == 1, "closed behind the first sum"


def test_the_end_of_a_response_closes_the_thought_instead(word_reasoner: Lens, prompts: list[str]) -> None:
    """A model that would stop in its thought, told by a prompt whose tag was opened and closed before."""
    eos, close = word_reasoner.tokenizer.eos_token_id, word_reasoner.tokenizer.convert_tokens_to_ids("</think>")
    plain = generate(word_reasoner, prompts[:1], Sampling(max_new_tokens=200), 0)[0]
    after = prompts[0] + " " + decode_response(word_reasoner.tokenizer, plain.ids) + " <think>"
    found = generate(word_reasoner, [after], Sampling(max_new_tokens=40, thought=rule(30)), 0)[0]
    if eos in found.ids:
        assert close in found.ids[: found.ids.index(eos)]
    assert len(found.forced) == 1


def test_rollouts_close_thoughts_that_a_fork_leaves_open(word_reasoner: Lens, prompts: list[str]) -> None:
    """As the trace's own thought was: the budget counts from where it opened, and behind it nothing is closed."""
    close = word_reasoner.tokenizer.convert_tokens_to_ids("</think>")
    sampling = Sampling(max_new_tokens=200, thought=rule(20))
    own = generate(word_reasoner, prompts[:1], sampling, 0)[0]
    start, ids = len(own.prompt_ids), [*own.prompt_ids, *own.ids]
    reasoning = range(start, start + own.forced.start)
    forks = [Fork(start + place, ids[start + place]) for place in (4, 12, 19, 20, 25)]
    for cached in (True, False):
        found = rollouts(
            word_reasoner, trunk(word_reasoner, ids), forks, sampling, 0, reasoning=reasoning, cached=cached
        )
        # Greedy: each goes on as the trace itself does.
        assert [list(new) for new, _ in found] == [ids[fork.position + 1 :] for fork in forks]
    assert [close in new for new, _ in found] == [True, True, True, False, False]


@pytest.mark.parametrize("end", [None, r"= \d+\s*\."])
def test_forks_anywhere_in_a_trace_close_its_thought_where_it_closed(
    word_reasoner: Lens, prompts: list[str], end: str | None
) -> None:
    """Also one right before the first token of the thought, inside the words that end it, and at its closing tag."""
    close = word_reasoner.tokenizer.convert_tokens_to_ids("</think>")
    sampling = Sampling(max_new_tokens=200, thought=rule(40, end))
    own = generate(word_reasoner, prompts[:1], sampling, 0)[0]
    start, ids = len(own.prompt_ids), [*own.prompt_ids, *own.ids]
    reasoning = range(start, start + own.ids.index(close))
    forks = [Fork(place, ids[place]) for place in range(start - 1, reasoning.stop + 2)]
    found = rollouts(word_reasoner, trunk(word_reasoner, ids), forks, sampling, 0, reasoning=reasoning)
    assert [list(new) for new, _ in found] == [ids[fork.position + 1 :] for fork in forks]
    ((new, _),) = rollouts(
        word_reasoner, trunk(word_reasoner, ids), [Fork(start + 3, close)], sampling, 0, reasoning=reasoning
    )
    assert close not in new, "closed by the fork: nothing is left to close"
    tag = range(reasoning.stop, reasoning.stop + 1)
    other = [Fork(reasoning.stop, ids[start])]
    ((new, finished),) = rollouts(
        word_reasoner, trunk(word_reasoner, ids), other, sampling, 0, reasoning=reasoning, closing=tag
    )
    assert close in new, "left open by the fork: closed all the same"
    assert finished


def test_prompts_that_open_no_thought_know_no_rule(word_reasoner: Lens, prompts: list[str]) -> None:
    closed = [f"{prompt} </think>" for prompt in prompts]
    sampling = Sampling(max_new_tokens=60, thought=rule(1))
    assert generate(word_reasoner, closed, sampling, 0) == generate(
        word_reasoner, closed, Sampling(max_new_tokens=60), 0
    )


def test_worked_examples_stand_between_tags_and_only_with_reasoning(word_reasoner: Lens) -> None:
    example = WorkedExample("One and one?", "1 + 1 = 2.", "Two.")
    style = PromptStyle(examples=(example,), finished_thought=None, demand="It is")
    tokenizer, markers = word_reasoner.tokenizer, word_reasoner.markers
    thinking = render("Two and two?", tokenizer, markers, style, Condition.WITH_REASONING)
    assert "One and one?" in thinking
    assert "<think>\n1 + 1 = 2.\n</think>\n\nTwo." in thinking
    assert thinking.index("Two and two?") > thinking.index("Two.")
    at_once = render("Two and two?", tokenizer, markers, style, Condition.WITHOUT_REASONING)
    assert "think>" not in at_once
    assert "One and one?" not in at_once
    assert at_once.endswith("It is")


@pytest.mark.parametrize(
    ("demand", "text", "answer"),
    [
        (r"\boxed{", "12}. But wait, 12 - 3 is 9: \\boxed{9}", r"\boxed{12}"),
        (r"\boxed{", r"\frac{1}{2}} is it", r"\boxed{\frac{1}{2}}"),
        (r"\boxed{", "we first count", None),
        ("The answer is", " 12.\nBecause 9 + 3", "The answer is 12."),
        ("The answer is", " 12.", None),
    ],
)
def test_a_demanded_answer_ends_where_it_closes(demand: str, text: str, answer: str | None) -> None:
    assert demanded_answer(demand, text) == answer


def test_a_run_counts_and_marks_what_was_forced(tmp_path: Path) -> None:
    ok(
        "experiment=evaluate", "data.limit=4", "model.thought.tokens=12", 'model.thought.end="= 99"',
        "experiment.conditions=[with_reasoning]", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    answers, traces = (pd.read_parquet(tmp_path / "run" / f"{name}.parquet") for name in ("answers", "traces"))
    assert answers["n_forced"].tolist() == [1] * 4
    for row in traces.to_dict("records"):
        (place,) = row["forced"]
        (closing,) = (s for s in row["segments"] if s["segment"] == "end_think")
        assert place == closing["start"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('model.thought.end="["', "model.thought.end.*no regular expression"),
        ("model.thought.tokens=200", "leaves no room for an answer"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, option: str, message: str) -> None:
    more = [] if "tokens" in option else ["model.thought.tokens=10"]
    done = run("experiment=evaluate", option, *more, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert re.search(message, done.stderr)
