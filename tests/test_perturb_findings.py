"""What `perturb` says of the papers' claim: by FAI, where FAI is something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from interp.perturb.findings import findings
from interp.perturb.overlap import Scores
from interp.perturb.tables import METRICS, Problem, group_rows
from interp.runs.findings import Findings
from interp.runs.verdicts import Outcome
from tests.test_null_verdicts import frame


def found(sizes: Sequence[float], scores: Sequence[str] = ("fai",), k: int = 5) -> Findings:  # type: ignore[type-arg]
    """A run on problems in which another token lowers the overlap most at the highest FAI, of that size in each."""
    rng = np.random.default_rng(0)
    problems, tokens = [], []
    for i, size in enumerate(sizes):
        fai = rng.permutation(np.linspace(0, size, 30))
        effects = {m: np.full(30, np.nan) for m in METRICS} | {"jaccard": -fai / size + rng.normal(0, 0.1, 30)}
        own = {m: np.zeros(30) for m in METRICS}
        problems.append(Problem(str(i), Scores({name: fai for name in scores}, rng.random(30)), effects, own))
        tokens += [{"example": str(i), "fai_to_end": value, "fai": value, "entropy": value} for value in fai]
    tables = {
        "perturbed": frame("perturbed", group_rows(problems, scores, k, 0)),
        "predictors": frame("predictors", []),
        "thirds": frame("thirds", []),
        "tokens": frame("tokens", tokens),
    }

    def table(name: str) -> pd.DataFrame:
        return tables[name]

    return findings(table, k, scores)


def test_fai_that_moves_nothing_has_no_places_to_test() -> None:
    """Ranks of 1e-10 are ranks: the numbers stay, the claim is not tested, and a line says why."""
    (something,) = found([0.1] * 12).verdicts
    assert (something.outcome, something.why) == (Outcome.AGREES, None)
    nothing = found([1e-10] * 12)
    (verdict,) = nothing.verdicts
    assert verdict.outcome is Outcome.NOT_TESTED
    assert "FAI varies by 1e-10 at most in 12 of 12 problems" in str(verdict.why)
    assert verdict.why in nothing.lines
    assert len(nothing.headlines) == len(found([0.1] * 12).headlines) > 0


def test_differences_are_of_the_problems_that_have_both() -> None:
    """A problem whose own tokens' rollouts were cut off has no net effect: it counts in none of these."""
    rng, problems = np.random.default_rng(0), []
    for i in range(10):
        fai, nothing = np.linspace(0, 1, 30), {m: np.full(30, np.nan) for m in METRICS}
        own = nothing | ({"jaccard": np.zeros(30)} if i < 3 else {})
        effects = nothing | {"jaccard": rng.normal(size=30)}
        problems.append(Problem(str(i), Scores({"fai": fai}, rng.random(30)), effects, own))
    rows = {row["group"]: row for row in group_rows(problems, ["fai"], 5, 0)}
    assert [rows["top"][n] for n in ("n", "n_net")] == [10, 3]
    assert [rows["bottom"][n] for n in ("n", "n_net", "n_paired")] == [10, 3, 3]
    tables = {"perturbed": frame("perturbed", list(rows.values()))}
    tables |= {name: frame(name, []) for name in ("predictors", "thirds")}
    tables["tokens"] = frame("tokens", [{"example": "0", "fai_to_end": value} for value in (0.0, 1.0)])
    told = findings(tables.__getitem__, 5, ["fai"])
    assert [one.comparison.difference.n for one in told.headlines if one.comparison] == [3] * len(told.headlines)
    assert any("of 3 problems" in line for line in told.lines)


def test_where_it_moves_nothing_in_few_problems_that_is_said_beside_the_verdict() -> None:
    some = found([0.1] * 10 + [1e-9, 1e-10])
    (verdict,) = some.verdicts
    assert verdict.outcome is Outcome.AGREES
    assert "in 2 of 12 problems" in str(verdict.why)


@pytest.mark.parametrize(
    ("scores", "k", "why"),
    [(["entropy"], 5, "not chosen by FAI"), (["fai"], 16, "no response has room for two groups of 16 positions")],
)
def test_without_groups_by_fai_the_claim_is_not_tested(scores: list[str], k: int, why: str) -> None:
    (verdict,) = found([0.1] * 12, scores, k).verdicts
    assert verdict.outcome is Outcome.NOT_TESTED
    assert why in str(verdict.why)


def test_the_claim_is_decided_by_fai_wherever_it_stands_among_the_scores() -> None:
    (verdict,) = found([0.1] * 12, ["entropy", "fai"]).verdicts
    assert verdict.decided_by is not None
    assert "by FAI" in verdict.decided_by.name
