"""The routes of contrast pairs, from edges.parquet and routes.parquet, and the pairs' texts, as the page knows them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from interp.errors import printable
from interp.figures.drawing import Tables
from interp.figures.explorer.effects import number
from interp.patching.align import ContrastPair, Part, Side
from interp.patching.route import ANSWER, SHARE, node_name
from interp.patching.stored import pair_of
from interp.runs.store import records

MOST = 300
"""Edges of a pair: a graph with more cannot be read."""
PARTS = {
    Part.BOS: "start", Part.THINK: "think tag", Part.BODY: "reasoning", Part.PHRASE: "probing phrase",
    Part.END_THINK: "close tag",
}  # fmt: skip
"""What parts are called, where not by their own names."""


def model_of(part: Tables) -> dict[str, Any]:
    """How many layers and heads the model has, and the share of the effect that a route keeps."""
    heads = part("heads")
    return {"shape": [int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1], "share": SHARE}


def pair_routes(part: Tables) -> list[dict[str, Any]]:
    """Each pair with edges: those, what its route does alone, and both texts with what differs marked."""
    traces = {row["example"]: row for row in records(part("traces"))}
    pairs = {row["example"]: row for row in records(part("pairs"))}
    routes = {row["example"]: row for row in records(part("routes"))}
    found = []
    for example, edges in part("edges").groupby("example", sort=False):
        pair = pair_of(pairs[example], traces)
        found.append({
            "name": printable(str(example)),
            "domain": printable(pair.domain),
            "answers": [_answer(pair.clean), _answer(pair.corrupted)],
            "clean": _text(pair, 0),
            "corrupted": _text(pair, 1),
            "edges": [_edge(row) for row in records(edges.sort_values("rank").head(MOST))],
            "route": _route(routes[example]),
        })  # fmt: skip
    return found


def _edge(row: dict[str, Any]) -> dict[str, Any]:
    shared = row["through"] in ("k", "v") and row["readers"] > 1
    return {
        "from": node_name(row["sender_layer"], row["sender_head"], "embeddings"),
        "to": node_name(row["layer"], row["query_head"], ANSWER),
        "by": row["through"],
        "kv": int(row["head"]) if shared else None,
        "readers": [int(row["query_head"]), int(row["query_head"] + row["readers"] - 1)] if shared else None,
        "estimate": number(row["estimate"]),
        "value": number(row["value"]),
    }


def _route(row: dict[str, Any]) -> dict[str, Any]:
    curve = row["tried"] is not None
    return {
        "edges": int(row["edges"]),
        "of": int(row["of"]),
        "alone": number(row["alone"]),
        "without": number(row["without"]),
        "tried": [int(n) for n in row["tried"]] if curve else None,
        "kept": [number(share) for share in row["kept"]] if curve else None,
    }


def _answer(side: Side) -> str | None:
    """The answer as the probing phrase says it."""
    place = side.phrase_answer
    return None if place is None else printable(side.trace.token_text(place).strip())


def _text(pair: ContrastPair, which: int) -> list[list[Any]]:
    """Pieces of one side's text: the part, whether the other side has another token there, and the words."""
    sides = (pair.clean, pair.corrupted)
    own, other = sides[which].trace, sides[1 - which].trace
    part_of = {p: part for part, places in sides[which].parts.items() for p in places}
    pieces = []
    for place in pair.aligned:
        p, theirs = place[which], place[1 - which]
        if p is not None and (words := own.spaced_text(p)):
            part = part_of.get(p)
            differs = theirs is None or own.token_ids[p] != other.token_ids[theirs]
            pieces.append(("" if part is None else PARTS.get(part, part.value), differs, words))
    return [
        [part, differs, printable("".join(words for *_, words in run))]
        for (part, differs), run in groupby(pieces, key=lambda piece: piece[:2])
    ]
