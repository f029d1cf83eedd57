"""The user's files: a run writes only into a directory of its own, and removes only what it has made."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.base.environment import describe_environment
from experiments.heads import EXPERIMENT
from interp.errors import UserError
from interp.runs.directory import RunDirectory
from tests.command import ROOT, SMALL_PAPER, SMALLEST, interrupted, make_session, ok, run, start

SMALL = ["experiment=evaluate", "model=planted", "data.limit=3", "generation.batch=1", "progress=false"]
AWKWARD = """a=b, c's "d" [1] {2} \\"""


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory, with the time of its last change, and every folder."""
    return {
        str(p.relative_to(directory)): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns)
        for p in directory.rglob("*")
    }


@pytest.mark.parametrize("more", [["dry_run=true"], ["experiment.samples=0"], [], ["experiment=credit"]], ids=str)
@pytest.mark.parametrize(
    "theirs",
    ["figures/plan.png", "parts/000000/status.json", ".hydra/config.yaml", "run.log", "summary.json", "heads.parquet",
     "checkpoints/checkpoint-1/model.safetensors", ".lock"],
)  # fmt: skip
def test_a_directory_of_somebody_else_is_refused_untouched(theirs: str, more: list[str], tmp_path: Path) -> None:
    (tmp_path / theirs).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / theirs).write_text("mine")
    before = snapshot(tmp_path)
    done = run(*SMALL, *more, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "is not empty" in done.stderr or "samples" in done.stderr
    assert snapshot(tmp_path) == before


def test_an_empty_directory_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for refused in (["experiment.samples=0"], ["dry_run=true"]):
        run(*SMALL, *refused, f"hydra.run.dir={tmp_path / 'mine'}")
        run(*SMALL, *refused, f"hydra.run.dir={tmp_path / 'new' / 'one'}")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_the_loser_of_two_runs_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = RunDirectory(tmp_path / "new")
    before = snapshot(tmp_path)
    lost = run(*SMALL, f"hydra.run.dir={tmp_path / 'new'}")
    assert (lost.returncode, snapshot(tmp_path)) == (2, before)
    assert "another run is writing into" in lost.stderr
    winner.close()
    out = tmp_path / "begun"
    interrupted(monkeypatch, *SMALL, f"hydra.run.dir={out}", after=2)
    winner = RunDirectory(out, resume=True)
    before = snapshot(out)
    for option in ("hydra.run.dir", "resume"):
        assert run(*SMALL, f"{option}={out}").returncode == 2
        assert snapshot(out) == before
    winner.close()
    ok(*SMALL, f"resume={out}")


def test_a_start_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    RunDirectory(tmp_path).close()
    (tmp_path / "parts").mkdir()
    ok(*SMALL, f"hydra.run.dir={tmp_path}")


def test_refused_commands_leave_a_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished, begun = tmp_path / "finished", tmp_path / "begun"
    ok(*SMALL, f"hydra.run.dir={finished}")
    interrupted(monkeypatch, *SMALL, f"hydra.run.dir={begun}", after=1)
    before = snapshot(tmp_path)
    refused = {
        f"hydra.run.dir={finished}": "already holds a run",
        f"resume={finished}": "is finished",
        f"hydra.run.dir={begun}": "already holds a run",
    }
    for argument, complaint in refused.items():
        assert complaint in run(*SMALL, argument).stderr
    assert "seed differs" in run(*SMALL, "seed=3", f"resume={begun}").stderr
    assert "name two directories" in run(*SMALL, f"resume={begun}", f"hydra.run.dir={tmp_path / 'x'}").stderr
    assert snapshot(tmp_path) == before


def test_the_number_of_threads_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, *SMALL, "threads=1", f"hydra.run.dir={tmp_path}", after=1)
    other = run(*SMALL, "threads=2", f"resume={tmp_path}")
    assert other.returncode == 2
    assert "add threads=1" in other.stderr
    ok(*SMALL, "threads=1", f"resume={tmp_path}")


def test_ctrl_c_before_the_first_example_leaves_nothing_and_advises_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with start(*SMALL, f"hydra.run.dir={out}") as process:
        deadline = time.monotonic() + 100
        while not (out / "run.log").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    if (out / "environment.json").exists():  # it was quick
        assert "resume=" in stderr
    else:
        assert "resume=" not in stderr
        assert not out.exists()


def test_advice_works_when_it_is_pasted_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / AWKWARD
    monkeypatch.setenv("AWKWARD", str(out))
    said = interrupted(monkeypatch, *SMALL, "figures=false", "hydra.run.dir=${oc.env:AWKWARD}", after=1)
    advice = re.search(r"add (.*) to go on", said)
    assert advice
    command = f"{sys.executable} -m experiments.run {' '.join(SMALL)} figures=false {advice[1]}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (out / "summary.json").is_file()


def test_a_sweep_wants_an_empty_directory_and_leaves_none_where_nothing_ran(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "multirun.yaml").write_text("mine")
    before = snapshot(tmp_path)
    swept = ["-m", *SMALL, "experiment.samples=0,-1"]
    assert "is not empty" in run(*swept, f"hydra.sweep.dir={tmp_path / 'theirs'}").stderr
    assert run(*swept, f"hydra.sweep.dir={tmp_path / 'new'}").returncode == 2
    assert snapshot(tmp_path) == before


def test_a_foreign_folder_of_checkpoints_is_neither_used_nor_removed(tmp_path: Path) -> None:
    session = make_session(tmp_path, "experiment=train_reasoner", *SMALLEST["train_reasoner"])
    describe_environment(session, with_model=False)
    (tmp_path / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by this run"):
        session.own_folder("checkpoints")
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()
    shutil.rmtree(tmp_path / "checkpoints")
    assert session.own_folder("checkpoints") == session.own_folder("checkpoints") == tmp_path / "checkpoints"
    session.close()


def test_a_report_adopts_only_its_own_parts_and_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["experiment=paper", *SMALL_PAPER, "model=planted", "progress=false"]
    out = tmp_path / "paper"
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("experiments.heads.EXPERIMENT", replace(EXPERIMENT, measure=stop))
        assert run(*options, f"hydra.run.dir={out}").returncode == 130
    ours = (out / "traces.jsonl").read_text()
    (out / "traces.jsonl").write_text(ours + ours)
    done = run(*options, f"resume={out}")
    assert (done.returncode, "does not hold the traces" in done.stderr) == (2, True), done.stderr
    (out / "traces.jsonl").write_text(ours)
    shutil.move(out / "evaluate", tmp_path / "evaluate")
    ok("experiment=evaluate", "model=planted", "data.limit=4", "seed=9", f"hydra.run.dir={out / 'evaluate'}")
    before = snapshot(out / "evaluate")
    done = run(*options, f"resume={out}")
    assert done.returncode == 2
    assert "cannot go on with" in done.stderr
    assert "seed" in done.stderr
    assert snapshot(out / "evaluate") == before
    shutil.rmtree(out / "evaluate")
    shutil.move(tmp_path / "evaluate", out / "evaluate")
    ok(*options, f"resume={out}")
    assert json.loads((out / "summary.json").read_text())["headlines"]
