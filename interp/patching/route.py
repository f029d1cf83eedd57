"""The edges of a pair as rows: from the reasoning to the answer, strongest first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp.model.lens import Lens
from interp.model.sites import Site
from interp.patching.align import Part, both
from interp.patching.edges import Edges
from interp.patching.pair import PairRuns
from interp.patching.profiles import LEAST_NLD
from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.runs.headlines import Headline
from interp.stats import Comparison, Estimate, bootstrap_mean, or_null, rng_for

ANSWER = "answer"
EDGES_TABLE = Table(
    "edges",
    EXAMPLE,
    Column("rank", INT, "place by the size of the estimate among all edges, from 0"),
    Column("sender_layer", INT, "layer of the sending head, from 0", null="the embeddings send"),
    Column("sender_head", INT, "the sending head, from 0", null="the embeddings send"),
    Column("through", TEXT, "`q`, `k` or `v` of the receiving head, or `answer`: straight to the final norm"),
    Column("layer", INT, "layer of the receiving head, from 0", null="the answer receives"),
    Column("head", INT, "the receiving head (of k and v the key-value head), from 0", null="the answer receives"),
    Column("query_head", INT, "the query head; of k and v the first that reads it", null="the answer receives"),
    Column("estimate", FLOAT, "estimated NLD of the edge, first order in q, k or v", null="NLD is not defined"),
    Column("value", FLOAT, "NLD of the edge patched alone", null="NLD is not defined"),
)


def route_rows(lens: Lens, runs: PairRuns, top: int) -> list[dict[str, Any]]:
    """The `top` edges of a pair that start at aligned positions from the reasoning on, each patched exactly."""
    keys = both(runs.pair, (Part.BODY, Part.PHRASE, Part.END_THINK, Part.ANSWER))
    sources, positions = zip(*(runs.place(key) for key in keys), strict=True)
    edges = Edges(lens, runs.corrupted, runs.clean, runs.answers, positions, sources)
    whole = runs.answers.ld_clean - runs.answers.ld_corrupted
    rows = []
    for rank, edge in enumerate(edges.verified(edges.estimates()[:top])):
        sender, receiver = edge.sender or (None, None), edge.receiver or (None, None)
        exact = np.nan if edge.exact is None else edge.exact
        wide = 1 if edge.through in (None, Site.Q) else lens.n_heads // runs.clean.sites[Site.K].shape[2]
        rows.append({
            "example": runs.pair.id, "rank": rank, "sender_layer": sender[0], "sender_head": sender[1],
            "through": ANSWER if edge.through is None else edge.through.value, "layer": receiver[0],
            "head": receiver[1], "query_head": None if receiver[1] is None else receiver[1] * wide,
            "estimate": or_null(edge.estimate / whole), "value": or_null(exact / whole),
        })  # fmt: skip
    return rows


def names_of(edges: pd.DataFrame) -> list[str]:
    """Each edge in words, such as (0,2) -v-> (4,1)."""
    senders = [_head(*place, "embeddings") for place in zip(edges["sender_layer"], edges["sender_head"], strict=True)]
    receivers = [_head(*place, ANSWER) for place in zip(edges["layer"], edges["head"], strict=True)]
    return [f"{a} -{by}-> {b}" for a, by, b in zip(senders, edges["through"], receivers, strict=True)]


def _head(layer: float, head: float, otherwise: str) -> str:
    return otherwise if pd.isna(layer) else f"({int(layer)},{int(head)})"


def route_findings(edges: pd.DataFrame, seed: int) -> tuple[list[Headline], list[str]]:
    """How well estimates agree with the exact patches of the same edges, and the strongest edges over all pairs."""
    received = edges[edges["through"] != ANSWER].dropna(subset=["estimate", "value"])
    rho = [
        stats.spearmanr(of["estimate"], of["value"]).statistic
        for _, of in received.groupby("example", sort=False)
        if len(of) > 2 and np.ptp(of["estimate"]) > 0 and np.ptp(of["value"]) > 0
    ]
    headlines = []
    if rho:
        values = np.array(rho, dtype=float)
        headlines.append(
            Headline(
                "edges between heads, rank correlation of estimates with exact NLD",
                bootstrap_mean(values, rng_for(seed, "edges")),
                "no relation",
                Estimate(0.0, len(rho)),
                Comparison.paired(values, 0.0, rng_for(seed, "edges", "paired")),
            )
        )
    named = edges.assign(name=names_of(edges))
    sums = named.groupby("name", sort=False)["value"].sum() / named["example"].nunique()
    some = sums[sums.abs() >= LEAST_NLD]
    best = some.sort_values(key=lambda v: -v.abs(), kind="stable").head(5)
    listed = "; ".join(f"{name} {value:+.3f}" for name, value in best.items())
    return headlines, [f"strongest edges, mean NLD over pairs (0 where not among the patched): {listed}"]
