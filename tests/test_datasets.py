"""Reading questions and traces, and what is said of files that are not what they should be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pandas as pd
import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from experiments.base.collect import given_trace
from interp.data.datasets import (
    Fields,
    planted_questions,
    read_questions,
    read_traces,
    reasoning_gym_questions,
    word_problem_questions,
)
from interp.data.examples import TraceText
from interp.data.files import Malformed
from interp.errors import UserError
from interp.grading.outcomes import score_task
from interp.organisms.word_problems import Split
from interp.text.prompts import PromptStyle
from interp.text.trace import Segment, ThinkMarkers, parse_text

ROW = {"id": "a", "condition": "with", "text": "<think>x</think>y", "gold": 3}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_traces_are_selected_by_their_fields(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl.gz"
    with gzip.open(file, "wt") as out:
        out.write(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "condition": "without"}) + "\n")
    assert [t.id for t in read_traces(file, {})] == ["a/with", "a/without"]
    assert [(t.id, t.gold) for t in read_traces(file, {"condition": "with"})] == [("a/with", "3")]


def test_questions(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", '{"question": "1+1?", "gold": 2}', '{"id": "z", "question": "Why?"}')
    first, second = read_questions(str(file))
    assert (first.id, first.gold) == ("1", "2")
    assert (second.id, second.gold) == ("z", None)
    assert len(read_questions(str(file), limit=1)) == 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([json.dumps(ROW), "{broken"], "line 2: not valid JSON"),
        ([json.dumps(ROW), "[1]"], "line 2: not a JSON object"),
        (['{"id": "a", "question": "?"}'], "line 1: no format that is known has the fields id, question"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, lines: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        list(read_traces(write(tmp_path / "t.jsonl", *lines), {}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        list(read_traces(tmp_path / "none.jsonl", {}))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode() * 500)[:-30])
    with pytest.raises(UserError, match=r"cannot read .* after line"):
        list(read_traces(cut, {}))
    with pytest.raises(UserError, match="no field 'model' to select by"):
        list(read_traces(write(tmp_path / "t.jsonl", json.dumps(ROW)), {"model": "x"}))


def test_generated_questions_can_be_made_again() -> None:
    assert word_problem_questions(1, Split.HELD_OUT, 5) == word_problem_questions(1, Split.HELD_OUT, 9)[:5]
    assert planted_questions(1, 5) == planted_questions(1, 9)[:5]
    assert word_problem_questions(1, Split.TRAIN, 5) != word_problem_questions(2, Split.TRAIN, 5)


MATH = {"problem": "1+1?", "solution": "...", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "t/1"}
MATH_FIELDS = Fields(question="problem", id="unique_id", gold="answer")


def test_parquet_and_hub_directories_hold_the_same_questions(tmp_path: Path) -> None:
    pd.DataFrame([MATH, {**MATH, "unique_id": "t/2"}]).to_parquet(tmp_path / "m.parquet")
    folder = tmp_path / "copy"
    folder.mkdir()
    pd.DataFrame([MATH, {**MATH, "unique_id": "t/2"}]).to_parquet(folder / "test-0.parquet")
    from_file = read_questions(str(tmp_path / "m.parquet"), fields=MATH_FIELDS)
    assert [(q.id, q.text, q.gold, q.kind, q.level) for q in from_file] == [
        ("t/1", "1+1?", "2", "Algebra", "1"),
        ("t/2", "1+1?", "2", "Algebra", "1"),
    ]
    assert read_questions(str(folder), fields=MATH_FIELDS) == from_file
    assert read_questions(str(folder), fields=MATH_FIELDS, limit=1) == from_file[:1]


def test_a_gold_answer_behind_a_mark(tmp_path: Path) -> None:
    file = write(tmp_path / "g.jsonl", json.dumps({"question": "?", "answer": "3 #### 4\n#### 1,234"}))
    (question,) = read_questions(str(file), fields=Fields(gold="answer", gold_after="####"))
    assert question.gold == "1234"


def test_conversations(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "b"), ("user", "c")]]
    file = write(tmp_path / "w.jsonl", json.dumps({"turns": turns, "checklist": ["x", "y"]}), '{"turns": []}')
    fields = Fields(conversation="turns", gold=None)
    (question,) = read_questions(str(file), 1, fields)
    assert (question.earlier, question.text, question.checklist) == (("a", "b"), "c", ("x", "y"))
    with pytest.raises(UserError, match=r"row 2: 'turns' is not a list of turns"):
        read_questions(str(file), fields=fields)


def test_malformed_lines_are_left_out_where_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "t.jsonl", json.dumps(ROW), "{broken", "[1]", "[" * 100_000, json.dumps(ROW))
    assert len(list(read_traces(file, {}, Malformed.SKIP))) == 2
    assert "3 lines are not JSON objects and were left out: 2, 3, 4" in caplog.text
    with pytest.raises(UserError, match=r"data\.malformed=skip reads the others"):
        list(read_traces(file, {}))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("none.jsonl", "there is no file none.jsonl"),
        ("someone/none", "cannot load the data set someone/none"),
        ("data/none.parquet", "there is no file data/none.parquet"),
    ],
)
def test_question_sources_that_are_not_there(path: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        read_questions(path)
    assert "\n" not in str(caught.value)


def test_a_broken_parquet_file_and_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="cannot read"):
        read_questions(str(tmp_path / "b.parquet"))
    with pytest.raises(UserError, match="has no question"):
        read_questions(str(write(tmp_path / "e.jsonl", "")))
    with pytest.raises(UserError, match=r"row 1: no text field 'question'; it has query"):
        read_questions(str(write(tmp_path / "q.jsonl", '{"query": "?"}')))


def test_hub_names_go_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, subset: str | None, split: str) -> list[dict[str, str]]:
        asked.append((path, subset, split))
        return [{"question": "?", "answer": "#### 3"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    (question,) = read_questions("openai/gsm8k", None, Fields(gold="answer", gold_after="####"), subset="main")
    assert (asked, question.gold) == ([("openai/gsm8k", "main", "test")], "3")


@pytest.mark.parametrize("task", ["gsm_symbolic", "countdown", "chain_sum", "leg_counting"])
def test_reasoning_gym(task: str) -> None:
    questions = reasoning_gym_questions(task, 1, 3, {})
    assert questions == reasoning_gym_questions(task, 1, 3, {})
    assert [q.text for q in questions] != [q.text for q in reasoning_gym_questions(task, 2, 3, {})]
    for question in questions:
        assert question.task is not None
        assert score_task(str(question.gold), question.task, 30.0)


def test_reasoning_gym_options() -> None:
    (question,) = reasoning_gym_questions("chain_sum", 1, 1, {"min_terms": 7, "max_terms": 7})
    assert question.text.count("+") + question.text.count(" - ") == 6
    with pytest.raises(UserError, match="did you mean chain_sum"):
        reasoning_gym_questions("chainsum", 1, 1, {})
    for options in ({"no_such": 1}, {"min_terms": -1}):
        with pytest.raises(UserError, match="does not suit the task chain_sum"):
            reasoning_gym_questions("chain_sum", 1, 1, options)


@pytest.mark.parametrize(
    "content",
    [
        b"PAR1",
        b"PAR1" + b"\x00" * 100 + b"PAR1",
        gzip.compress(b'{"text": "a"}\n' * 3000, mtime=0)[:60],
        b"\x1f\x8b\x08\x00 not gzip",
        gzip.compress(b'{"text": "a"}', mtime=0)[:10] + b"\xff" * 30,
        b"\xff\xfe{\x00}\x00",
        b"[1, 2",
        b"[[[[",
        b"[" * 100_000,
        b'{"text": ' + b"9" * 5000 + b"}",
        b'"a text"',
        b"null",
        b'{"a": ' * 30_000,
        b"\x00\x01\x02",
        b'[{"text": 1}]',
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"messages": "x"}',
        b'{"messages": [1]}',
        b'{"messages": []}',
    ],
)
def test_broken_files_of_any_shape_end_in_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("t.jsonl", "t.parquet", "t.json.gz"):
        (tmp_path / name).write_bytes(content)
        for read in (lambda f: list(read_traces(f, {})), lambda f: read_questions(str(f))):
            with pytest.raises(UserError) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [10, 400, -4, -30])
def test_a_parquet_file_cut_anywhere(tmp_path: Path, cut: int) -> None:
    pd.DataFrame([ROW] * 50).to_parquet(tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot read"):
        list(read_traces(tmp_path / "cut.parquet", {}))
    assert len(list(read_traces(tmp_path / "whole.parquet", {}))) == 50


def test_the_tokens_that_were_written_are_the_tokens_that_are_measured(r1_style: PreTrainedTokenizerFast) -> None:
    """A token that was written as two is measured as two; foreign tokens are not believed."""
    text, vocabulary = "<think>the sum</think>the answer", r1_style.get_vocab()
    usual = parse_text(text, r1_style)
    pieces = r1_style.convert_ids_to_tokens(list(usual.token_ids))
    places = range(usual[Segment.ANSWER].start, len(pieces))
    place = next(i for i in places if len(pieces[i]) == 2 and set(pieces[i]) <= vocabulary.keys())
    split = [vocabulary[letter] for letter in pieces[place]]
    written = (*usual.token_ids[:place], *split, *usual.token_ids[place + 1 :])
    lens = SimpleNamespace(
        tokenizer=r1_style, markers=ThinkMarkers(), hf=SimpleNamespace(config=LlamaConfig()), name="m"
    )
    session = SimpleNamespace(
        lens=lens, data_options=SimpleNamespace(path=None, max_tokens=None, scrambled=None), prompt_style=PromptStyle()
    )
    for ids, expected in ((written, written), ((), usual.token_ids), (tuple(range(9)), usual.token_ids)):
        example = given_trace(session, 0, TraceText("a", text, token_ids=ids))  # type: ignore[arg-type]
        assert example.subject.token_ids == expected


def test_a_file_may_hold_the_tokens(tmp_path: Path) -> None:
    rows = [{"text": "<think>a</think>b", "token_ids": ids} for ids in ([1, 2], None, "12", [1, "x"])]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.token_ids for one in read_traces(tmp_path / "t.jsonl", {})] == [(1, 2), (), (), ()]
