"""Names, ids and texts of strangers are shown as they are; a figure that cannot be drawn costs no table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.runs.store import read_table
from tests.command import NO_PROBES, SMALL_PAPER, SMALLEST, ok, run

NAME = "m[/red] $x^2 {{y}} <b>:smile: \x1b[31m"
IDS = ["a $x_{$ [bold]", "b</script><script>alert(1)</script>", "c \x1b[2J \u202e"]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of the planted model under awkward ids."""
    directory = tmp_path_factory.mktemp("traces")
    ok("model=planted", "data.limit=3", *NO_PROBES, "experiment.resamples=20", f"hydra.run.dir={directory / 'run'}")
    rows = [
        {"id": name, "text": text, "gold": "$\\frac{1}{", "subject": "[/red]", "level": "$"}
        for name, text in zip(IDS, read_table(directory / "run", "traces")["text"], strict=True)
    ]
    file = directory / "$traces [x].jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", ["heads", "key_tokens", "evaluate"])
def test_awkward_names_and_ids_are_only_text(
    name: str, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAME", NAME)
    awkward = ["model=planted", "model.name=${oc.env:NAME}", "data=traces", "figures=true", "progress=false"]
    out = tmp_path / "out [bold] $x$"
    where = [f'data.path="{traces}"', f'hydra.run.dir="{out}"']
    done = ok(f"experiment={name}", *SMALLEST[name], *awkward, *where)
    assert "could not draw" not in done.stderr, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if name != "evaluate":  # given texts are graded under the name of their writer
        assert "m[/red] $x^2 {{y}} <b>:smile:" in done.stdout
    assert (out / "summary.json").is_file()
    for page in out.rglob("*.html"):
        assert "<script>alert" not in page.read_text()
        assert "<b>:smile:" not in page.read_text()


def test_a_figure_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["experiment=evaluate", "model=planted", "data.limit=2", "figures=true"]
    out = tmp_path / "run"

    def broken(*_: object) -> None:
        raise ValueError("no such glyph")

    with monkeypatch.context() as patch:
        patch.setattr("interp.figures.evaluation.outcomes", broken)
        done = ok(*options, f"hydra.run.dir={out}")
        assert "could not draw the figure evaluate_outcomes (ValueError: no such glyph)" in done.stderr
        assert (out / "figures" / "a_fig1_accuracy.png").is_file()
        assert len(read_table(out, "answers")) == 4
        assert (out / "summary.json").is_file()
        again = run("experiment=figures", f"run={out}", cwd=tmp_path)
        assert (again.returncode, again.stderr.count("error: ")) == (2, 1)
        assert "no such glyph" in again.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with monkeypatch.context() as patch:
        patch.setattr("experiments.paper.report_page", broken)
        small = [one for one in SMALL_PAPER if not one.startswith(("experiment.parts", "+experiment.options"))]
        paper = ["experiment=paper", *small, "experiment.parts=[evaluate]", "model=planted", "progress=false"]
        done = ok(*paper, f"hydra.run.dir={tmp_path / 'paper'}")
    assert "could not draw the report" in done.stderr
    assert (tmp_path / "paper" / "summary.json").is_file()
