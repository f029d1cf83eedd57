"""An experiment of one's own takes four files: a module, its options, a page, a test. This is the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import experiments
from experiments.base.readme import table, with_table
from interp.runs.store import read_table
from tests.command import ROOT, interrupted, ok, run

MODULE = '''
"""How long are answers?"""

from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from experiments.base.collect import traces
from experiments.base.experiment import Example, Experiment, InPaper, Rows
from experiments.base.options import AtLeastOne, Options, Text
from experiments.base.sample import sampled
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.stats import bootstrap_mean, rng_for
from interp.text.trace import Segment


class ToyOptions(Options):
    name: Text
    unit: AtLeastOne


@dataclass(frozen=True)
class ToyFacts:
    longest: int


def measure(session, options: ToyOptions, example: Example) -> Rows:
    answer = example.subject[Segment.ANSWER]
    about = {"example": example.name, "intervention": "none", "metric": "length"}
    return {"effects": [{**about, "value": (answer.end - answer.start) / options.unit}]}


def tell(session, options: ToyOptions) -> Findings[ToyFacts]:
    lengths = session.store.table("effects")["value"].to_numpy(dtype=float)
    mean = bootstrap_mean(lengths, rng_for(session.seed, "length"))
    return Findings([Headline("mean length of an answer", mean)], ToyFacts(int(lengths.max())))


def draw(table, facts: ToyFacts):
    def bars() -> Figure:
        figure = Figure()
        figure.subplots().hist(table("effects")["value"], range=(0, facts.longest))
        return figure

    yield "toy_lengths", bars


EXPERIMENT = Experiment(
    options=ToyOptions,
    about=About("How long are answers?", "Their tokens are counted.", figures={"toy_lengths": "Lengths of answers."}),
    examples=lambda session, _: traces(session),
    measure=measure,
    findings=tell,
    facts=ToyFacts,
    draw=draw,
    plan=lambda session, options: sampled(session, options, measure).plan(),
    in_paper=InPaper(shared_traces=True),
    smallest=("data.limit=2",),
)
'''
OPTIONS = """# How long answers are
#   python -m experiments.run experiment=toy
name: toy
unit: 1     # tokens
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What to add to the command line so that the toy is found."""
    (tmp_path / "own" / "experiments").mkdir(parents=True)
    (tmp_path / "own" / "experiments" / "toy.py").write_text(MODULE)
    (tmp_path / "own" / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "conf" / "experiment" / "toy.yaml").write_text(OPTIONS)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "own" / "experiments")])
    monkeypatch.delitem(sys.modules, "experiments.toy", raising=False)
    return ["--config-dir", str(tmp_path / "own" / "conf"), "model=planted", "progress=false"]


def test_it_runs_resumes_draws_compares_and_is_reported(
    toy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [*toy, "experiment=toy", "data.limit=3"]
    for seed in (0, 1):
        done = ok(*small, f"seed={seed}", "figures=true", f"hydra.run.dir={tmp_path}/{seed}")
        assert "mean length of an answer" in done.stdout
    assert (tmp_path / "0" / "figures" / "toy_lengths.pdf").is_file()
    assert "3 examples, 3 forward passes" in ok(*small, "dry_run=true").stdout
    assert "experiment.unit=0 must be at least 1" in run(*small, "experiment.unit=0").stderr
    # Interrupted as it writes its third part, and resumed.
    interrupted(monkeypatch, *small, f"hydra.run.dir={tmp_path}/cut", after=2)
    ok(*small, f"resume={tmp_path}/cut")
    pd.testing.assert_frame_equal(read_table(tmp_path / "cut", "effects"), read_table(tmp_path / "0", "effects"))
    ok(*toy, "experiment=figures", f"run={tmp_path}/cut", f"hydra.run.dir={tmp_path}/drawn")
    assert (tmp_path / "drawn" / "figures" / "toy_lengths.png").is_file()
    ok(*toy, "experiment=compare", f"runs=[{tmp_path}/0,{tmp_path}/1]", f"hydra.run.dir={tmp_path}/both")
    assert set(read_table(tmp_path / "both", "numbers")["run"]) == {"seed 0", "seed 1"}
    parts = [
        "experiment=paper",
        "experiment.parts=[evaluate,toy]",
        "experiment.questions=3",
        "+experiment.options.toy.unit=2",
        "figures=true",
    ]
    ok(*toy, *parts, f"hydra.run.dir={tmp_path}/paper")
    page = (tmp_path / "paper" / "report.html").read_text()
    assert "How long are answers?" in page
    assert "Lengths of answers." in page
    assert json.loads((tmp_path / "paper" / "summary.json").read_text())["parts"] == ["evaluate", "toy"]


def test_the_command_finds_it_on_the_path(toy: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.run", *toy, "experiment=toy", "data.limit=2", "figures=false"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "own")])}
    done = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path}/run"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(read_table(tmp_path / "run", "effects")) == 2


def test_the_readme_has_every_experiment() -> None:
    readme = (ROOT / "README.md").read_text()
    assert with_table(readme) == readme, "python -m experiments.base.readme"
    assert all((ROOT / "docs" / f"{line.split('`')[1]}.md").is_file() for line in table().splitlines()[2:])
