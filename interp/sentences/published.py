"""Importances that thought-anchors published (math-rollouts, Bogdan et al. 2025), beside measures by a model at hand.

A folder holds `problem_N/base_solution.json`, which is read as a trace, and `problem_N/chunks_labeled.json`: its
sentences as they cut it, with what 100 rollouts of an R1 model made of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.stats import or_null
from interp.text.trace import Segment, Trace

LABELLED = "chunks_labeled.json"
FIELDS = {
    "published_resampled": "resampling_importance_kl",
    "published_counterfactual": "counterfactual_importance_kl",
}
"""Columns and the fields they come from: divergences of the answers' distributions, without a sign."""


@dataclass(frozen=True)
class PublishedSentences:
    """One trace's sentences as they were published, end exclusive, and the columns of each."""

    spans: list[tuple[int, int]]
    columns: list[dict[str, Any]]


def labelled_files(folder: str) -> dict[str, list[Path]]:
    """The files by the name of their problem. Raises UserError for a folder without any."""
    found: dict[str, list[Path]] = {}
    for file in sorted(Path(folder).expanduser().rglob(LABELLED)):
        found.setdefault(file.parent.name, []).append(file)
    if not found:
        raise UserError(f"{folder} holds no {LABELLED}: experiment.published names a folder of thought-anchors' data")
    return found


def published_sentences(trace: Trace, files: dict[str, list[Path]]) -> PublishedSentences | None:
    """Those of the file whose sentences stand in the trace's reasoning, one behind the other; None without one.

    Raises:
        UserError: a file that cannot be read.
    """
    for file in files.get(trace.example.partition("#")[0], []):
        chunks = _chunks(file)
        spans = _spans(trace, [str(chunk["chunk"]) for chunk in chunks])
        if spans is not None:
            columns = [_columns(chunk) for chunk in chunks]
            return PublishedSentences(spans, columns)
    return None


def _columns(chunk: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {name: or_null(chunk.get(field)) for name, field in FIELDS.items()}
    return {**values, "published_role": ", ".join(map(str, chunk.get("function_tags") or [])) or None}


def _chunks(file: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.get("chunk") for one in found):
        raise UserError(f"cannot read {file}: it holds no list of sentences with `chunk`")
    return found


def _spans(trace: Trace, texts: list[str]) -> list[tuple[int, int]] | None:
    """Where each text begins, as tokens; a sentence ends where the next begins."""
    reasoning = trace[Segment.REASONING]
    if not len(reasoning):
        return None
    place, starts = trace.offsets[reasoning.start][0], []
    for text in texts:
        place = trace.text.find(text.strip(), place)
        token = next((i for i in reasoning.positions if trace.offsets[i][1] > place), None)
        if place < 0 or token is None:
            return None
        starts.append(token)
        place += len(text.strip())
    ends = [*starts[1:], reasoning.end]
    return [*zip(starts, ends, strict=True)] if all(a < b for a, b in zip(starts, ends, strict=True)) else None
