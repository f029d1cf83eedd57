"""Reading questions and traces, and what is said of files that are not what they should be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from interp.datasets import planted_questions, read_questions, read_traces, word_problem_questions
from interp.errors import UserError
from interp.organisms.word_problems import Split

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
    first, second = read_questions(file)
    assert (first.id, first.gold) == ("1", "2")
    assert (second.id, second.gold) == ("z", None)
    assert len(read_questions(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([json.dumps(ROW), "{broken"], "line 2: not valid JSON"),
        ([json.dumps(ROW), "[1]"], "line 2: not a JSON object"),
        (['{"id": "a", "question": "?"}'], "line 1: no text field 'text'; it has id, question"),
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
