"""Small files as people really have them, each with its right behaviour: ../shared/cases/README.md."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from experiments.base.data import DataOptions, given_traces
from interp.data.datasets import gold_of, read_questions, read_traces
from interp.data.examples import TraceText
from interp.errors import TraceError
from interp.grading.outcomes import AnswerFormat, Outcome
from interp.grading.responses import Grading, graded_trace
from interp.text.prompts import with_response
from interp.text.trace import Segment, ThinkMarkers, parse_text
from tests.command import NO_PROBES, ok, run

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
GRADING = Grading(ThinkMarkers())


def case(name: str) -> Path:
    file = CASES / name
    if not file.is_file():
        pytest.skip(f"{file} is not here: the awkward files are kept outside the project")
    return file


def traces(name: str) -> list[TraceText]:
    return list(read_traces(case(name), {}))


def outcomes(name: str) -> dict[str, str]:
    return {t.id: str(graded_trace(t, GRADING)["outcome"]) for t in traces(name)}


def test_the_systems_tags_are_not_the_assistants(r1_style: PreTrainedTokenizerBase) -> None:
    assert outcomes("B_system_tags.jsonl") == {"q0": "correct", "q1": "correct"}
    for item in traces("B_system_tags.jsonl"):
        trace = parse_text(item.text, r1_style)
        assert trace.segment_text(Segment.REASONING).strip().endswith(f"{item.gold}.")
        assert "enclosed within <think> </think>" in trace.segment_text(Segment.PROMPT)


def test_files_of_all_kinds_are_read() -> None:
    for name, ids in {"D_bom": "ab", "D_noeos": "ab", "D_nan": "ab", "D_gz_wrongname": "a", "D_fr": "ab"}.items():
        assert [t.id for t in traces(f"{name}.jsonl")] == list(ids), name
    assert [(t.id, t.gold) for t in traces("D_array.json")] == [("a", "36"), ("b", "36")]


def test_no_end_token_is_not_truncated() -> None:
    assert outcomes("D_noeos.jsonl") == {"a": "correct", "b": "wrong"}
    assert outcomes("D_fr.jsonl") == {"a": "correct", "b": "truncated"}


def test_no_gold_answer_is_not_wrong() -> None:
    assert outcomes("D_nan.jsonl") == {"a": "ungraded", "b": "correct"}
    assert outcomes("D_goldtypes.jsonl") == {
        "a": "correct", "b": "correct", "c": "correct", "d": "correct", "e": "ungraded"
    }  # fmt: skip
    assert [gold_of(v) for v in (None, float("nan"), "", " ", [], {}, ["1", "2"], 0, 0.5, False)] == (
        [None] * 7 + ["0", "0.5", "False"]
    )


def test_half_a_character_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert outcomes("D_surr.jsonl") == {"s": "correct", "b": "correct"}
    assert "1 rows hold parts of characters" in caplog.text
    for item in traces("D_surr.jsonl"):
        item.text.encode("utf-8")


def test_messages(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (item,) = traces("D_messages.jsonl")
    row = graded_trace(item, Grading(ThinkMarkers(), AnswerFormat.LENIENT))  # its answer is a number alone
    assert (row["outcome"], row["reasoning_words"]) == (Outcome.CORRECT, 1)
    turns = [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}]
    rows = [
        [*turns, {"role": "assistant", "content": "2", "reasoning_content": "So 2."}],
        [*turns, {"role": "assistant", "content": "So 2.\n</think>\n\n2"}],
        [*turns, {"role": "assistant", "content": "<think>\nSo 2.\n</think>\n\n2"}],
    ]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    for item in read_traces(file, {}):
        assert item.text == "1+1?\n<think>\nSo 2.\n</think>\n\n2"
        template = "U {{ messages[0].content }} {% if add_generation_prompt %}A <think>\n{% endif %}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(words, "chat_template", template)
            text = with_response(item.turns, item.response, words, ThinkMarkers(), {})
        assert text == "U 1+1? A <think>\nSo 2.\n</think>\n\n2"


def test_a_completion_with_its_prompt_is_readable(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    closing = next(item for item in traces("C_mixed.jsonl") if item.id == "closing_only")
    with pytest.raises(TraceError, match="without <think> before it"):
        parse_text(closing.text, words)
    assert graded_trace(closing, GRADING)["outcome"] is Outcome.CORRECT
    file = tmp_path / "t.jsonl"
    rows = [{"prompt": "Who has most pens? <think>", name: closing.text} for name in ("completion", "response", "text")]
    file.write_text("\n".join(map(json.dumps, rows)))
    for item in read_traces(file, {}):
        assert parse_text(item.text, words).segment_text(Segment.PROMPT).strip() == "Who has most pens?"


def test_where_compares_what_is_said(tmp_path: Path) -> None:
    for wanted in (5, "5"):
        assert [t.id for t in read_traces(case("F_where.jsonl"), {"level": wanted})] == ["007"]
    assert [t.id for t in read_traces(case("F_where.jsonl"), {"id": "008"})] == ["008"]
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b", "level": 5.0}')
    assert [t.text for t in read_traces(file, {"level": 5})] == ["b"]


def test_three_traces_of_one_id_are_three(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert [(t.id, t.question) for t in traces("dup_ids.jsonl")] == [("q0", "q0"), ("q0#2", "q0"), ("q0#3", "q0")]
    assert "1 ids stand more than once" in caplog.text
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(json.dumps({"id": name, "question": "?"}) for name in ("a", "a#2", "a", None)))
    assert [q.id for q in read_questions(str(file))] == ["a", "a#2", "a#3", "4"]
    options = DataOptions(name="x", kind="traces", path=str(case("dup_ids.jsonl")))
    assert len({t.id for t in given_traces(options) or []}) == 3


@pytest.mark.parametrize(
    ("name", "measured", "left_out"),
    [
        ("C_mixed.jsonl", ["good", "good2"], {"</think> without <think> before it": 1}),
        (
            "C_multi.jsonl",
            ["noeos"],
            {
                "several or nested think tags": 5,
                "empty reasoning": 1,
                "no <think> in it, so it has no reasoning segment": 1,
            },
        ),
        ("goodbad.jsonl", ["q0", "q1", "q2"], {"<think> is never closed by </think> (cut off while reasoning?)": 1}),
        ("dup_ids.jsonl", ["q0", "q0#2", "q0#3"], {}),
    ],
)
def test_good_traces_are_measured_and_others_counted(
    tmp_path: Path, name: str, measured: list[str], left_out: dict[str, int]
) -> None:
    out = tmp_path / "run"
    ok(
        "experiment=heads", "model=word-reasoner", "data=traces", f"data.path={case(name)}", *NO_PROBES,
        "experiment.resamples=20", "progress=false", f"hydra.run.dir={out}",
    )  # fmt: skip
    assert list(pd.read_parquet(out / "traces.parquet")["example"]) == measured
    assert Counter(json.loads((out / "summary.json").read_text())["skipped"]) == left_out


@pytest.mark.parametrize("experiment", ["heads", "rhythm", "ablate", "key_tokens", "perturb"])
def test_a_file_without_a_good_trace_ends_in_one_line(tmp_path: Path, experiment: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"text": "Tom 3 pens <think> 3 + 4 = 7. So"}))
    out = tmp_path / "run"
    done = run(
        f"experiment={experiment}", "model=word-reasoner", "data=traces", f"data.path={file}", "progress=false",
        f"hydra.run.dir={out}",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if "never closed" in line]
    assert "Traceback" not in done.stderr
