"""Traces for a notebook: from texts, tokens or files, or written by the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from interp.data.datasets import read_traces, traces_of
from interp.data.examples import TraceText
from interp.errors import TraceError, UserError
from interp.front.models import style_of
from interp.model.generate import Sampling, generate
from interp.model.lens import Lens
from interp.text.prompts import Condition, PromptStyle, render, with_response
from interp.text.trace import Trace, parse_ids, parse_text


def trace(lens: Lens, text: str | Sequence[int], *, example: str = "trace") -> Trace:
    """A trace from its whole text, special tokens included, or from its token ids, which stay exactly these.

    Raises TraceError where the think tags are missing or nothing follows them.
    """
    if isinstance(text, str):
        return parse_text(text, lens.tokenizer, lens.markers, example=example)
    return parse_ids(list(text), lens.tokenizer, lens.markers, example=example)


def traces(lens: Lens, source: str | Path | Sequence[str | Mapping[str, Any]], limit: int | None = None) -> list[Trace]:
    """Traces from a file (JSON lines or Parquet), or from texts or rows as such a file holds them (docs/data.md).

    Rows that hold no whole trace are left out; raises UserError if none is left.
    """
    found: list[Trace] = []
    reasons: list[str] = []
    for one in islice(_texts(lens, source), None):
        if limit is not None and len(found) == limit:
            break
        try:
            text = one.text
            if one.turns:
                text = with_response(one.turns, one.response, lens.tokenizer, lens.markers, {})
            found.append(parse_text(text, lens.tokenizer, lens.markers, example=one.id))
        except TraceError as error:
            reasons.append(error.reason)
    if not found:
        raise UserError(f"no trace among {len(reasons)}: {'; '.join(sorted(set(reasons)))}")
    return found


def _texts(lens: Lens, source: str | Path | Sequence[str | Mapping[str, Any]]) -> Iterator[TraceText]:
    if isinstance(source, str | Path):
        yield from read_traces(Path(source).expanduser(), {}, markers=lens.markers)
        return
    rows = ({"text": row} if isinstance(row, str) else dict(row) for row in source)
    yield from traces_of(enumerate(rows, start=1), {}, lens.markers, "traces")


def answer(
    lens: Lens,
    question: str,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    style: PromptStyle | None = None,
    example: str = "answer",
) -> Trace:
    """Lets the model reason about a question and answer it: a trace of exactly the tokens that it wrote.

    Raises TraceError for a response that is not finished or does not close its reasoning.
    """
    prompt = render(question, lens.tokenizer, lens.markers, style or style_of(lens), Condition.WITH_REASONING)
    (response,) = generate(lens, [prompt], Sampling(temperature, max_new_tokens), seed)
    if not response.finished:
        raise TraceError(example, f"not finished within max_new_tokens={max_new_tokens}")
    ids, n_prompt = [*response.prompt_ids, *response.ids], len(response.prompt_ids)
    return parse_ids(ids, lens.tokenizer, lens.markers, example=example, source="generated", n_prompt=n_prompt)
