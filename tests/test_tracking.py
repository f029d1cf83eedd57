"""A finished run in a tracker: what is sent, by the tracker's own package where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command import NO_PROBES, ok, run

SMALL = ["experiment=heads", "model=planted", "data.limit=2", *NO_PROBES, "experiment.resamples=20"]


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.base.tracking.find_spec", lambda _: None)
    done = run(*SMALL, "track=wandb", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "track=wandb needs the package wandb: pip install 'anchorlens[wandb]'" in done.stderr
    assert "track=board is not known" in run(*SMALL, "track=board", cwd=tmp_path).stderr


def test_numbers_figures_and_tables_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    begun: dict[str, Any] = {}
    ended: list[bool] = []
    package = SimpleNamespace(
        init=lambda **about: begun.update(about),
        log=sent.update,
        Image=lambda file: ("image", file),
        Table=lambda dataframe: ("table", len(dataframe)),
        finish=lambda: ended.append(True),
    )
    monkeypatch.setitem(sys.modules, "trackio", package)
    monkeypatch.setattr("experiments.base.tracking.find_spec", lambda _: True)
    ok(*SMALL, "track=trackio", "project=mine", "figures=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert (begun["project"], begun["config"]["model"]["name"], ended) == ("mine", "planted", [True])
    agreed = "share of the top 2 heads that both halves of the traces agree on"
    assert 0 <= sent[f"{agreed}/low"] < sent[agreed]
    assert "mass answer->reasoning, all heads/low" not in sent, "two traces have no interval"
    assert sent["figures/a_fig3_head_masses"] == ("image", str(tmp_path / "run" / "figures" / "a_fig3_head_masses.png"))
    assert sent["tables/heads"] == ("table", 2 * 16)


def test_a_tracker_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=broken))
    monkeypatch.setattr("experiments.base.tracking.find_spec", lambda _: True)
    done = ok(*SMALL, "track=wandb", f"hydra.run.dir={tmp_path / 'run'}")
    assert "could not send the run to wandb (ConnectionError: no route)" in done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the package wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    done = ok(*SMALL, "track=wandb", "figures=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert "could not" not in done.stderr, done.stderr
    assert list(tmp_path.rglob("run-*.wandb"))
