"""Wrong input ends in one line, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from interp.runs.store import RunStore, read_table
from tests.command import NO_PROBES, ok, run


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["experiment=haeds"], "unknown experiment 'haeds'; did you mean heads?"),
        (["model=reasonr"], "unknown model 'reasonr'; did you mean reasoner"),
        (["data=trace"], "unknown data 'trace'; did you mean traces?"),
        (["-m", "model=planted,plantd"], "unknown model 'plantd'; did you mean planted?"),
        (["model=base"], "unknown model 'base'"),
        (
            ["experiment=credit", "experiment.train={seed: 1000, limt: 20000}"],
            "unknown option experiment.train.limt: did you mean experiment.train.limit?",
        ),
        (["experiment.top=3"], "unknown option experiment.top: did you mean experiment.top_k?"),
        (["model=planted", "experiment.top_k=many"], "experiment.top_k"),
        (["model=planted", "experiment.top_k=17"], "experiment.top_k=17: planted has 16 heads"),
        (["model=planted", "experiment.score=best"], "experiment.score=best is not known: use mass, difference"),
        (["model=planted", "experiment.block_mb=0"], "experiment.block_mb=0 must be at least 1"),
        (["model=planted", "experiment.maps=-1"], "experiment.maps=-1 must not be negative"),
        (["model=planted", "experiment.map_heads=3"], "experiment.map_heads=3 must lie between 0 and 2"),
        (["model=planted", "experiment.haystack.decoding=beam"], "experiment.haystack.decoding=beam is not known"),
        (["model=planted", "experiment.haystack.lengths=[5]"], "at least 40 tokens"),
        (["model=planted", "experiment.haystack.lengths=[5000]"], "does not fit planted: lower experiment.haystack"),
        (["experiment=figures"], "set run=DIR to the directory of a finished run"),
        (["experiment=figures", "run=nowhere"], "there is no run in nowhere"),
        (["experiment=compare"], "set runs=GLOB"),
        (["experiment=patching", "data=word_problems"], "data=word_problems has no contrast pairs: use data=contrast"),
        (["experiment=patching", "experiment.layers=6"], "layer 6 is out of range, the model has layers 0 to 5"),
        (["experiment=patching", "experiment.score=best"], "experiment.score=best is not known: use mass"),
        (["experiment=patching", "experiment.sites=[z]"], "experiment.sites must contain resid_pre"),
        (["experiment=patching", "experiment.sites=[resid]"], "experiment.sites=resid is not known: use resid_pre"),
        (["experiment=patching", "experiment.head_roles=[end]"], "experiment.head_roles=end must be of phrase"),
        (["experiment=patching", "experiment.budget_mb=0"], "experiment.budget_mb=0 must be at least 1"),
        (
            ["experiment=patching", "experiment.map_method=atp2"],
            "experiment.map_method=atp2 is not known: use auto",
        ),
        (["experiment=patching", "experiment.verify=9"], "experiment.verify=9 must be at least 20"),
        (["experiment=patching", "data.phrase=So."], "data.phrase='So.' must be 1, 2 or a text with {x}"),
        (["experiment=patching", "data.scenario=none"], "data.scenario=none is not known: use kept, phrase_only"),
        (["experiment=patching", "data.path=nowhere.csv"], "there is no file nowhere.csv"),
        (
            ["experiment=patching", "model=planted", "data.limit=2", "data.min_ld=1e9"],
            "no pair was measured: 2 a run does not",
        ),
        (["experiment=compare", "runs=nowhere/*"], "no run matches runs=nowhere/*: name finished runs"),
        (["model=planted", "data=traces"], "data.path must be set"),
        (["model=planted", "data=traces", "data.path=nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["model=planted", "data.limit=few"], "data.limit"),
        (["model=planted", "resume=nowhere"], "nothing to resume in"),
        (["model=huggingface"], "model.path"),
        (["model=huggingface", "model.path=./nowhere"], "there is no directory ./nowhere"),
        (["model=planted", "model.dtype=float3"], "model.dtype=float3 is not known: use auto, float32"),
        (["generation.batch"], "generation.batch"),
        (["model=planted", "seed=zero"], "seed=zero must be a valid integer"),
        (["model=planted", "generation.temperature=hot"], "generation.temperature=hot must be a valid number"),
        (["model=planted", "generation.max_new_tokens=3"], "no trace was measured: 16 not finished"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert complaint in errors[0]
    assert "Traceback" not in done.stderr
    # What was generated by then is kept for the next try (docs/data.md).
    left = [p for p in tmp_path.rglob("*") if p.is_file() and ".generated" not in p.parts]
    assert not left, left


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<bos> red . three . the answer equals 3 !", "1 no <think> in it"),
        ("<bos> red . <think> so three", "1 <think> is never closed"),
    ],
)
def test_a_file_of_traces_without_think_tags(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"text": text}))
    done = run("model=planted", "data=traces", f"data.path={file}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: no trace was measured: {complaint}" in done.stderr
    assert "left out: 1: " in done.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


def test_too_little_memory_is_said_before_anything_runs(tmp_path: Path) -> None:
    done = run("model=planted", "experiment.block_mb=100000000", cwd=tmp_path)
    assert done.returncode == 2
    assert "GiB are free: lower experiment.block_mb" in done.stderr


def test_a_directory_with_other_files_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run("model=planted", "experiment.top_k=17", f"hydra.run.dir={tmp_path}").returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    options = ["model=planted", "data.limit=2", *NO_PROBES, f"hydra.run.dir={tmp_path / 'run'}"]
    ok(*options)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    again = run(*options, "seed=5")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_an_unexpected_error_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.heads.findings", lambda *_: 1 / 0)
    done = run("model=planted", "data.limit=2", *NO_PROBES, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "ZeroDivisionError" in (tmp_path / "run" / "run.log").read_text()
    assert f"resume={tmp_path / 'run'}" in done.stderr
    monkeypatch.undo()
    ok("model=planted", "data.limit=2", *NO_PROBES, f"resume={tmp_path / 'run'}")


def test_a_full_disk_is_one_line_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, options = tmp_path / "run", ["model=planted", *NO_PROBES, "data.limit=3", "experiment.resamples=20"]
    write = RunStore.write

    def full(self: RunStore, index: int, *arguments: Any, **tables: Any) -> None:
        if index == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "parts"))
        write(self, index, *arguments, **tables)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write", full)
        done = run(*options, f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert f"error: {out / 'parts'}: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    ok(*options, f"resume={out}")
    assert len(read_table(out, "traces")) == 3


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("model=planted", f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr
