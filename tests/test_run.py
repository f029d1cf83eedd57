"""The command line as a user sees it: runs, errors, dry runs, sweeps, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir

from experiments import heads
from experiments.plan import measured
from experiments.run import choices, main
from experiments.session import Session
from interp.lens import Lens
from interp.organisms.planted import CIRCUIT
from interp.store import read_table
from interp.trace import Segment

ROOT = Path(__file__).resolve().parents[1]
TINY_TRAINING = "steps=2 drill_steps=1 every=1 batch=2 eval_problems=2 final_problems=4 early_accuracy=[0,1]"
TINY_REASONER = "size.layers=1 size.hidden=16 size.heads=2 size.mlp=16"
SMALLEST: dict[str, list[str]] = {
    "heads": ["data.limit=2", "experiment.random_sets=3"],
    "train_reasoner": [f"experiment.{option}" for option in f"{TINY_TRAINING} {TINY_REASONER}".split()],
}
"""Overrides that make each shipped experiment as small as it can be."""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, cwd: Path = ROOT) -> Done:
    """The command line in this process, which spares every call the seconds of importing everything again."""
    out, err = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiments.run", *arguments])
        code = main()
    return Done(code, out.getvalue(), err.getvalue())


def ok(*arguments: str, cwd: Path = ROOT) -> Done:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started from a background job, the tests ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_parts(process: subprocess.Popen[str], directory: Path, n: int) -> None:
    deadline = time.monotonic() + 200
    while len(list(directory.glob("parts/*"))) < n and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


def test_help_lists_everything_and_imports_nothing_heavy() -> None:
    with start("--help") as process:
        stdout, _ = process.communicate()
    for group in ("experiment", "model", "data"):
        for name, line in choices(group).items():
            assert f"{name} " in stdout
            assert line in stdout
            assert len(line) > 20, f"{group} {name} has no line that explains it"
    probe = "import sys, experiments.run; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == "[]"


def test_every_option_has_a_comment() -> None:
    for file in (ROOT / "conf").glob("experiment/*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert "python -m experiments.run" in lines[1]
        options = [line for line in lines if line and line[0] not in " #" and not line.startswith("name:")]
        assert all("#" in line or line.endswith(":") for line in options), file


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_runs_at_its_smallest(experiment: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = ok(f"experiment={experiment}", "model=planted", *SMALLEST[experiment], f"hydra.run.dir={out}")
    summary = json.loads((out / "summary.json").read_text())
    environment = json.loads((out / "environment.json").read_text())
    assert summary["headlines"]
    assert all({"name", "value", "n", "low", "high", "control"} == h.keys() for h in summary["headlines"])
    assert environment["options"]["experiment"]["name"] == experiment
    assert environment["seed"] == 0
    assert (out / ".hydra" / "config.yaml").is_file()
    assert (out / "run.log").is_file()
    figures = sorted(p.stem for p in (out / "figures").glob("*.png"))
    assert figures
    assert figures == sorted(p.stem for p in (out / "figures").glob("*.pdf"))
    assert str(out) in done.stdout
    assert all(name in done.stdout for name in figures)


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_config_is_complete(model: str) -> None:
    more = ["model.path=some/model"] if model == "huggingface" else []
    config = yaml.safe_load(ok(f"model={model}", *more, "--cfg", "job", "--resolve").stdout)
    assert config["model"]["name"] == ("model" if more else model)
    assert config["model"]["source"] in ("embedded", "planted", "pretrained", "gguf")
    assert config["generation"]["max_new_tokens"] == config["model"]["max_new_tokens"]


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_has_a_dry_run_that_writes_nothing(experiment: str, tmp_path: Path) -> None:
    done = ok(f"experiment={experiment}", "model=planted", *SMALLEST[experiment], "dry_run=true", cwd=tmp_path)
    assert "forward passes" in done.stdout
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_real_traces_on_a_real_language_model(tmp_path: Path, smollm2: Lens, r1_traces: Path) -> None:
    out = tmp_path / "run"
    data = [f"data.path={r1_traces}", "+data.where.condition=with_reasoning", "data.limit=2", "data.max_tokens=1050"]
    ok("model=smollm2-135m", "data=traces", *data, f"hydra.run.dir={out}")
    table = read_table(out, "heads")
    assert len(table) == 2 * 30 * 9
    assert (table["answer_reasoning"] > 0).all()
    sums = table[[f"answer_{s}" for s in Segment]].sum(axis=1)
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    for row in read_table(out, "traces").itertuples():
        assert len(row.token_ids) <= 1051
        assert row.source == str(r1_traces)
    skipped = json.loads((out / "summary.json").read_text())["skipped"]
    assert skipped["longer than data.max_tokens=1050"] > 0


def test_the_planted_heads_come_first(tmp_path: Path) -> None:
    ok("model=planted", "data.limit=6", f"hydra.run.dir={tmp_path / 'run'}")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {tuple(head) for head in summary["top_heads"][:2]} == {CIRCUIT.rfh, CIRCUIT.decoy}
    heads = read_table(tmp_path / "run", "heads")
    masses = heads.groupby(["layer", "head"])["answer_reasoning"].mean()
    distractors = masses.drop([CIRCUIT.rfh, CIRCUIT.decoy])
    assert masses[CIRCUIT.rfh] > 2 * distractors.max()
    columns = [c for c in heads if c.startswith("answer_") and c.count("_") <= 2]
    segments = [f"answer_{s}" for s in ("bos", "prompt", "think", "reasoning", "end_think", "answer")]
    assert set(segments) <= set(columns)
    assert heads[segments].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_the_same_seed_gives_the_same_tables(tmp_path: Path) -> None:
    sampled = ["model=reasoner", "data.limit=4", "generation.temperature=1.0", "generation.batch=2"]
    for name in ("a", "b"):
        ok(*sampled, f"hydra.run.dir={tmp_path / name}")
    ok(*sampled, "seed=1", f"hydra.run.dir={tmp_path / 'c'}")
    tables = {n: (tmp_path / n / "traces.parquet").read_bytes() for n in "abc"}
    assert tables["a"] == tables["b"]
    texts = {n: read_table(tmp_path / n, "answers")["text"].tolist() for n in "ac"}
    assert texts["a"] != texts["c"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["experiment=haeds"], "unknown experiment 'haeds'; did you mean heads?"),
        (["model=reasonr"], "unknown model 'reasonr'; did you mean reasoner"),
        (["data=trace"], "unknown data 'trace'; did you mean traces?"),
        (["-m", "model=planted,plantd"], "unknown model 'plantd'; did you mean planted?"),
        (["model=base"], "unknown model 'base'"),
        (["experiment.top=3"], "Could not override 'experiment.top'"),
        (["model=planted", "experiment.top_k=many"], "experiment.top_k"),
        (["model=planted", "experiment.top_k=17"], "experiment.top_k=17: planted has 16 heads"),
        (["model=planted", "experiment.score=best"], "experiment.score=best is not known: use mass, difference"),
        (["model=planted", "experiment.block_mb=0"], "experiment.block_mb=0 holds no row"),
        (["model=planted", "data=traces"], "data.path must be set"),
        (["model=planted", "data=traces", "data.path=nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["model=planted", "data.limit=few"], "data.limit"),
        (["model=planted", "resume=nowhere"], "nothing to resume in"),
        (["model=huggingface"], "model.path"),
        (["model=huggingface", "model.path=./nowhere"], "there is no directory ./nowhere"),
        (["model=planted", "model.dtype=float3"], "unknown model.dtype 'float3'"),
        (["generation.batch"], "generation.batch"),
        (["model=planted", "seed=zero"], "seed: "),
        (["model=planted", "generation.temperature=hot"], "generation.temperature: "),
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
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not left, left


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<bos> red . three . the answer equals 3 !", "trace 1: no <think> in it"),
        ("<bos> red . <think> so three", "trace 1: <think> is never closed"),
    ],
)
def test_a_file_of_traces_without_think_tags(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"text": text}))
    done = run("model=planted", "data=traces", f"data.path={file}", cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
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
    options = ["model=planted", "data.limit=2", "experiment.random_sets=2", f"hydra.run.dir={tmp_path / 'run'}"]
    ok(*options)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    again = run(*options, "experiment.top_k=1")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_an_unexpected_error_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.heads.analyse", lambda *_: 1 / 0)
    done = run("model=planted", "data.limit=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "ZeroDivisionError" in (tmp_path / "run" / "run.log").read_text()
    assert f"resume={tmp_path / 'run'}" in done.stderr
    monkeypatch.undo()
    ok("model=planted", "data.limit=2", f"resume={tmp_path / 'run'}")


def test_long_traces_are_left_out_and_counted(tmp_path: Path) -> None:
    think = "<think> well now so three fine good done </think> the answer equals 3 !"
    texts = [f"<bos> {'look ' * n}red . {think}" for n in (1, 30, 2, 40, 3, 4)]
    file = tmp_path / "traces.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    out = tmp_path / "run"
    options = [f"data.path={file}", "data.limit=3", "data.max_tokens=30", f"hydra.run.dir={out}"]
    done = ok("model=planted", "data=traces", *options)
    assert read_table(out, "traces")["example"].tolist() == ["1", "3", "5"]
    assert json.loads((out / "summary.json").read_text())["skipped"] == {"longer than data.max_tokens=30": 2}
    assert "left out: 2 longer than data.max_tokens=30" in done.stdout


def test_a_dry_run_is_truthful(tmp_path: Path) -> None:
    """Passes exactly; generated tokens and memory within a factor of two; it writes nothing."""
    options = ["model=planted", "data.limit=40", "generation.batch=20"]
    told = ok(*options, "dry_run=true", cwd=tmp_path).stdout
    assert not any(p.is_file() for p in tmp_path.rglob("*"))
    examples, passes, tokens = (int(told.split(before)[1].split()[0]) for before in ("run: ", "examples, ", "about "))
    ok(*options, f"hydra.run.dir={tmp_path / 'run'}")
    done = read_table(tmp_path / "run", "answers")
    assert (examples, passes) == (40, len(read_table(tmp_path / "run", "traces")))
    assert 0.5 < tokens / done["n_tokens"].sum() < 2
    assert "GiB of memory" in told


def make_session(directory: Path, *overrides: str) -> Session:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Session(compose("config", [*overrides, "progress=false"]), directory)


def test_a_dry_run_foretells_time_and_memory(tmp_path: Path) -> None:
    """Within a factor of two; the best of three tries, because other work on the machine may disturb one."""
    options = ["model=planted", "data.limit=160"]
    make_session(tmp_path / "warm", *options, "data.limit=2").lens  # noqa: B018 - imports and first use
    ratios = []
    for attempt in range(3):
        plan = heads.plan(make_session(tmp_path / "plan", *options))
        session = make_session(tmp_path / f"run{attempt}", *options)
        with measured() as meter:
            heads.run(session)
        session.close()
        ratios.append((plan.seconds / meter.seconds, plan.peak_bytes / meter.peak_bytes))
        if all(0.5 < ratio < 2 for ratio in ratios[-1]):
            return
    pytest.fail(f"estimated / real (seconds, bytes): {ratios}")


def test_a_sweep_runs_every_combination(tmp_path: Path) -> None:
    small = ["data.limit=2", "experiment.random_sets=2"]
    ok("-m", "model=planted", "experiment.top_k=1,2", "seed=0,1", *small, f"hydra.sweep.dir={tmp_path}")
    summaries = sorted(tmp_path.glob("*/summary.json"))
    assert len(summaries) == 4
    assert [len(json.loads(s.read_text())["top_heads"]) for s in summaries] == [1, 1, 2, 2]


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    options = ["model=planted", "data.limit=60", "generation.batch=5", "generation.temperature=0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok(*options, f"hydra.run.dir={whole}")
    with start(*options, f"hydra.run.dir={killed}", "progress=false") as process:
        wait_for_parts(process, killed, 8)
        process.send_signal(signal.SIGKILL)
    done = len([p for p in killed.glob("parts/*") if not p.name.endswith(".tmp")])
    assert 1 <= done < 60
    assert not (killed / "summary.json").exists()
    changed = run(*options, "data.seed=7", f"resume={killed}")
    assert changed.returncode == 2
    assert "data.seed differs from the run's own options" in changed.stderr
    ok(*options, f"resume={killed}")
    for table in ("heads", "traces", "answers"):
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
