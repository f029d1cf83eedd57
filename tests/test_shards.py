"""One run split over workers: the same tables, byte by byte, whoever works, and whoever is killed meanwhile."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from experiments import heads
from experiments.base import shards
from experiments.base.share import log_of, share_of
from experiments.base.worker import work
from interp.errors import UserError
from interp.runs.store import Identity, RunStore, read_table, records
from tests.command import NO_PROBES, SMALLEST, ok, run, start


class Here:
    """Workers one after another in this process, which spares each of them the seconds of importing everything."""

    seconds = 0.0

    def __init__(self, directory: Path, work: Callable[[str, int], None] = work) -> None:
        self.directory, self.work = directory, work
        self.begun: list[int] = []

    def start(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.begun.append(number)
            self.work(str(self.directory), number)

    def alive(self) -> set[int]:
        return set()

    def stop(self) -> None:
        pass


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Here]:
    """The crews of this process, as they are made."""
    made: list[Here] = []

    def crew_of(session):  # type: ignore[no-untyped-def]
        made.append(Here(session.directory.resolve()))
        return made[-1]

    monkeypatch.setattr(shards, "crew_of", crew_of)
    return made


def equal(one: Path, other: Path) -> set[str]:
    """The names of the tables, which are the same, as is the summary."""
    names = {str(file.relative_to(one)) for file in one.rglob("*.parquet")}
    assert names == {str(file.relative_to(other)) for file in other.rglob("*.parquet")}
    for name in (*sorted(names), "summary.json"):
        assert (other / name).read_bytes() == (one / name).read_bytes(), name
    return names


BRIEF = {
    "ablate": ["experiment.batch=2"],
    "perturb": ["experiment.max_new_tokens=4"],
    "sentences": ["experiment.max_new_tokens=4"],
}


@pytest.mark.parametrize(
    ("experiment", "model", "stages"),
    [
        ("heads", "reasoner", 2),
        ("rhythm", "planted", 1),
        ("patching", "planted", 2),
        ("ablate", "planted", 2),
        ("perturb", "planted", 1),
        ("key_tokens", "reasoner", 1),
        ("evaluate", "planted", 1),
        ("sentences", "reasoner", 1),
    ],
)
def test_shards_give_the_same_tables(
    experiment: str, model: str, stages: int, tmp_path: Path, crews: list[Here]
) -> None:
    options = [f"experiment={experiment}", f"model={model}", *SMALLEST[experiment], *BRIEF.get(experiment, ())]
    options += ["data.limit=3", "generation.batch=2", "progress=false", "threads=1"]
    ok(*options, f"hydra.run.dir={tmp_path / 'serial'}")
    assert not crews
    ok(*options, "shards=2", f"hydra.run.dir={tmp_path / 'shards'}")
    assert [crew.begun for crew in crews] == [[0, 1]] * stages
    assert equal(tmp_path / "serial", tmp_path / "shards")


def test_a_report_splits_its_parts(tmp_path: Path, crews: list[Here]) -> None:
    options = ["experiment=paper", "model=reasoner", *SMALLEST["paper"], "generation.batch=2", "progress=false"]
    ok(*options, f"hydra.run.dir={tmp_path / 'serial'}")
    ok(*options, "shards=2", f"hydra.run.dir={tmp_path / 'shards'}")
    assert [crew.directory.name for crew in crews] == ["evaluate", "heads", "heads"]
    assert "heads/heads.parquet" in equal(tmp_path / "serial", tmp_path / "shards")


def test_given_traces_count_towards_the_limit_whoever_measures_them(tmp_path: Path, crews: list[Here]) -> None:
    """A limit takes the first traces that can be measured; which these are depends on all before them."""
    ok("model=planted", "data.limit=6", *NO_PROBES, "experiment.resamples=20", f"hydra.run.dir={tmp_path / 'made'}")
    texts = [row["text"] for row in records(read_table(tmp_path / "made", "traces"))]
    broken = {1: "no tags at all", 2: texts[0].replace("</think>", "")}
    lines = [json.dumps({"id": f"t{i}", "text": broken.get(i, text)}) for i, text in enumerate([*texts[:3], *texts])]
    (tmp_path / "given.jsonl").write_text("\n".join(lines) + "\n")
    options = ["model=planted", "data=traces", f"data.path={tmp_path / 'given.jsonl'}", "data.limit=4", *NO_PROBES]
    options += ["experiment.resamples=20", "experiment.unrelated=false", "progress=false"]
    ok(*options, f"hydra.run.dir={tmp_path / 'serial'}")
    ok(*options, "shards=3", f"hydra.run.dir={tmp_path / 'shards'}")
    assert [crew.begun for crew in crews] == [[0, 1, 2]]
    equal(tmp_path / "serial", tmp_path / "shards")
    assert read_table(tmp_path / "serial", "traces")["example"].tolist() == ["t0", "t3", "t4", "t5"]


SMALL = ["experiment=heads", "model=planted", "data.limit=24", "generation.batch=2", *NO_PROBES]
SMALL += ["experiment.resamples=20", "experiment.unrelated=false", "progress=false", "threads=1"]


def worker_of(gatherer: psutil.Process, number: int, but: psutil.Process | None = None) -> psutil.Process:
    """A worker process of a run, once it is there and another one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in gatherer.children():
            with suppress(psutil.Error):
                if child != but and child.cmdline()[3:6:2] == ["experiments.base.worker", str(number)]:
                    return child
        time.sleep(0.02)
    raise AssertionError("there is no such worker")


def wait_for_part(share: Path, process: psutil.Process) -> None:
    deadline = time.monotonic() + 120
    while not any(p.suffix != ".tmp" for p in share.glob("parts/*")) and time.monotonic() < deadline:
        assert process.is_running()
        time.sleep(0.005)


def test_whoever_is_killed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First a worker, then the run itself, by SIGKILL: the worker is run again, and the run goes on when resumed."""
    ok(*SMALL, f"hydra.run.dir={tmp_path / 'serial'}")
    out = tmp_path / "shards"
    with start(*SMALL, "shards=2", f"hydra.run.dir={out}") as process:
        gatherer = psutil.Process(process.pid)
        other, killed = (worker_of(gatherer, number) for number in (0, 1))
        wait_for_part(share_of(out, 1), killed)
        killed.kill()
        again = worker_of(gatherer, 1, but=killed)
        process.kill()
        process.communicate()
    assert "worker 2 of 2 was lost and is run again" in (out / "run.log").read_text()
    psutil.wait_procs([other, again], 20)  # they end with their run
    assert not (out / "summary.json").exists()
    monkeypatch.setattr(shards, "crew_of", lambda session: Here(session.directory.resolve()))
    ok(*SMALL, "shards=2", f"resume={out}")
    assert equal(tmp_path / "serial", out)
    assert {path.name for path in (out / "shards").iterdir()} == {log_of(out, number).name for number in (0, 1)}


def test_a_share_that_is_always_lost_ends_the_run_with_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Here] = []

    def lost(directory: str, number: int) -> None:
        if number == 0:
            work(directory, number)

    def crew_of(session):  # type: ignore[no-untyped-def]
        made.append(Here(session.directory.resolve(), lost))
        return made[-1]

    out = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr(shards, "crew_of", crew_of)
        done = run(*SMALL, "shards=2", f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert made[0].begun == [0, 1, 1, 1]
    assert re.search(
        r"error: worker 2 of 2 was lost 3 times: see \S+/shards/001.log; what is done is kept", done.stderr
    )
    assert len(list((out / "parts").iterdir())) == 12
    ok(*SMALL, f"resume={out}")
    ok(*SMALL, f"hydra.run.dir={tmp_path / 'serial'}")
    equal(tmp_path / "serial", out)


def test_what_a_lost_share_would_have_left_out_is_left_out_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the examples behind it have reached the limit already."""
    ok("model=planted", "data.limit=3", *NO_PROBES, "experiment.resamples=20", f"hydra.run.dir={tmp_path / 'made'}")
    texts = [row["text"] for row in records(read_table(tmp_path / "made", "traces"))]
    lines = [json.dumps({"id": f"t{i}", "text": text}) for i, text in enumerate([texts[0], "no tags", *texts[1:3]])]
    (tmp_path / "given.jsonl").write_text("\n".join(lines) + "\n")
    options = ["model=planted", "data=traces", f"data.path={tmp_path / 'given.jsonl'}", "data.limit=2", *NO_PROBES]
    options += ["experiment.resamples=20", "experiment.unrelated=false", "progress=false"]

    def lost(directory: str, number: int) -> None:
        if number == 0:
            work(directory, number)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "crew_of", lambda session: Here(session.directory.resolve(), lost))
        assert run(*options, "shards=2", f"hydra.run.dir={tmp_path / 'shards'}").returncode == 2
    ok(*options, f"resume={tmp_path / 'shards'}")
    ok(*options, f"hydra.run.dir={tmp_path / 'serial'}")
    assert json.loads((tmp_path / "serial" / "summary.json").read_text())["skipped"]
    equal(tmp_path / "serial", tmp_path / "shards")


def test_what_is_wrong_for_a_worker_is_wrong_for_the_run(
    tmp_path: Path, crews: list[Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("this trace is too odd")

    monkeypatch.setattr(heads, "EXPERIMENT", replace(heads.EXPERIMENT, measure=refuse))
    done = run(*SMALL, "shards=2", f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "error: this trace is too odd" in done.stderr
    assert [crew.begun for crew in crews] == [[0, 1]]
    assert not (tmp_path / "out").exists()


def test_what_workers_warn_of_is_said_once_by_the_run(
    tmp_path: Path, crews: list[Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*given: object) -> object:
        logging.getLogger("interp").warning("this trace is odd")
        return heads.measure(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(heads, "EXPERIMENT", replace(heads.EXPERIMENT, measure=warn))
    ok(*SMALL, "shards=2", f"hydra.run.dir={tmp_path / 'out'}")
    assert crews[0].begun == [0, 1]
    assert (tmp_path / "out" / "run.log").read_text().count("this trace is odd") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["experiment=credit"], "experiment=credit has no examples to split over workers: set shards=1"),
        (["experiment=heads", "hydra/launcher=submitit_local"], "LocalLauncher cannot run shards"),
    ],
)
def test_what_cannot_be_split_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    more = ["model=planted", "data=planted", "data.limit=2", "generation.batch=1", "shards=2"]
    done = run(*options, *more, f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert said in done.stderr


def test_only_parts_of_this_run_are_taken(tmp_path: Path) -> None:
    me = Identity("heads", "planted", "made", 0)
    store, theirs = (RunStore(tmp_path / name, me) for name in ("run", "run/shards/000"))
    store.write_environment({"run": "a", "options": {}})
    theirs.write_environment({"run": "b", "options": {}})
    with pytest.raises(UserError, match="was not made by this run"):
        store.take(theirs.directory)
    theirs.write_environment({"run": "a", "options": {}})
    with pytest.raises(UserError, match="another run is writing"):
        store.take(theirs.directory)
    theirs.close()
    store.take(theirs.directory)
    assert not theirs.directory.exists()
