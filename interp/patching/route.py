"""The edges of a pair as rows, from the reasoning to the answer, strongest first, and what the strongest do alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from interp.model.lens import Lens
from interp.model.sites import Site
from interp.patching.align import Part, both
from interp.patching.edges import Edge, Edges
from interp.patching.faithfulness import effect_without, keeps, smallest_route
from interp.patching.pair import PairRuns
from interp.patching.profiles import LEAST_NLD
from interp.runs.columns import EXAMPLE, FLOAT, IDS, INT, TEXT, Column, Table
from interp.runs.headlines import Headline
from interp.stats import Comparison, Estimate, bootstrap_mean, or_null, rng_for
from interp.text.numbers import difference_text

ANSWER, MLP = "answer", "mlp"
_THROUGH = {None: ANSWER, Site.MLP_OUT: MLP}
EDGES_TABLE = Table(
    "edges",
    EXAMPLE,
    Column("rank", INT, "place by the size of the estimate among all edges, from 0"),
    Column("sender_layer", INT, "layer of the sending head or MLP, from 0", null="the embeddings send"),
    Column("sender_head", INT, "the sending head, from 0", null="the embeddings or an MLP send"),
    Column("through", TEXT, "`q`, `k` or `v` of the receiving head, `mlp`, or `answer`: straight to the final norm"),
    Column("layer", INT, "layer of the receiving head or MLP, from 0", null="the answer receives"),
    Column("head", INT, "the receiving head (of k and v the key-value head), from 0", null="no head receives"),
    Column("query_head", INT, "the query head; of k and v the first that reads it", null="no head receives"),
    Column(
        "readers", INT, "how many query heads, from that one on, read it: 1 but for k and v", null="no head receives"
    ),
    Column("estimate", FLOAT, "estimated NLD of the edge, first order in what receives it", null="NLD is not defined"),
    Column("value", FLOAT, "NLD of the edge patched alone", null="NLD is not defined"),
)
SHARE, MOST = 0.9, 1024
"""The route is the strongest edges that together keep this share of the effect, at most so many."""
ROUTES_TABLE = Table(
    "routes",
    EXAMPLE,
    Column(
        "edges",
        INT,
        f"the fewest strongest edges, of those tried, with an effect within {1 - SHARE:.0%} of the whole, or {MOST:,}",
    ),
    Column("of", INT, "number of all edges"),
    Column("whole", FLOAT, "NLD where the embeddings' change travels by all edges", null="NLD is not defined"),
    Column("alone", FLOAT, "share of that where it travels by the route alone", null="there is no effect"),
    Column("without", FLOAT, "share of that where it travels by all other edges", null="there is no effect"),
    Column("tried", IDS, "numbers of strongest edges that were tried, up to `edges`", null="there is no effect"),
    Column("kept", pa.list_(FLOAT), "share of `whole` that so many keep alone", null="there is no effect"),
)


def route_rows(lens: Lens, runs: PairRuns, top: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The `top` edges of a pair that start at aligned positions from the reasoning on, each patched exactly, and the
    row of routes.parquet."""
    keys = both(runs.pair, (Part.BODY, Part.PHRASE, Part.END_THINK, Part.ANSWER))
    sources, positions = zip(*(runs.place(key) for key in keys), strict=True)
    edges = Edges(lens, runs.corrupted, runs.clean, runs.answers, positions, sources)
    whole = runs.answers.ld_clean - runs.answers.ld_corrupted
    rows, ranked = [], edges.estimates()
    for rank, edge in enumerate(edges.verified(ranked[:top])):
        sender, receiver = edge.sender or (None, None), edge.receiver or (None, None)
        exact = np.nan if edge.exact is None else edge.exact
        wide = lens.n_heads // runs.clean.sites[Site.K].shape[2] if edge.through in (Site.K, Site.V) else 1
        rows.append({
            "example": runs.pair.id, "rank": rank, "sender_layer": sender[0], "sender_head": sender[1],
            "through": _THROUGH.get(edge.through, edge.through), "layer": receiver[0],
            "head": receiver[1], "query_head": None if receiver[1] is None else receiver[1] * wide,
            "readers": None if receiver[1] is None else wide,
            "estimate": _share(edge.estimate, whole), "value": _share(exact, whole),
        })  # fmt: skip
    return rows, {"example": runs.pair.id, **_route(edges, ranked, whole)}


def _route(edges: Edges, ranked: Sequence[Edge], scale: float) -> dict[str, Any]:
    """The smallest route: what it does alone, and what is left without it."""
    tried = smallest_route(edges, ranked, SHARE, MOST)
    n, alone = tried[-1]
    whole = effect_without(edges, ())
    found = {"edges": n, "of": len(ranked), "whole": _share(whole, scale)}
    if abs(found["whole"] or 0.0) < LEAST_NLD:
        return found
    curve = {"tried": [n for n, _ in tried], "kept": [one / whole for _, one in tried]}
    return {**found, **curve, "alone": alone / whole, "without": effect_without(edges, ranked[:n]) / whole}


def _share(value: float, scale: float) -> float | None:
    return or_null(value / scale) if scale else None


def names_of(edges: pd.DataFrame) -> list[str]:
    """Each edge in words, such as (0,2) -v-> (4,1)."""
    senders = [
        node_name(*place, "embeddings") for place in zip(edges["sender_layer"], edges["sender_head"], strict=True)
    ]
    receivers = [node_name(*place, ANSWER) for place in zip(edges["layer"], edges["head"], strict=True)]
    return [f"{a} -{by}-> {b}" for a, by, b in zip(senders, edges["through"], receivers, strict=True)]


def node_name(layer: float, head: float, otherwise: str) -> str:
    """A head or MLP in words; `otherwise` where there is no layer."""
    if pd.isna(layer):
        return otherwise
    return f"MLP {int(layer)}" if pd.isna(head) else f"({int(layer)},{int(head)})"


def route_findings(edges: pd.DataFrame, routes: pd.DataFrame, seed: int) -> tuple[list[Headline], list[str]]:
    """How well estimates agree with the exact patches of the same edges, what the routes do alone, and the strongest
    edges over all pairs."""
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
                "edges to heads and MLPs, rank correlation of estimates with exact NLD",
                bootstrap_mean(values, rng_for(seed, "edges")),
                "no relation",
                Estimate(0.0, len(rho)),
                Comparison.paired(values, 0.0, rng_for(seed, "edges", "paired")),
            )
        )
    known = routes.dropna(subset=["alone"])
    if len(known):
        alone, left = (
            bootstrap_mean(known[name].to_numpy(dtype=float), rng_for(seed, "route", name))
            for name in ("alone", "without")
        )
        headlines.append(Headline("share of the effect that the route alone keeps", alone, "left without it", left))
    named = edges.assign(name=names_of(edges))
    sums = named.groupby("name", sort=False)["value"].sum() / named["example"].nunique()
    some = sums[sums.abs() >= LEAST_NLD]
    best = some.sort_values(key=lambda v: -v.abs(), kind="stable").head(5)
    listed = "; ".join(f"{name} {difference_text(value)}" for name, value in best.items())
    lines = [f"strongest edges, mean NLD over pairs (0 where not among the patched): {listed}"]
    if len(known):
        edges_of, of = (f"{known[name].median():.0f}" for name in ("edges", "of"))
        enough = int(known["alone"].map(lambda alone: keeps(alone, SHARE)).sum())
        reached = f"{SHARE:.0%} of the effect is kept in {enough} of {len(known)} pairs"
        lines.append(f"the route: {edges_of} of {of} edges (median over pairs); {reached}")
    return headlines, lines
