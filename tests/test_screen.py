"""What a run says at its end: what fits 80 columns on the screen, and all of it in run.log."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.base.screen import LINES, NUMBERS, show
from interp.runs.claims import CLAIMS
from interp.runs.claims_compared import brief_claim_lines, claim_rows, claim_table
from interp.runs.compared import Run
from interp.runs.directory import shown_path
from interp.runs.findings import Findings, NoFacts
from interp.runs.headlines import Headline
from interp.runs.verdicts import Outcome, Sign, Verdict
from interp.stats import ComparedBy, Comparison, Estimate


def number(name: str) -> Headline:
    compared = Comparison(ComparedBy.PAIRED, Estimate(-0.012345, 120), 0.00021)
    return Headline(name, Estimate(0.5, 120, 0.25, 0.75), "chance", Estimate(0.1, 120), compared)


@pytest.fixture
def findings() -> Findings[NoFacts]:
    verdicts = [Verdict(claim, Outcome.UNDECIDED, number("it"), None, Sign.HIGHER) for claim in CLAIMS]
    verdicts[1] = Verdict("A2", Outcome.NOT_TESTED, why="nobody asked")
    return Findings(
        [number(f"share {i} of what has a long name, such as that of traces whose answer stays") for i in range(20)],
        NoFacts(),
        [f"p-value {i} = .5" for i in range(24)],
        verdicts=verdicts,
    )


def test_a_verdict_is_one_line_of_at_most_eighty_columns(
    findings: Findings[NoFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "run").mkdir(parents=True)
    show("heads on m, data d", findings, {"too long": 2}, tmp_path / "out" / "run")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for claim, about in CLAIMS.items():
        (line,) = (line for line in lines if line.split()[:1] == [claim])
        assert about.brief in line
        assert ("not tested" if claim == "A2" else "undecided") in line
    assert sum("p-value" in line for line in lines) == LINES
    assert sum("0.500 [0.250, 0.750]" in line for line in lines) == NUMBERS
    assert "left out: 2 too long" in lines
    assert "run:     out/run" in lines


def test_the_log_has_all_of_it(findings: Findings[NoFacts], tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("before\n")
    show("title", findings, {}, tmp_path)
    log = (tmp_path / "run.log").read_text()
    assert log.startswith("before\n")
    for one in findings.headlines:
        assert one.name in log
    for line in findings.lines:
        assert line in log.splitlines()
    assert "A2 not tested here: Answer tokens look at the reasoning" in log
    assert "nobody asked" in log


def test_paths_are_told_from_the_working_directory_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "a" / "b") == Path("a/b")
    assert shown_path(Path("/elsewhere/a")) == Path("/elsewhere/a")


def rows(*outcomes: Outcome) -> list[dict[str, object]]:
    return [{"claim": "A1", "run": f"run{i}", "outcome": one.value} for i, one in enumerate(outcomes)]


def test_outcomes_of_few_runs_stand_in_their_order_and_of_many_are_counted() -> None:
    title, line = brief_claim_lines(rows(Outcome.AGREES, Outcome.NOT_TESTED, Outcome.OPPOSITE))
    assert title == "claims: run0 / run1 / run2"
    assert line.split("answers")[1].split() == ["agrees", "/", "-", "/", "opposite"]
    _, line = brief_claim_lines(rows(*[Outcome.AGREES] * 3, Outcome.UNDECIDED, Outcome.NOT_TESTED))
    assert line.endswith("agrees 3, undecided 1")
    assert not list(brief_claim_lines([]))
    assert len(list(brief_claim_lines(rows(Outcome.NOT_TESTED)))) == 1, "nothing was tested"


def test_a_printed_claim_tells_sets_of_heads_from_examples(tmp_path: Path) -> None:
    compared = Comparison(ComparedBy.SETS, Estimate(-2.0, 200, -3.0, -1.0), 0.005)
    sets = Headline("cut", Estimate(-2.0, 6), "sets of heads", Estimate(0.0, 200), compared)
    verdicts = [Verdict("A3", Outcome.AGREES, number("it")), Verdict("A6", Outcome.AGREES, sets)]
    (tmp_path / "summary.json").write_text(json.dumps({"verdicts": [one.as_json() for one in verdicts]}))
    run = Run(tmp_path, "ablate", "m", "m", {}, lambda _: pd.DataFrame())
    rows = pd.DataFrame(claim_rows([run]))
    assert rows.set_index("claim")[["test", "n"]].T.to_dict("list") == {"A3": ["paired", 120], "A6": ["sets", 200]}
    examples, heads = claim_table(rows)["m"]
    assert examples.endswith("n = 120 pairs")
    assert heads == "agrees, -2.00 [-3.00, -1.00], p 0.005, 200 sets"
