"""Dry runs that tell the truth; killed and interrupted runs that go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pandas as pd
import pytest

from experiments.base import runner
from experiments.base.plan import measured
from experiments.heads import EXPERIMENT
from interp.runs.store import read_table
from tests.command import NO_PROBES, SMALLEST, interrupted, make_session, ok, run, start, wait_for_parts


def test_a_dry_run_is_truthful(tmp_path: Path) -> None:
    """Passes exactly; generated tokens and memory within a factor of two; it writes nothing."""
    options = ["model=planted", *NO_PROBES, "data.limit=40", "generation.batch=20"]
    told = ok(*options, "dry_run=true", cwd=tmp_path).stdout
    assert not any(p.is_file() for p in tmp_path.rglob("*"))
    examples, passes, tokens = (int(told.split(before)[1].split()[0]) for before in ("run: ", "examples, ", "about "))
    ok(*options, f"hydra.run.dir={tmp_path / 'run'}")
    done = read_table(tmp_path / "run", "answers")
    # Each trace is measured behind its own answer and behind another one.
    assert (examples, passes) == (40, 2 * len(read_table(tmp_path / "run", "traces")))
    assert 0.5 < tokens / done["n_tokens"].sum() < 2
    assert "GiB of memory" in told


def test_a_dry_run_foretells_time_and_memory(tmp_path: Path) -> None:
    """Within a factor of 2.5; the best of five tries, because other work on the machine may disturb one."""
    options = ["model=planted", "data.limit=100"]
    make_session(tmp_path / "warm", *options, "data.limit=2").lens  # noqa: B018 - imports and first use
    ratios = []
    for attempt in range(5):
        plan = runner.plan(EXPERIMENT, make_session(tmp_path / "plan", *options))
        session = make_session(tmp_path / f"run{attempt}", *options)
        with measured() as meter:
            runner.run(EXPERIMENT, session)
        session.close()
        ratios.append((plan.seconds / meter.seconds, plan.peak_bytes / meter.peak_bytes))
        if all(0.4 < ratio < 2.5 for ratio in ratios[-1]):
            return
    pytest.fail(f"estimated / real (seconds, bytes): {ratios}")


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    options = ["model=planted", "data.limit=36", "generation.batch=4", "generation.temperature=0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok(*options, f"hydra.run.dir={whole}")
    with start(*options, f"hydra.run.dir={killed}", "progress=false") as process:
        wait_for_parts(process, killed, 4)
        process.send_signal(signal.SIGKILL)
    done = len([p for p in killed.glob("parts/*") if not p.name.endswith(".tmp")])
    assert 1 <= done < 36
    assert not (killed / "summary.json").exists()
    changed = run(*options, "data.seed=7", f"resume={killed}")
    assert changed.returncode == 2
    assert "data.seed differs from the run's own options" in changed.stderr
    ok(*options, f"resume={killed}")
    for table in ("heads", "traces", "answers", "probes", "ranking", "layers", "overlaps", "maps"):
        pd.testing.assert_frame_equal(read_table(killed, table), read_table(whole, table))
        assert (killed / f"{table}.parquet").read_bytes() == (whole / f"{table}.parquet").read_bytes()
    assert (killed / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    again = run(*options, f"resume={killed}")
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["model=planted", "data.limit=400", "generation.batch=4", f"hydra.run.dir={out}"]
    with start(*options, "progress=false") as process:
        wait_for_parts(process, out, 1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert f"add resume={out} to go on" in stderr
    assert "Traceback" not in stderr
    assert list(out.glob("parts/*"))


def test_a_run_goes_on_with_its_own_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are told by their place: other questions in the file would be answered twice, or never."""
    rows = [
        {"id": f"q{i}", "question": f"look {word} here .", "gold": "red"}
        for i, word in enumerate(["red", "blue", "pink", "old"])
    ]
    file, out = tmp_path / "questions.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["experiment=evaluate", "model=planted", "data=questions", f"data.path={file}", "progress=false"]
    interrupted(monkeypatch, *options, "generation.batch=1", f"hydra.run.dir={out}", after=2)
    whole = file.read_text()
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows[1:], rows[0]]))
    done = run(*options, "generation.batch=1", f"resume={out}")
    assert done.returncode == 2
    assert "the questions or traces of data=questions have changed" in done.stderr
    file.write_text(whole)
    environment = json.loads((out / "environment.json").read_text())
    (out / "environment.json").write_text(json.dumps(environment | {"git_commit": "another"}))
    done = ok(*options, "generation.batch=1", f"resume={out}")
    assert "what is left is measured with another git_commit than before" in done.stderr
    assert len(json.loads((out / "environment.json").read_text())["resumed"]) == 1
    assert read_table(out, "answers")["example"].unique().tolist() == [f"q{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("experiment", "model"),
    [
        ("evaluate", "planted"),
        ("rhythm", "planted"),
        ("ablate", "planted"),
        ("patching", "planted"),
        ("perturb", "reasoner"),
        ("key_tokens", "reasoner"),
    ],
)
def test_interrupted_while_writing_a_part_and_resumed(
    experiment: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops as it writes its third part; the continuation ends with the same tables, byte by byte."""
    options = [f"experiment={experiment}", f"model={model}", *SMALLEST[experiment], "data.limit=2", "progress=false"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ok(*options, f"hydra.run.dir={whole}")
    interrupted(monkeypatch, *options, f"hydra.run.dir={cut}", after=2)
    assert not (cut / "summary.json").exists()
    ok(*options, f"resume={cut}")
    names = {p.name for p in whole.glob("*.parquet")}
    assert names == {p.name for p in cut.glob("*.parquet")}
    for name in (*sorted(names), "summary.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
