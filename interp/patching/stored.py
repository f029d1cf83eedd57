"""Contrast pairs as rows: aligned once, and read back as they were, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from interp.data.rows import trace_row
from interp.model.lens import Lens
from interp.patching.align import ContrastPair, Part, Side, key_positions, padded
from interp.patching.pair import pad_token
from interp.runs.columns import EXAMPLE, IDS, INT, TEXT, Column, Table
from interp.text.trace import Trace

PARTS = pa.list_(pa.struct([("part", TEXT), ("start", INT), ("end", INT)]))
PAIRS_TABLE = Table(
    "pairs",
    EXAMPLE,
    Column("clean_ids", IDS, "tokens of the clean run"),
    Column("corrupted_ids", IDS, "tokens of the corrupted run, of the same length"),
    Column("clean_mask", IDS, "1 = real token, 0 = pad"),
    Column("corrupted_mask", IDS, "1 = real token, 0 = pad"),
    Column("domain", TEXT, "what the question is about"),
    Column("clean_tokens", pa.list_(TEXT), "text of each clean token; null = pad"),
    Column("corrupted_tokens", pa.list_(TEXT), "text of each corrupted token; null = pad"),
    Column("roles", pa.list_(TEXT), "what each position is for: see `Role`; null = none of those"),
    Column("clean_parts", PARTS, "where the parts of the clean run lie in its trace, end exclusive"),
    Column("corrupted_parts", PARTS, "the same of the corrupted run"),
    Column("clean_phrase_answer", INT, "position of the answer in the clean run's phrase", null="no phrase"),
    Column("corrupted_phrase_answer", INT, "the same of the corrupted run", null="no phrase"),
    Column("clean_answer_id", INT, "the clean run's answer token"),
    Column("corrupted_answer_id", INT, "the corrupted run's answer token"),
)


def pair_row(lens: Lens, pair: ContrastPair) -> dict[str, Any]:
    """The row of pairs.parquet."""
    clean_ids, corrupted_ids, clean_mask, corrupted_mask = padded(pair, pad_token(lens))
    return {
        "example": pair.id, "domain": pair.domain, "clean_ids": clean_ids, "corrupted_ids": corrupted_ids,
        "clean_mask": clean_mask, "corrupted_mask": corrupted_mask, "clean_answer_id": pair.clean.answer_id,
        "corrupted_answer_id": pair.corrupted.answer_id, "clean_tokens": _texts(pair, 0),
        "corrupted_tokens": _texts(pair, 1), "roles": _roles(pair), "clean_parts": _parts(pair.clean),
        "corrupted_parts": _parts(pair.corrupted), "clean_phrase_answer": pair.clean.phrase_answer,
        "corrupted_phrase_answer": pair.corrupted.phrase_answer,
    }  # fmt: skip


def _texts(pair: ContrastPair, side: int) -> list[str | None]:
    trace = (pair.clean, pair.corrupted)[side].trace
    return [None if place[side] is None else trace.token_text(place[side]) for place in pair.aligned]  # type: ignore[arg-type]


def _roles(pair: ContrastPair) -> list[str | None]:
    roles = {(key.clean, key.corrupted): key.role for key in key_positions(pair)}
    return [None if (role := roles.get(place)) is None else role.value for place in pair.aligned]  # type: ignore[arg-type]


def _parts(side: Side) -> list[dict[str, Any]]:
    return [{"part": part.value, "start": place.start, "end": place.stop} for part, place in side.parts.items()]


def trace_rows(pair: ContrastPair) -> list[dict[str, Any]]:
    """The rows of traces.parquet: both sides, whose examples are the pair's id with `/clean` and `/corrupted`."""
    sides = {"clean": pair.clean, "corrupted": pair.corrupted}
    return [{**trace_row(side.trace), "example": f"{pair.id}/{name}"} for name, side in sides.items()]


def pair_of(row: Mapping[str, Any], traces: Mapping[str, Mapping[str, Any]]) -> ContrastPair:
    """The pair of a row of pairs.parquet; `traces` are the rows of traces.parquet by example."""
    sides = {}
    for name in ("clean", "corrupted"):
        trace = replace(Trace.from_row(traces[f"{row['example']}/{name}"]), example=str(row["example"]))
        parts = {Part(one["part"]): range(one["start"], one["end"]) for one in row[f"{name}_parts"]}
        place = row[f"{name}_phrase_answer"]
        sides[name] = Side(
            trace, parts, None if place is None or place != place else int(place), int(row[f"{name}_answer_id"])
        )
    counted = [_counted(row[f"{name}_mask"]) for name in ("clean", "corrupted")]
    aligned = tuple(zip(*counted, strict=True))
    return ContrastPair(str(row["example"]), str(row["domain"]), sides["clean"], sides["corrupted"], aligned)


def _counted(mask: Any) -> list[int | None]:
    """The position of each real token; None for a pad."""
    found, position = [], 0
    for real in mask:
        found.append(position if real else None)
        position += int(real)
    return found
