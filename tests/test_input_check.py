"""Input that a model cannot read is refused before its weights are loaded; what is merely odd is said."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
from transformers import GPT2Config, LlamaConfig, PreTrainedTokenizerBase

from interp.data.examples import TraceText
from interp.data.input_check import Reader, look_at_prompts, look_at_traces, positions_of
from interp.errors import UserError
from interp.model.lens import Lens
from interp.text.trace import ThinkMarkers
from tests.command import NO_PROBES, ok, run

GOOD = "<bos> Tom 3 pens. How many pens does Tom have? <think> First, Tom 3. So Tom 3. </think> The answer is 3. <eos>"
FOREIGN = GOOD.replace("pens", "zeppelins").replace("have", "possess")


def reader(tokenizer: PreTrainedTokenizerBase, positions: int | None = 512) -> Reader:
    return Reader("words", tokenizer, ThinkMarkers(), positions)


def trace(text: str = GOOD, **more: str) -> TraceText:
    return TraceText("t", text, **more)  # type: ignore[arg-type]


def test_an_ordinary_trace_raises_no_warning(words: PreTrainedTokenizerBase) -> None:
    notes = look_at_traces(reader(words), [trace()])
    assert notes.warnings == ()
    assert notes.facts["unknown_share"] == 0
    assert notes.facts["longest"] == len(GOOD.replace(".", " .").replace(",", " ,").replace("?", " ?").split()) - 1


def test_a_vocabulary_that_does_not_know_the_text_is_refused(words: PreTrainedTokenizerBase) -> None:
    # 3 of the 27 tokens: two zeppelins and one possess.
    with pytest.raises(UserError, match=r"words does not know 11% of the tokens"):
        look_at_traces(reader(words), [trace(FOREIGN)])
    with pytest.raises(UserError, match="does not know"):
        look_at_prompts(reader(words), ["<bos> How many zeppelins does Tom possess?"], 10)


def test_a_rare_unknown_word_is_said(words: PreTrainedTokenizerBase) -> None:
    notes = look_at_traces(reader(words), [trace()] * 60 + [trace(GOOD.replace("have", "possess"))])
    assert len(notes.warnings) == 1
    assert "does not know 0.06%" in notes.warnings[0]


def test_an_unknown_token_that_also_ends_texts_marks_a_vocabulary_of_bytes(r1_style: PreTrainedTokenizerBase) -> None:
    of_bytes = deepcopy(r1_style)
    of_bytes.unk_token = of_bytes.eos_token
    notes = look_at_traces(reader(of_bytes), [trace("<think>\nzeppelins\n</think>\n\n5")])
    assert notes.facts["unknown_share"] == 0


def test_conditions_are_not_measured_together(words: PreTrainedTokenizerBase) -> None:
    both = [trace(condition="with_reasoning"), trace(condition="without_reasoning")]
    with pytest.raises(UserError, match=r"mix conditions, with_reasoning \(1\), without_reasoning \(1\)"):
        look_at_traces(reader(words), both)


def test_traces_beyond_the_models_positions_are_said_or_refused(words: PreTrainedTokenizerBase) -> None:
    longer = GOOD.replace("So Tom 3.", "So Tom 3. " * 20)
    notes = look_at_traces(reader(words, positions=60), [trace(), trace(longer)])
    assert notes.warnings == ("1 of 2 traces are longer than the 60 positions of words: they are left out",)
    with pytest.raises(UserError, match="every trace is longer than the 60 positions of words"):
        look_at_traces(reader(words, positions=60), [trace(longer)])


def test_a_response_must_fit_behind_its_prompt(words: PreTrainedTokenizerBase) -> None:
    prompt = "<bos> Tom 3 pens ."  # 5 tokens
    assert look_at_prompts(reader(words, positions=20), [prompt], 15).facts["longest"] == 5
    with pytest.raises(UserError, match=r"set generation\.max_new_tokens=15 or less"):
        look_at_prompts(reader(words, positions=20), [prompt], 16)


def test_foreign_chat_signs_and_writers_are_said(r1_style: PreTrainedTokenizerBase) -> None:
    text = "<｜User｜>Hi<｜Assistant｜><think>\nthings\n</think>\n\n5"
    notes = look_at_traces(reader(r1_style), [trace(text, writer="a"), trace(text, writer="b")])
    assert any("<｜User｜>" in w and "no single tokens" in w for w in notes.warnings)
    assert any("2 writers" in w for w in notes.warnings)
    assert any("written by a, b and are read by words" in w for w in notes.warnings)


def test_positions_are_read_under_every_name() -> None:
    assert positions_of(GPT2Config(n_positions=77)) == 77
    assert positions_of(LlamaConfig(max_position_embeddings=99)) == 99


def test_the_command_line_refuses_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1_traces: Path
) -> None:
    def fail(*_: object) -> Lens:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("experiments.base.session.load_lens", fail)
    given = ["experiment=heads", "data=traces", f"data.path={r1_traces}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert "mix conditions" in run(*given).stderr
    done = run(*given, "+data.where.condition=with_reasoning")
    assert done.returncode == 2
    assert "does not know" in done.stderr
    assert "does not know" in run("experiment=patching", "data=object_comparison").stderr
    assert "does not know" in run("experiment=evaluate", "data=chain_sum").stderr
    assert not (tmp_path / "run").exists()


def test_what_is_odd_stands_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "text": GOOD, "model": "someone"}) + "\n" for i in range(2)))
    out = tmp_path / "run"
    small = ["experiment.induction_prompts=0", "experiment.haystack.lengths=[]", "experiment.maps=0"]
    done = ok(
        "experiment=heads", "model=word-reasoner", "data=traces", f"data.path={file}", f"hydra.run.dir={out}", *small
    )
    seen = json.loads((out / "environment.json").read_text())["input"]
    assert seen["warnings"] == ["the traces were written by someone and are read by word-reasoner"]
    assert seen["looked_at"] == 2
    assert seen["warnings"][0] in done.stderr + done.stdout + (out / "run.log").read_text()


def test_samples_of_one_question_are_said_to_be_no_more_problems(tmp_path: Path) -> None:
    file, out = tmp_path / "traces.jsonl", tmp_path / "run"
    rows = [{"id": name, "text": GOOD} for name in ("a", "a", "b")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["model=word-reasoner", "data=traces", f"data.path={file}", f"hydra.run.dir={out}"]
    done = ok("experiment=heads", *given, *NO_PROBES)
    assert "1 of 3 traces are further samples of questions that others answer" in done.stderr
    done = ok("experiment=heads", *given[:-1], f"hydra.run.dir={tmp_path / 'first'}", *NO_PROBES, "data.samples=1")
    assert "further samples" not in done.stderr
    measured = pd.read_parquet(tmp_path / "first" / "traces.parquet")
    assert measured["example"].tolist() == ["a", "b"]


def test_given_traces_that_were_cut_off_are_left_out_and_counted(tmp_path: Path) -> None:
    file, out = tmp_path / "traces.jsonl", tmp_path / "run"
    rows = [{"id": "a", "text": GOOD, "finished": False}, {"id": "b", "text": GOOD, "finished": True}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ok(
        "experiment=heads",
        "model=word-reasoner",
        "data=traces",
        f"data.path={file}",
        f"hydra.run.dir={out}",
        *NO_PROBES,
    )
    assert json.loads((out / "summary.json").read_text())["skipped"] == {"not finished, by what its row says": 1}
    assert pd.read_parquet(out / "traces.parquet")["example"].tolist() == ["b"]


def test_every_prompt_must_leave_room(words: PreTrainedTokenizerBase) -> None:
    """Not only the first few hundred."""
    prompts = ["<bos> Tom 3 pens ."] * 300 + ["<bos> " + "Tom 3 pens . " * 10]
    with pytest.raises(UserError, match=r"a prompt of 41 tokens and a response of 10 do not fit into the 50 positions"):
        look_at_prompts(reader(words, positions=50), prompts, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        ["experiment=heads", "experiment.layers=9"],
        ["experiment=heads", "experiment.top_k=99"],
        ["experiment=heads", "experiment.haystack.lengths=[5000]"],
        ["experiment=ablate", "experiment.window=9"],
        ["experiment=rhythm", "experiment.layers=3-9"],
        ["experiment=perturb", "experiment.layers=9"],
        ["experiment=key_tokens", "experiment.layers=9"],
        ["experiment=patching", "experiment.layers=9"],
        ["experiment=patching", "experiment.top_k=99"],
        ["experiment=credit", "experiment.layers=9"],
        ["experiment=credit", "experiment.train.limit=abc"],
        ["experiment=credit", "+experiment.grpo.num_generation=4"],
        ["experiment=heads", "data=traces", "data.path=nowhere.jsonl"],
    ],
)
def test_options_that_the_model_cannot_have_are_said_before_its_weights_are_loaded(
    wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Lens:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("experiments.base.session.load_lens", fail)
    done = run(*wrong, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "loading" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
