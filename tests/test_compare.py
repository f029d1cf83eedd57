"""Which runs are compared, and what two rankings of heads have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.compare import _runs
from interp.errors import UserError
from tests.command import make_session


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished runs `h0` and `h1`, and a directory that holds none."""
    for seed in (0, 1):
        run = tmp_path / f"h{seed}"
        run.mkdir()
        options = {"experiment": {"name": "heads"}, "model": {"name": "m"}, "data": {"name": "d"}, "seed": seed}
        (run / "environment.json").write_text(json.dumps({"options": options}))
        (run / "summary.json").write_text(json.dumps({"headlines": []}))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(folder: Path, runs: str) -> list[str]:
    session = make_session(folder / "own", "experiment=compare", f"runs={runs}")
    return [str(one.directory) for one in _runs(session, 2)]


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ("[h0,h1,h2]", "there is no run in h2: it has no environment.json"),
        ("[h0,h1,empty]", "there is no run in empty: it has no environment.json"),
        ("[h*,g*]", r"no run matches runs=g\*: name finished runs"),
        ("[h*,emp*]", r"no run matches runs=emp\*: name finished runs"),
        ("[h0,./h0]", "names 1 runs that compare: at least two are needed"),
    ],
)
def test_what_is_named_and_is_no_run_is_refused(folder: Path, runs: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        compared(folder, runs)


def test_a_run_is_compared_once_however_it_is_spelt(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert compared(folder, f"[h0,{folder}/h0,h1]") == ["h0", "h1"]
    assert f"{folder}/h0 is named twice, as h0" in caplog.text
    assert compared(folder, "*") == ["h0", "h1"], "a pattern may match what is no run"


def test_names_may_hold_brackets(folder: Path) -> None:
    (folder / "h1").rename(folder / "layers=[0]")
    assert compared(folder, '[h0,"layers=[0]"]') == ["h0", "layers=[0]"]
