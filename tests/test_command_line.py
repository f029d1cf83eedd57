"""The command as it is installed: version, configuration of the user's own, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.command import ok, run

ANCHORLENS = Path(sys.executable).parent / "anchorlens"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of configuration outside the project, with a model of its own."""
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("# Mine\ndefaults: [planted, _self_]\nname: mine\n")
    return tmp_path / "own"


def test_the_version_is_that_of_the_package() -> None:
    assert ok("--version").stdout.strip() == f"anchorlens {version('anchorlens')}"


def test_help_lists_the_users_own(own: Path) -> None:
    listed = ok("--config-dir", str(own), "--help").stdout.splitlines()
    assert [line.split() for line in listed if "Mine" in line] == [["mine", "Mine"]]
    assert ok("--help", "seed=[").returncode == 0, "what cannot be read is no matter here"


def test_a_model_of_the_users_own_is_found(own: Path) -> None:
    assert "name: mine" in ok("--config-dir", str(own), "model=mine", "--cfg", "job", "-p", "model").stdout
    searched = f"hydra.searchpath=[file://{own}]"
    assert ok(searched, "model=mine", "--cfg", "job", "-p", "model.name").stdout.strip() == "mine"
    done = run("--config-dir", str(own), "model=mime")
    assert done.returncode == 2
    assert done.stderr == "error: unknown model 'mime'; did you mean mine?\n"


def test_it_runs_outside_the_project_with_ones_own_configuration(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ["experiment=evaluate", "data.limit=2", "figures=false", "progress=false", f"hydra.run.dir={out}"]
    ok("--config-dir", str(own), "model=mine", *small, cwd=tmp_path)
    assert (out / "summary.json").is_file()


@pytest.mark.skipif(not ANCHORLENS.is_file(), reason="the command is not installed beside this Python")
def test_the_command_completes_names() -> None:
    line = {"COMP_LINE": "anchorlens model=pl", "COMP_POINT": "19"}
    asked = [str(ANCHORLENS), "-sc", "query=bash"]
    done = subprocess.run(asked, env={**os.environ, **line}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["model=planted"]
