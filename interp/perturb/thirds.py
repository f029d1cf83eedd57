"""Forced tokens by where in the response they stand: early ones have more behind them to change, whatever their FAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.perturb.overlap import Group
from interp.perturb.tables import METRICS, Problem, groups_of, mean_of_known
from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.stats import FEWEST, Comparison, adjust, bootstrap_mean, rng_for

THIRDS = ("first", "middle", "last")
THIRDS_TABLE = Table(
    "thirds",
    Column("score", TEXT, "by what the top positions were chosen"),
    Column("third", TEXT, "of the response's tokens: first, middle or last"),
    Column("metric", TEXT, "as in `effects`"),
    Column("net", FLOAT, "net effect at all forced positions there, mean over problems"),
    *ends("", "its 95 % bootstrap interval over problems", null=NO_INTERVAL),
    Column("n", INT, "number of problems"),
    Column(
        "difference", FLOAT, "net effect at the top positions there minus the others there", null="no problem has both"
    ),
    *ends("difference_", "its 95 % interval", null=f"n_paired < {FEWEST}, or all values are equal"),
    Column("p", FLOAT, "two-sided sign-flip p-value of the difference", null="n_paired < 2"),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table", null="n_paired < 2"),
    Column("n_paired", INT, "number of problems with top and other positions there"),
)


def third_rows(problems: Sequence[Problem], names: Sequence[str], k: int, seed: int) -> list[dict[str, Any]]:
    """The rows of thirds.parquet: `top` as in perturbed.parquet, beside the other positions of the same third alone."""
    rows = []
    for score in names:
        tops = [groups_of(p.scores, score, k, seed, p.example)[Group.TOP] for p in problems]
        for number, third in enumerate(THIRDS):
            for metric in METRICS:
                values = np.array([_net(p, metric, number, top) for p, top in zip(problems, tops, strict=True)])
                if not len(values) or np.isnan(values[:, 0]).all():
                    continue
                rng = rng_for(seed, "thirds", score, third, metric)
                net = bootstrap_mean(values[:, 0], rng)
                row: dict[str, Any] = {
                    "score": score, "third": third, "metric": metric, "net": net.value, "low": net.low,
                    "high": net.high, "n": net.n, "n_paired": 0,
                }  # fmt: skip
                if (compared := Comparison.paired(values[:, 1], values[:, 2], rng)) is not None:
                    found = compared.difference
                    row |= {"difference": found.value, "difference_low": found.low, "difference_high": found.high}
                    row |= {"p": compared.p, "n_paired": found.n}
                rows.append(row)
    adjust(rows)
    return rows


def _net(problem: Problem, metric: str, third: int, top: Sequence[int]) -> tuple[float, float, float]:
    """The mean net effect in a third of the response: everywhere, at the top positions, at the others."""
    net = problem.net(metric)
    places = np.arange(len(net))
    there, high = places * len(THIRDS) // len(net) == third, np.isin(places, top)
    everywhere, at_top, elsewhere = (mean_of_known(net[there & of]) for of in (True, high, ~high))
    return everywhere, at_top, elsewhere
