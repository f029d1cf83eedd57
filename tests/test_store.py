"""The run directory: schemas are kept, examples are whole or absent, a run can go on."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from interp.errors import UserError, on_command_line
from interp.runs.columns import COMMON, declared, table_of
from interp.runs.schema import markdown
from interp.runs.store import Identity, RunStore, read_table
from tests.command import ROOT

ME = Identity("heads", "planted", "made", 0)
TRACE = {
    "example": "a",
    "text": "t",
    "token_ids": [1, 2],
    "offsets": [[0, 0], [0, 1]],
    "segments": [{"segment": "answer", "start": 0, "end": 2}],
    "source": "made",
    "forced": [],
}

declared()  # tables are known once the modules that declare them are imported


def training(step: int, value: float | None = 0.5) -> dict[str, object]:
    return {"step": step, "measure": "accuracy", "value": value, "n": 10, "low": None, "high": None}


def new_store(directory: Path) -> RunStore:
    store = RunStore(directory, ME)
    store.write_environment({"options": {}})
    return store


def test_rows_come_back_with_the_identity_of_the_run(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.write(0, "a", traces=[TRACE], training=[training(1), training(2)])
    store.finish({"headlines": []})
    table = read_table(tmp_path, "training")
    assert table["step"].tolist() == [1, 2]
    assert set(table["experiment"]) == {"heads"}
    assert list(table.columns) == [c.name for c in (*table_of("training").columns, *COMMON)]
    traces = read_table(tmp_path, "traces")
    assert traces["segments"][0][0] == {"segment": "answer", "start": 0, "end": 2}
    assert not (tmp_path / "parts").exists()


def test_tables_are_in_the_order_of_the_data_whatever_order_they_were_written_in(tmp_path: Path) -> None:
    forward, backward = new_store(tmp_path / "f"), new_store(tmp_path / "b")
    for i in range(12):
        forward.write(i, str(i), training=[training(i)])
        backward.write(11 - i, str(11 - i), training=[training(11 - i)])
    forward.finish({})
    backward.finish({})
    assert (tmp_path / "f/training.parquet").read_bytes() == (tmp_path / "b/training.parquet").read_bytes()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({**training(1), "surprise": 1}, "no column surprise"),
        ({**training(1), "value": None}, "value of table training must not be null"),
    ],
)
def test_the_schema_is_checked_on_writing(tmp_path: Path, row: dict, complaint: str) -> None:
    store = new_store(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        store.write(0, "a", training=[row])


def test_a_kill_while_an_example_is_written_loses_only_that_example(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.write(0, "a", training=[training(0)])
    half = tmp_path / "parts" / "000001.tmp"
    half.mkdir()
    (half / "training.parquet").write_bytes(b"half a tab")
    store.close()
    again = RunStore(tmp_path, ME, resume=True)
    assert again.has(0)
    assert not again.has(1)
    again.write(1, "b", training=[training(1)])
    again.finish({})
    assert read_table(tmp_path, "training")["step"].tolist() == [0, 1]


def test_skipped_examples_are_counted_by_reason(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.write(0, "a", training=[training(0)])
    for i in (1, 2):
        store.skip(i, str(i), "too long")
    store.skip(3, "3", "not finished")
    assert store.skipped() == {"not finished": 1, "too long": 2}
    assert store.n_measured == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with pytest.raises(UserError, match="another run is writing"):
        RunStore(tmp_path, ME, resume=True)
    store.close()
    with pytest.raises(UserError, match=r"already holds a run.*resume="):
        RunStore(tmp_path, ME)
    with pytest.raises(UserError, match="nothing to resume"):
        RunStore(tmp_path / "elsewhere", ME, resume=True)


def test_a_table_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no table heads"):
        read_table(tmp_path, "heads")
    (tmp_path / "heads.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="cannot read table heads"):
        read_table(tmp_path, "heads")


def test_summary_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        new_store(tmp_path).finish({"value": float("nan")})


def test_the_documented_tables_are_the_tables() -> None:
    assert (Path(__file__).parents[1] / "docs" / "tables.md").read_text() == markdown()
    assert all(one.schema.names for one in declared().values())


def test_environment_is_read_back(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.write_environment({"options": {"seed": 3}})
    assert json.loads((tmp_path / "environment.json").read_text()) == store.environment() == {"options": {"seed": 3}}


def test_what_is_lost_of_a_run_is_an_error(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for i in range(3):
        store.write(i, str(i), training=[training(i)])
    table = tmp_path / "parts" / "000001" / "training.parquet"
    whole = table.read_bytes()
    pq.write_table(pq.read_table(table).slice(0, 0), table)
    with pytest.raises(UserError, match="has lost rows of table training"):
        store.table("training")
    table.unlink()
    with pytest.raises(UserError, match="training"):
        store.finish({})
    assert not (tmp_path / "summary.json").exists()
    store.close()
    with pytest.raises(UserError, match="has lost its table training"):
        RunStore(tmp_path, ME, resume=True)
    table.write_bytes(whole)
    store = RunStore(tmp_path, ME, resume=True)
    shutil.rmtree(table.parent)
    with pytest.raises(UserError, match="000001 is gone"):
        store.finish({})


def test_only_what_this_run_made_is_removed(tmp_path: Path) -> None:
    store = new_store(tmp_path / "run")
    store.skip(0, "a", "too long", training=[training(0)])
    (tmp_path / "run" / "parts" / "notes.txt").write_text("mine")
    store.discard()
    assert [p.name for p in (tmp_path / "run").rglob("*")] == ["parts", "notes.txt"]
    store.close()
    store = new_store(tmp_path / "measured")
    store.write(0, "a", training=[training(0)])
    store.discard()
    assert store.has(0)
    assert len(store.table("training")) == 1


def test_the_remains_of_a_finished_run_are_its_own(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.write(0, "a", training=[training(0)])
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    store.finish({})
    assert (tmp_path / "parts" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "value",
    ["/a/b", "2024", "null", "/a=b, c/d", "/it's", """/a\\'b\\""", "/x${y}", "/x\\${y}", '/q"q', "/[1] {2}", "/ü ~"],
)
def test_options_are_quoted_for_hydra_and_the_shell(value: str) -> None:
    line = on_command_line("resume", value)
    (argument,) = shlex.split(line)
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert OmegaConf.create({"resume": override.value()})["resume"] == value


def test_rows_may_be_written_without_the_module_that_declares_their_table() -> None:
    probe = "from interp.runs.columns import table_of; print(table_of('training').name)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "training\n", done.stderr
