"""Every format in which people keep traces: a small file of each, read by the command line into the right segments."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from interp.data.datasets import Fields, read_traces
from interp.data.formats import TraceFormat, recognised
from interp.errors import UserError
from interp.runs.store import read_table
from interp.text.trace import DEFAULT_MARKERS
from tests.command import NO_PROBES, ok, run

QUESTION = "Tom 3 pens, finds 4. Mia 5 pens, buys 1. Who has most pens, Tom or Mia?"
THOUGHT = "First, Tom 3. 3 + 4 = 7. So Tom 7. Next, Mia 5. 5 + 1 = 6. So Mia 6. 7 is more than 6."
ANSWER = "Tom 7 pens. Mia 6 pens. The answer is Tom."
TAGGED = f"<think> {THOUGHT} </think> {ANSWER}"
USER = {"role": "user", "content": QUESTION}

ROWS: dict[str, dict[str, Any]] = {
    "text": {"text": f"<bos> {QUESTION} {TAGGED} <eos>"},
    "text_and_prompt": {"prompt": f"{QUESTION} ", "text": TAGGED},
    "completion": {"prompt": f"{QUESTION} <think>", "response": f" {THOUGHT} </think> {ANSWER}"},
    "completion_of_messages": {"prompt": [USER], "completion": TAGGED},
    "messages": {"messages": [USER, {"role": "assistant", "content": TAGGED}]},
    "reasoning_content": {"messages": [USER, {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}]},
    "closed_only": {"messages": [USER, {"role": "assistant", "content": f"{THOUGHT} </think> {ANSWER}"}]},
    "choices": {
        "request": {"messages": [USER]},
        "choices": [{"message": {"content": ANSWER, "reasoning": THOUGHT}, "finish_reason": "stop"}],
    },
    "text_choices": {
        "prompt": f"{QUESTION} <think> ",
        "choices": [{"text": f"{THOUGHT} </think> {ANSWER}", "finish_reason": "stop"}],
    },
    "conversations": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": TAGGED}]},
    "lm_eval": {
        "doc": {"question": QUESTION},
        "target": "Tom",
        "arguments": {"gen_args_0": {"arg_0": f"{QUESTION} ", "arg_1": {}}},
        "resps": [[TAGGED]],
    },
    "lm_eval_old": {"doc": {}, "target": "Tom", "arguments": [[f"{QUESTION} ", {}]], "resps": [[TAGGED]]},
    "math_rollouts": {"prompt": f"{QUESTION} <think> ", "solution": "", "full_cot": f"{QUESTION} {TAGGED}"},
    "question": {"problem": QUESTION, "generation": TAGGED},
}


def measured(path: Path, out: Path, *more: str) -> pd.Series:
    """The one trace that heads measures of a file."""
    small = [*NO_PROBES, "experiment.resamples=20", "experiment.random_sets=1", "progress=false"]
    ok(
        "experiment=heads",
        "model=word-reasoner",
        "data=traces",
        f"data.path={path}",
        *small,
        *more,
        f"hydra.run.dir={out}",
    )
    traces = read_table(out, "traces")
    assert len(traces) == 1
    return traces.iloc[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_format_is_read_into_the_right_segments(name: str, tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text(json.dumps(ROWS[name]) + "\n")
    (trace,) = read_traces(tmp_path / "traces.jsonl", {})
    row = measured(tmp_path / "traces.jsonl", tmp_path / "run")
    segments = {one["segment"]: (one["start"], one["end"]) for one in row["segments"]}
    texts = {
        segment: "".join(row["text"][a:b] + " " for a, b in row["offsets"][start:end]).split()
        for segment, (start, end) in segments.items()
    }
    expected = {"prompt": QUESTION, "reasoning": THOUGHT, "answer": ANSWER}
    for segment, text in expected.items():
        assert "".join(texts[segment]) == "".join(text.split()), segment
    assert trace.gold == ("Tom" if name.startswith("lm_eval") else None)


def test_a_folder_of_solutions_knows_its_gold_answers(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "problem_1"
    folder.mkdir(parents=True)
    (folder / "base_solution.json").write_text(json.dumps(ROWS["math_rollouts"]))
    (folder / "problem.json").write_text(json.dumps({"problem": QUESTION, "gt_answer": "Tom", "type": "Algebra"}))
    (trace,) = read_traces(tmp_path / "model", {})
    assert (trace.gold, trace.id, trace.kind) == ("Tom", "problem_1", "Algebra")


def test_data_sets_saved_to_disk(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([ROWS["messages"] | {"gold": "Tom"}])
    rows.save_to_disk(str(tmp_path / "alone"))
    datasets.DatasetDict({"dev": rows, "test": rows}).save_to_disk(str(tmp_path / "split"))
    for path in (tmp_path / "alone", tmp_path / "split"):
        (trace,) = read_traces(path, {})
        assert (trace.gold, trace.turns) == ("Tom", (("user", QUESTION),))
    with pytest.raises(UserError, match="cannot load the data set"):
        list(read_traces(tmp_path / "split", {}, split="nope"))


def test_other_files_of_rows(tmp_path: Path) -> None:
    row = ROWS["completion"]
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    pd.DataFrame([row, row]).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "wrong.jsonl").write_bytes(gzip.compress(f"{json.dumps(row)}\n{json.dumps(row)}\n".encode()))
    for name in ("a.json", "a.parquet", "wrong.jsonl"):
        assert len(list(read_traces(tmp_path / name, {}))) == 2


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"asked": f"{QUESTION} ", "said": TAGGED, "uid": "x", "right": "Tom"}))
    fields = Fields(prompt="asked", response="said", id="uid", gold="right")
    (trace,) = read_traces(tmp_path / "t.jsonl", {}, fields=fields)
    assert (trace.id, trace.gold, trace.text) == ("x", "Tom", f"{QUESTION} {TAGGED}")
    named = [f"data.fields.{name}" for name in ("prompt=asked", "response=said", "id=uid", "gold=right")]
    assert measured(tmp_path / "t.jsonl", tmp_path / "run", *named)["example"] == "x"


def test_several_samples_have_ids_of_their_own_and_say_whether_they_ended(tmp_path: Path) -> None:
    choice = {"message": {"content": TAGGED}, "finish_reason": "stop"}
    row = {"id": "q", "messages": [USER], "choices": [choice, {**choice, "finish_reason": "length"}]}
    rollouts = {"id": "r", "prompt": QUESTION, "response": [TAGGED, TAGGED, TAGGED]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(rollouts))
    found = list(read_traces(tmp_path / "t.jsonl", {}))
    assert [one.id for one in found] == ["q", "q#2", "r", "r#2", "r#3"]
    assert [one.finished for one in found] == [True, False, None, None, None]
    assert [one.question for one in found] == ["q", "q", "r", "r", "r"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"body": "x"}, "no format that is known has the fields body"),
        ({"messages": [USER]}, "read as data.format=messages: 'messages' is not a list of turns"),
        ({"conversations": ["x"]}, "read as data.format=conversations: 'conversations' is not a list of {from, value}"),
        ({"choices": []}, "'choices' is not a list of choices"),
        ({"choices": [{"logprobs": 1}]}, "a choice has neither `message` nor `text`"),
        ({"arguments": [], "resps": [["a"]]}, "log with --log_samples"),
        ({"prompt": "a", "response": [1]}, "no text field"),
        ({"text": 3}, "no text field 'text'"),
    ],
)
def test_what_is_in_no_format_says_what_was_looked_for(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    done = run("experiment=heads", "model=word-reasoner", "data=traces", f"data.path={tmp_path / 't.jsonl'}")
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("why", "finished"),
    [("stop", True), ("STOP", True), ("end_turn", True), ("length", False), ("LENGTH", False), ("max_length", False),
     ("model_length", False), ("max_output_tokens", False), ("abort", False), ("unknown", None), (None, None)],
)  # fmt: skip
def test_why_a_response_ended(why: str | None, finished: bool | None, tmp_path: Path) -> None:
    sent = {"messages": [{"role": "user", "content": "q"}], "choices": [{"text": "a", "finish_reason": why}]}
    (tmp_path / "server.jsonl").write_text(json.dumps(sent))
    (tmp_path / "plain.jsonl").write_text(json.dumps({"text": "q <think> a </think> b", "finish_reason": why}))
    for file in tmp_path.iterdir():
        (found,) = read_traces(str(file), {})
        assert found.finished is finished, file.name


def test_a_thought_that_restates_the_question_is_not_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    texts = {"<think> q? Well </think> b": "q?<think> q? Well </think> b", "q? <think> a </think> b": None}
    file.write_text("".join(json.dumps({"prompt": "q?", "text": text}) + "\n" for text in texts))
    assert [one.text for one in read_traces(str(file), {})] == [whole or text for text, whole in texts.items()]


def test_a_format_may_be_named(tmp_path: Path) -> None:
    row = {**ROWS["text"], **ROWS["messages"]}
    assert recognised(row) is TraceFormat.TEXT
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    (trace,) = read_traces(tmp_path / "t.jsonl", {}, markers=DEFAULT_MARKERS, kind=TraceFormat.MESSAGES)
    assert trace.turns == (("user", QUESTION),)


def test_every_format_has_a_reader_and_a_sign() -> None:
    kinds = {recognised(row) for row in ROWS.values()}
    assert kinds == set(TraceFormat) - {TraceFormat.AUTO}


def test_logs_of_inspect(tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="needs the package inspect-ai")
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
        ModelOutput,
    )

    said = ChatMessageAssistant(content=[ContentReasoning(reasoning=THOUGHT), ContentText(text=ANSWER)])
    output = ModelOutput(model="m", choices=[ChatCompletionChoice(message=said, stop_reason="stop")])
    sample = log.EvalSample(
        id=7, epoch=1, input=QUESTION, target="Tom", messages=[ChatMessageUser(content=QUESTION), said], output=output
    )
    about = log.EvalSpec(
        created="2025-01-01T00:00:00+00:00", task="t", model="m", dataset=log.EvalDataset(), config=log.EvalConfig()
    )
    log.write_eval_log(log.EvalLog(eval=about, samples=[sample]), str(tmp_path / "log.eval"))
    (trace,) = read_traces(tmp_path / "log.eval", {})
    assert (trace.id, trace.gold, trace.writer, trace.finished) == ("m/7", "Tom", "m", True)
    assert measured(tmp_path, tmp_path / "run")["example"] == "m/7"


def test_logs_of_inspect_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    (tmp_path / "log.eval").write_bytes(b"")
    with pytest.raises(UserError, match="needs the package inspect-ai: pip install inspect-ai"):
        list(read_traces(tmp_path / "log.eval", {}))
