"""A finished run becomes a data set that the datasets library loads."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from experiments.export import card
from interp.runs.headlines import Headline
from interp.runs.store import read_table
from interp.stats import ComparedBy, Comparison, Estimate
from tests.command import NO_PROBES, ok, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "heads"
    ok(
        "experiment=heads",
        "model=planted",
        "data.limit=2",
        *NO_PROBES,
        "experiment.resamples=20",
        f"hydra.run.dir={out}",
    )
    return out


def test_tables_are_configurations_and_the_card_says_how_they_were_made(finished: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    done = ok("experiment=export", f"run={finished}", f"hydra.run.dir={tmp_path / 'out'}")
    assert "tables:   " in done.stdout
    folder = tmp_path / "out" / "dataset"
    loaded = datasets.load_dataset(str(folder), "heads", split="run", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_pandas()["answer_reasoning"].tolist() == read_table(finished, "heads")["answer_reasoning"].tolist()
    card = (folder / "README.md").read_text()
    assert "experiments.run experiment=heads model=planted" in card
    assert "| mass answer->reasoning, all heads |" in card
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


def test_the_card_has_small_numbers_and_what_they_differ_by(tmp_path: Path) -> None:
    compared = Comparison(ComparedBy.PAIRED, Estimate(-9.1e-5, 12, -2e-4, -1e-6), 0.0123)
    headline = Headline("a|b", Estimate(3.57e-4, 12, 8.7e-12, 1e-3), "chance", Estimate(0.5, 12), compared)
    options = {group: {"name": group[0]} for group in ("experiment", "model", "data")}
    environment = {"options": options, "command": "c", "seed": 0, "git_commit": None, "versions": {}}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    (tmp_path / "summary.json").write_text(json.dumps({"headlines": [headline.as_json()]}))
    row = (
        "| a\\|b | 0.000357 | 8.70e-12 to 0.00100 | 12 | chance: 0.500 "
        "| -9.10e-05 [-0.000200, -1.00e-06], n = 12 pairs | 0.012 |"
    )
    assert row in card(tmp_path, []).splitlines()


def test_an_upload_that_fails_is_one_line(finished: Path, tmp_path: Path) -> None:
    done = run(
        "experiment=export", f"run={finished}", "experiment.hub=nobody/nothing", f"hydra.run.dir={tmp_path / 'out'}"
    )
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert "cannot upload to nobody/nothing" in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "set run=DIR to the directory of a finished run"),
        (["run=nowhere"], "there is no run in nowhere"),
        (["run=nowhere", "experiment.hub=name"], "experiment.hub=name must be OWNER/NAME"),
    ],
)
def test_wrong_options(options: list[str], complaint: str, tmp_path: Path) -> None:
    done = run("experiment=export", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not list(tmp_path.iterdir())
