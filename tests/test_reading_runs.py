"""Experiments that read finished runs say what these measured, and what they do not share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.errors import UserError
from interp.figures.heads import overlaps
from interp.runs.store import RunStore, read_table, tables_of
from tests.command import NO_PROBES, ok, run

HEADS = ("experiment=heads", "model=word-reasoner", "data=traces", *NO_PROBES, "experiment.resamples=20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two sets of layers on the same traces, and of a third on others."""
    out = tmp_path_factory.mktemp("runs")
    for name, who in (("a", "Mia"), ("b", "Leo")):
        text = f"{who} 5 pens. How many pens? <think> {who} 5. </think> {who} 5 pens. The answer is 5."
        rows = ({"id": str(i), "text": text, "gold": "5"} for i in range(2))
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, file, layers in (("low", "a", "0-1"), ("high", "a", "2-3"), ("other", "b", "all")):
        ok(*HEADS, f"data.path={out / file}.jsonl", f"experiment.layers={layers}", f"hydra.run.dir={out / name}")
    return out


def test_compared_runs_say_what_they_do_not_share(folder: Path, tmp_path: Path) -> None:
    done = ok("experiment=compare", f"runs=[{folder}/low,{folder}/high]", f"hydra.run.dir={tmp_path / 'same'}")
    assert "differ further" not in done.stdout
    assert "the same texts" not in done.stdout
    done = ok("experiment=compare", f"runs=[{folder}/low,{folder}/other]", f"hydra.run.dir={tmp_path / 'others'}")
    assert "the runs differ further in data.path" in done.stdout
    assert "the runs did not measure the same texts" in done.stdout
    copied = tmp_path / "copied"
    shutil.copytree(folder / "high", copied)
    environment = json.loads((copied / "environment.json").read_text())
    environment["model"]["fingerprint"], environment["versions"]["torch"] = "0" * 16, "1.0"
    (copied / "environment.json").write_text(json.dumps(environment))
    done = ok("experiment=compare", f"runs=[{folder}/low,{copied}]", f"hydra.run.dir={tmp_path / 'weights'}")
    assert "word-reasoner had other weights in one run than in another" in done.stdout
    assert "several versions or kinds of torch" in done.stdout
    lines = json.loads((tmp_path / "others" / "summary.json").read_text())["lines"]
    assert "the runs did not measure the same texts" in lines


def test_what_reads_runs_does_not_say_that_the_default_model_was_measured(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all" / "compared"
    ok("experiment=compare", f"runs=[{folder}/low,{folder}/high]", f"hydra.run.dir={out}")
    numbers = read_table(out, "numbers")
    assert set(numbers["model"]) == set(numbers["data"]) == {"several runs"}
    exported = tmp_path / "all" / "exported"
    ok("experiment=export", f"run={folder / 'low'}", f"hydra.run.dir={exported}")
    assert "# heads on word-reasoner, data traces" in (exported / "dataset" / "README.md").read_text()
    done = ok("experiment=index", f"run={tmp_path / 'all'}", f"hydra.run.dir={tmp_path / 'all' / 'index'}")
    assert "2 runs below" in done.stdout, "neither the copy in the export nor the index itself"
    page = (tmp_path / "all" / "index" / "index.html").read_text()
    assert "several runs" in page
    assert "lookups" not in page
    foreign = tmp_path / "elsewhere"
    (foreign / "outputs").mkdir(parents=True)
    (foreign / "environment.json").write_text("{}")
    shutil.copytree(folder / "low", foreign / "outputs" / "run")
    assert "1 runs below" in ok("experiment=index", f"hydra.run.dir={tmp_path / 'i'}", cwd=foreign).stdout
    loaded = interp.runs.load(out)["numbers"]
    assert set(loaded["run"]) == {str(out)}
    assert set(loaded["run_label"]) == set(numbers["run"])


def test_graded_texts_are_of_no_model_that_was_asked(folder: Path, tmp_path: Path) -> None:
    ok("experiment=evaluate", "data=traces", f"data.path={folder / 'a.jsonl'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert set(read_table(tmp_path / "run", "answers")["model"]) == {"given texts"}


def test_a_comparison_that_was_stopped_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("experiment=compare", f"runs=[{folder}/low,{folder}/high]")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "finish", stop)
        assert run(*asked, f"hydra.run.dir={tmp_path / 'run'}").returncode == 130
    ok(*asked, f"resume={tmp_path / 'run'}")
    again = ("experiment=compare", f"runs={tmp_path / 'found'}/*")
    shutil.copytree(folder / "low", tmp_path / "found" / "a")
    shutil.copytree(folder / "high", tmp_path / "found" / "b")
    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "finish", stop)
        assert run(*again, f"hydra.run.dir={tmp_path / 'begun'}").returncode == 130
    shutil.rmtree(tmp_path / "found" / "b")
    shutil.copytree(folder / "other", tmp_path / "found" / "c")
    assert "other runs match" in run(*again, f"resume={tmp_path / 'begun'}").stderr
    ok(*asked, f"hydra.run.dir={tmp_path / 'whole'}")
    assert read_table(tmp_path / "run", "numbers").equals(read_table(tmp_path / "whole", "numbers"))


def test_lists_that_share_no_layer_leave_the_others_in_place(folder: Path, tmp_path: Path) -> None:
    """Runs of layers 0-1 and 2-3 do not compare, and both do with one of all layers: no cell lies outside."""
    out = tmp_path / "run"
    ok("experiment=compare", f"runs=[{folder}/low,{folder}/high,{folder}/other]", f"hydra.run.dir={out}")
    axis = overlaps(read_table(out, "overlaps"), "m").axes[0]
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    places = [text.get_position() for text in axis.texts]
    assert len(places) == 2
    assert all(left < x < right and top < y < bottom for x, y in places)


def test_a_finished_run_that_lost_a_table_is_refused(folder: Path, tmp_path: Path) -> None:
    for name, spoil, complaint in (
        ("gone", lambda file: file.unlink(), "has lost its table overlaps"),
        ("short", lambda file: pd.read_parquet(file).head(1).to_parquet(file), "has not the"),
    ):
        broken = tmp_path / name
        shutil.copytree(folder / "low", broken)
        spoil(broken / "overlaps.parquet")
        with pytest.raises(UserError, match=complaint):
            tables_of(broken)
        assert run("experiment=figures", f"run={broken}", cwd=tmp_path).returncode == 2
        with pytest.raises(UserError, match=complaint):
            interp.runs.load(broken)
        shutil.copytree(folder / "high", tmp_path / f"report {name}")
        shutil.move(broken, tmp_path / f"report {name}" / "heads")
        with pytest.raises(UserError, match=complaint):
            tables_of(tmp_path / f"report {name}")


def test_columns_that_are_gone_are_no_nulls_in_silence(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "low", tmp_path / "run")
    heads = pd.read_parquet(folder / "low" / "heads.parquet")
    heads.drop(columns="answer_reasoning").to_parquet(tmp_path / "run" / "heads.parquet")
    assert read_table(tmp_path / "run", "heads")["answer_reasoning"].isna().all()
    assert "has no answer_reasoning, which count as null: another version wrote it" in caplog.text
    heads.drop(columns="layer").to_parquet(tmp_path / "run" / "heads.parquet")
    with pytest.raises(UserError, match="lacks values of its column layer"):
        read_table(tmp_path / "run", "heads")
