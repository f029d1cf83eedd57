"""`experiment=evaluate` from the command line."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from interp.runs.store import read_table
from tests.command import ok, published_beside, run
from tests.conftest import ARCHITECTURES

QUIET = ["experiment=evaluate", "progress=false"]


def trace(question: str, condition: str, answer: str, **more: object) -> str:
    text = f"{question}? <think>\nWell. Now.\n</think>\nThe answer is {answer}.<｜end▁of▁sentence｜>"
    row = {"id": question, "model": "R", "condition": condition, "text": text, "gold": "1"}
    return json.dumps({**row, **more})


def summary(directory: Path) -> dict[str, dict[str, float]]:
    return {h["name"]: h for h in json.loads((directory / "summary.json").read_text())["headlines"]}


def test_reasoning_helps_the_embedded_model(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = ok(*QUIET, "model=reasoner", "data.limit=48", "figures=true", f"hydra.run.dir={out}")
    found = summary(out)
    with_it = found["all questions, accuracy, with reasoning"]
    without = found["all questions, accuracy, without reasoning"]
    effect = found["all questions, accuracy, with reasoning minus without reasoning"]
    assert with_it["low"] > without["high"]
    assert effect["low"] > effect["control"]["high"]  # type: ignore[index]
    answers = pd.read_parquet(out / "answers.parquet")
    assert len(answers) == 96
    assert (answers.groupby("condition")["correct"].mean()["with_reasoning"]) == pytest.approx(with_it["value"])
    assert "McNemar" in done.stdout
    # The paper's accuracies are of questions that pass its filters.
    assert all(name == key for key, name in published_beside("evaluate", out).items())
    assert all(key.startswith("after the filters, accuracy") for key in published_beside("evaluate", out))
    for name in ("a_fig1_accuracy.png", "evaluate_outcomes.pdf", "a_table2_filters.csv", "a_table3_effect.tex"):
        assert (out / "figures" / name).stat().st_size > 100


def test_several_samples(tmp_path: Path) -> None:
    arguments = ["model=reasoner", "data.limit=3", "experiment.samples=4"]
    greedy = run(*QUIET, *arguments, "generation=greedy", f"hydra.run.dir={tmp_path / 'a'}")
    assert "greedy answers are all the same" in greedy.stderr
    ok(*QUIET, *arguments, "generation.temperature=1.0", "figures=true", f"hydra.run.dir={tmp_path / 'b'}")
    answers = pd.read_parquet(tmp_path / "b" / "answers.parquet")
    assert answers.groupby(["example", "condition"]).size().eq(4).all()
    assert answers.groupby(["example", "condition"])["text"].nunique().max() > 1
    measures = set(pd.read_parquet(tmp_path / "b" / "accuracy.parquet")["measure"])
    assert measures == {"accuracy", "pass@1", "pass@2", "pass@4"}
    assert (tmp_path / "b" / "figures" / "evaluate_pass_at_k.png").is_file()


def test_given_traces_are_graded_without_a_model(tmp_path: Path) -> None:
    lines = [
        trace("a", "with_reasoning", "1"),
        trace("a", "without_reasoning", "2"),
        trace("b", "with_reasoning", "1"),
        trace("b", "without_reasoning", "1"),
        trace("c", "with_reasoning", "1"),  # no partner
        trace("d", "without_reasoning", "1", finished=False),
        trace("d", "with_reasoning", "1", text="d? <think> Hm.<｜end▁of▁sentence｜>"),
        trace("e", "with_reasoning", "1", text="<｜end▁of▁sentence｜>"),
    ]
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(lines))
    # a model that could not be loaded is not asked for
    where = ["data=traces", f"data.path={file}", "model=r1-distill-qwen-7b"]
    ok(*QUIET, *where, f"hydra.run.dir={tmp_path / 'run'}")
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    assert list(answers["outcome"]) == ["correct", "wrong", *["correct"] * 3, "truncated", "unclosed", "unclosed"]
    assert set(answers["writer"]) == {"R"}
    found = summary(tmp_path / "run")
    assert found["all questions, accuracy, with reasoning"]["n"] == 5
    assert found["after the filters, accuracy, with reasoning minus without reasoning"]["n"] == 2
    filters = pd.read_parquet(tmp_path / "run" / "filters.parquet")
    assert list(filters.query("condition == 'with_reasoning'")["responses"]) == [5, 5, 3, 3, 2]


def test_real_traces_by_model(r1_traces: Path, tmp_path: Path) -> None:
    ok(*QUIET, "data=traces", f"data.path={r1_traces}", f"hydra.run.dir={tmp_path / 'run'}")
    paired = pd.read_parquet(tmp_path / "run" / "paired.parquet")
    whole = paired[(paired["group"] == "all") & (paired["kept"] == "paired")].set_index("writer")
    assert dict(whole["n"]) == {"R1-Distill-Llama-8B": 48, "R1-Distill-Qwen-1.5B": 43, "R1-Distill-Qwen-7B": 47}
    assert (whole["low"] > 0).all()
    assert (whole[["p_t", "p_mcnemar", "p_permutation"]] < 0.05).all(axis=None)
    assert {"kind", "level", "length"} <= set(paired["group"])


@pytest.mark.parametrize(
    ("lines", "arguments", "complaint"),
    [
        ([trace("a", "with_reasoning", "1"), "{"], [], "line 2: not valid JSON"),
        ([json.dumps({"id": "a"})], [], "line 1: no format that is known has the fields id"),
        ([trace("a", "reasoning", "1")], [], "condition=reasoning is not known"),
        ([trace("a", "with_reasoning", "1", gold=None)], [], "no gold answers"),
        ([trace("a", "with_reasoning", "1")], ["grading.where=there"], "grading.where=there is not known"),
        ([trace("a", "with_reasoning", "1")], ["grading.seconds=0"], "grading.seconds=0 must be greater than 0"),
        ([trace("a", "with_reasoning", "1")], ["experiment.conditions=[x]"], "experiment.conditions=x is not known"),
        ([trace("a", "with_reasoning", "1")], ["experiment.conditions=[]"], "must have at least 1 item"),
        ([trace("a", "with_reasoning", "1")], ["experiment.samples=0"], "experiment.samples=0 must be at least 1"),
        ([trace("a", "with_reasoning", "1")], ["data.max_tokens=9"], "data.max_tokens does not apply"),
        ([trace("a", "with_reasoning", "1")], ["data.malformed=x"], "data.malformed=x is not known"),
    ],
)
def test_wrong_input(tmp_path: Path, lines: list[str], arguments: list[str], complaint: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(lines))
    out = tmp_path / "run"
    done = run(*QUIET, "data=traces", f"data.path={file}", *arguments, f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not out.exists()


def test_malformed_lines_are_left_out_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join([trace("a", "with_reasoning", "1"), "{", trace("a", "without_reasoning", "1")]))
    out = tmp_path / "run"
    ok(*QUIET, "data=traces", f"data.path={file}", "data.malformed=skip", f"hydra.run.dir={out}")
    assert len(pd.read_parquet(out / "answers.parquet")) == 2
    assert "1 lines are not JSON objects and were left out: 2" in (out / "run.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["data=math500"], "cannot load the data set HuggingFaceH4/MATH-500"),
        (["data=gsm8k", "data.path=none.parquet"], "there is no file none.parquet"),
        (["data=reasoning_gym", "data.task=chainsum"], "did you mean chain_sum"),
        (["data=chain_sum", "+data.options.terms=3"], "data.options does not suit the task chain_sum"),
        (["generation.backend=vllm"], "pip install vllm"),
        (["generation.backend=tgi"], "generation.backend=tgi is not known"),
    ],
)
def test_sources_that_are_not_there(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    done = run(*QUIET, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_task_with_many_right_answers(tmp_path: Path, r1_style: PreTrainedTokenizerBase) -> None:
    config = deepcopy(ARCHITECTURES["qwen3-gqa"])
    config.vocab_size, config.max_position_embeddings = len(r1_style), 2048
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen3")
    r1_style.save_pretrained(tmp_path / "qwen3")
    ok(*QUIET, "data=chain_sum", "data.limit=2", "model=huggingface", f"model.path={tmp_path / 'qwen3'}",
       "generation.max_new_tokens=8", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    answers = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    assert len(answers) == 4
    assert set(answers["kind"]) == {"chain_sum"}


def test_what_the_own_reasoning_is_worth_beside_edited_ones(tmp_path: Path) -> None:
    asked = "with_reasoning,without_reasoning,half_reasoning,filler,others_reasoning,hinted"
    options = ["experiment=evaluate", "model=word-reasoner", "data=word_problems", "data.limit=16", "generation=greedy"]
    options += [f"experiment.conditions=[{asked}]", "experiment.filler=.", "experiment.hint='The answer is {}.'"]
    ok(*options, "progress=false", "figures=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "figures" / "a_fig1_accuracy.png").is_file()
    answers = read_table(tmp_path / "run", "answers")
    right = answers.groupby("condition")["correct"].mean()
    assert right["with_reasoning"] > 0.8
    assert max(right[one] for one in ("half_reasoning", "filler", "others_reasoning")) < 0.5
    hinted = answers[answers["condition"] == "hinted"]
    assert (hinted["hint"] != hinted["gold"]).all()
    assert answers[answers["condition"] != "hinted"]["hint"].isna().all()
    found = summary(tmp_path / "run")
    assert found["share of answers that are the suggested wrong one"]["n"] == 16
    plain = [one for name, one in found.items() if name.endswith("with reasoning minus without reasoning")]
    assert plain
    assert all(one["n"] == 16 for one in plain), "conditions of ours leave the paper's pairs as they are"
    compared = read_table(tmp_path / "run", "paired")[["first", "second"]].drop_duplicates()
    assert set(compared["first"]) == {"with_reasoning"}, "the others are not compared with one another"
    assert len(compared) == 5


def test_edited_reasoning_needs_a_reasoning(tmp_path: Path) -> None:
    done = run("experiment=evaluate", "experiment.conditions=[filler]", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "put with_reasoning before it" in done.stderr
    asked = "experiment.conditions=[with_reasoning,hinted]"
    alone = run(
        "experiment=evaluate", "model=planted", "data=planted", "data.limit=1", asked, f"hydra.run.dir={tmp_path}/b"
    )
    assert "no two of them" in alone.stderr
    words = run("experiment=evaluate", "model=reasoner", asked, f"hydra.run.dir={tmp_path / 'c'}")
    assert "vocabulary does not know experiment.hint='I think the answer is {}.'" in words.stderr
    asked = "experiment.conditions=[with_reasoning,others_reasoning]"
    lonely = run("experiment=evaluate", asked, "generation.batch=1", f"hydra.run.dir={tmp_path / 'd'}")
    assert "leave one alone" in lonely.stderr
    assert not any((tmp_path / name).exists() for name in ("run", "b", "c", "d"))


def test_no_own_reasoning_leaves_nothing_to_edit(tmp_path: Path) -> None:
    """Thoughts that are cut off have no edited ones: they count as cut off under both conditions."""
    options = ["experiment=evaluate", "model=word-reasoner", "data=word_problems", "data.limit=2", "generation=greedy"]
    options += ["experiment.conditions=[with_reasoning,half_reasoning]", "generation.max_new_tokens=5"]
    ok(*options, "progress=false", "figures=false", f"hydra.run.dir={tmp_path / 'run'}")
    answers = read_table(tmp_path / "run", "answers")
    assert answers["outcome"].tolist() == ["truncated"] * 4
