"""Sweeps: failed jobs do not stop the others, and every launcher gives the same tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.runs.compared import Run, labels, number_rows, series
from interp.runs.store import RunStore
from tests.command import NO_PROBES, ROOT, SMALL_HEADS, ok, run

SWEEP = [
    "-m",
    "experiment=heads",
    "model=planted,reasoner",
    "experiment.layers=0-1,2-3",
    "data.limit=2",
    *NO_PROBES,
    *(f"experiment.{option}" for option in ["resamples=20", "random_sets=3"]),
    "progress=false",
    "threads=1",
    "figures=false",
]
JOBS = ["0-heads-planted", "1-heads-planted", "2-heads-reasoner", "3-heads-reasoner"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and two sets of layers, by Hydra's own launcher."""
    directory = tmp_path_factory.mktemp("swept") / "basic"
    ok(*SWEEP, f"hydra.sweep.dir={directory}")
    return directory


def test_another_launcher_gives_the_same_tables(swept: Path, tmp_path: Path) -> None:
    """Clusters: test_clusters.py"""
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("submitit is not installed: pip install 'anchorlens[slurm]'")
    launcher = ["hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path / 's'}"]
    of_one_model = [one.replace("planted,reasoner", "planted") for one in SWEEP]
    command = [sys.executable, "-m", "experiments.run", *of_one_model, *launcher]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    for job in JOBS[:2]:
        names = {file.name for file in (swept / job).glob("*.parquet")}
        assert names
        assert names == {file.name for file in (tmp_path / "s" / job).glob("*.parquet")}
        for name in names:
            assert (tmp_path / "s" / job / name).read_bytes() == (swept / job / name).read_bytes(), f"{job}/{name}"


def test_a_sweep_goes_on_where_it_was_stopped(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops in its second job, as if by Ctrl-C, and is run again."""
    sweep = [*(one.replace("planted,reasoner", "planted") for one in SWEEP), f"hydra.sweep.dir={tmp_path}"]
    write, job = RunStore.write, tmp_path / JOBS[1]

    def interrupted(self: RunStore, index: int, *arguments: Any, **tables: Any) -> None:
        if self.directory == job and index == 1:
            raise KeyboardInterrupt
        write(self, index, *arguments, **tables)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write", interrupted)
        assert run(*sweep).returncode == 130
    assert (job / "environment.json").is_file()
    assert not (job / "summary.json").is_file()
    again = run(*sweep)
    assert again.returncode == 2
    assert "add go_on=true" in again.stderr
    begun = [json.loads((tmp_path / name / "environment.json").read_text())["run"] for name in JOBS[:2]]
    first = (tmp_path / JOBS[0] / "summary.json").stat().st_mtime_ns
    ok(*sweep, "go_on=true")
    assert [json.loads((tmp_path / name / "environment.json").read_text())["run"] for name in JOBS[:2]] == begun
    assert (tmp_path / JOBS[0] / "summary.json").stat().st_mtime_ns == first
    other = run(*sweep, "go_on=true", "data.seed=5")
    assert other.returncode == 2
    assert f"cannot keep {tmp_path / JOBS[0]}: data.seed differs from the run's own options" in other.stdout
    for file in (swept / JOBS[1]).glob("*.parquet"):
        assert (job / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_sweep_goes_on_in_a_directory_of_a_sweep_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused = run(*SWEEP, "go_on=true", f"hydra.sweep.dir={tmp_path}")
    assert refused.returncode == 2
    assert "is not empty: choose another hydra.sweep.dir for the sweep" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_sweep_is_compared_along_its_layers(swept: Path, tmp_path: Path) -> None:
    ok("experiment=compare", f"runs={swept}/*", "figures=true", f"hydra.run.dir={tmp_path}")
    numbers = pd.read_parquet(tmp_path / "numbers.parquet")
    places = numbers[["run", "series", "layers"]].drop_duplicates().to_numpy().tolist()
    assert places == [
        [f"{model}, layers {layers}", model, layers] for model in ("planted", "reasoner") for layers in ("0-1", "2-3")
    ]
    drawn = {file.name for file in (tmp_path / "figures").glob("*.png")}
    assert drawn >= {"compare_numbers_0.png", "compare_layers_0.png", "a_fig2_segment_masses.png", "a_fig3_layers.png"}


def test_numbers_of_models_with_other_sizes_share_a_name(tmp_path: Path) -> None:
    names = {"a": ["the top 10 (layers 10-19)", "both"], "b": ["the top 2 (layer 1)", "both", "top 1", "top 2"]}
    runs = []
    for label, found in names.items():
        headlines = [{"name": name, "value": 1, "n": 1, "low": None, "high": None, "control": None} for name in found]
        (tmp_path / label).mkdir()
        (tmp_path / label / "summary.json").write_text(json.dumps({"headlines": headlines}))
        runs.append(Run(tmp_path / label, "heads", label, label, {"experiment": {}}, lambda _: pd.DataFrame()))
    assert [row["name"] for row in number_rows(runs)] == ["the top k", "both", "the top k", "both", "top 1", "top 2"]


def test_layers_decide_which_heads_are_ranked(swept: Path) -> None:
    from interp.runs.store import read_table

    for job, layers in zip(JOBS, ({0, 1}, {2, 3}) * 2, strict=True):
        ranking = read_table(swept / job, "ranking")
        assert set(ranking[ranking["top"]]["layer"]) <= layers
        summary = json.loads((swept / job / "summary.json").read_text())
        (kept,) = (one for one in summary["headlines"] if "a resample of the traces keeps" in one["name"])
        top = int(kept["name"].split("top ")[1].split()[0])
        assert kept["control"]["value"] == top / ranking[ranking["kind"] == "difference"]["value"].notna().sum()


def test_kinds_that_the_ranked_layers_lack_are_told_with_these(tmp_path: Path) -> None:
    """The reasoner's induction head lies in layer 1."""
    options = ["model=reasoner", *SMALL_HEADS, "experiment.layers=middle", f"hydra.run.dir={tmp_path / 'run'}"]
    ok(*options)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (induction,) = (one for one in summary["verdicts"] if one["claim"] == "A3.induction")
    assert induction["why"] == "no induction head is above the floor in layers 2-3"
    assert "top induction heads: none above the floor in layers 2-3" in summary["lines"]


def test_a_failed_job_does_not_stop_the_others_and_is_listed(tmp_path: Path) -> None:
    options = ["experiment=heads", "model=planted", "data.limit=2", *NO_PROBES, "experiment.resamples=20"]
    done = run("-m", *options, "experiment.top_k=99,2", "progress=false", f"hydra.sweep.dir={tmp_path / 's'}")
    assert done.returncode == 2
    assert (tmp_path / "s" / "1-heads-planted" / "summary.json").is_file()
    assert not (tmp_path / "s" / "0-heads-planted").exists()
    listed = done.stdout.split("1 jobs of this sweep failed:")[1]
    assert "experiment.top_k=99" in listed
    assert "planted has 16 heads" in listed


def test_a_crashed_job_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import heads

    measure = heads.EXPERIMENT.measure

    def crash(session, *arguments):  # type: ignore[no-untyped-def]
        if session.seed == 0:
            raise RuntimeError("out of luck")
        return measure(session, *arguments)

    monkeypatch.setattr(heads, "EXPERIMENT", replace(heads.EXPERIMENT, measure=crash))
    options = ["experiment=heads", "model=planted", "data.limit=2", *NO_PROBES, "experiment.resamples=20"]
    done = run("-m", *options, "seed=0,1", "progress=false", f"hydra.sweep.dir={tmp_path / 's'}")
    assert done.returncode == 1
    assert (tmp_path / "s" / "1-heads-planted" / "summary.json").is_file()
    assert "RuntimeError: out of luck; see" in done.stdout
    assert "Traceback" in (tmp_path / "s" / "0-heads-planted" / "run.log").read_text()


def test_sampling_tells_runs_apart_where_the_model_does_not_decide_it() -> None:
    def options(model: str, temperature: float) -> dict[str, Any]:
        return {
            "model": {"name": model},
            "data": {"name": "d"},
            "generation": {"temperature": temperature},
            "experiment": {"layers": None},
        }

    by_model = [options("a", 0.0), options("b", 1.0)]
    assert labels(by_model) == ["a", "b"]
    each = [options(model, temperature) for model in "ab" for temperature in (0.0, 1.0)]
    assert labels(each) == [f"{model}, generation temperature {t}" for model in "ab" for t in (0.0, 1.0)]
    assert len(set(series(each))) == 4


def test_what_is_random_is_told_apart_beside_another_model() -> None:
    def options(model: str, data: str = "traces", **changed: Any) -> dict[str, Any]:
        of_model = {"name": model, "untrained": None, "path": model, "revision": None, "threads": len(model)}
        of_data = {"name": data, "limit": len(data), "scrambled": changed.pop("scrambled", None)}
        return {"model": {**of_model, **changed}, "data": of_data, "experiment": {"layers": None}}

    trained, planted = options("m"), options("planted", "planted")
    assert labels([trained, options("m", untrained=0), options("m", untrained=1)]) == [
        "m", "m-untrained-0", "m-untrained-1",
    ]  # fmt: skip
    assert labels([trained, options("m", untrained=0), options("m", scrambled=3), planted]) == [
        "m, traces", "m-untrained-0, traces", "m, traces-scrambled-3", "planted, planted",
    ]  # fmt: skip
    assert labels([options("m", scrambled=3), planted]) == ["m, traces-scrambled-3", "planted, planted"]
    assert labels([trained, options("m", revision="v2"), planted]) == [
        "m, model revision None", "m, model revision v2", "planted, model revision None",
    ]  # fmt: skip
    assert labels([trained, planted]) == ["m", "planted"], "a name is enough where it is another's"
    assert series([trained, options("m", untrained=0), planted]) == ["m", "m-untrained-0", "planted"]
