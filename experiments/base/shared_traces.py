"""The traces that the parts of a report share: the answers with reasoning that its `evaluate` wrote, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from experiments.base.session import Session
from interp.data.examples import Question
from interp.errors import UserError
from interp.grading.outcomes import Outcome
from interp.runs.directory import SUMMARY
from interp.runs.store import records, tables_of
from interp.text.prompts import Condition, render


def shared_traces(evaluated: Session) -> str:
    """The finished answers with reasoning of a run of `evaluate`, as JSON lines. Raises UserError if there are none."""
    if not (evaluated.directory / SUMMARY).is_file():
        raise UserError("its traces are the answers of evaluate, which could not be run")
    questions = {question.id: question for question in evaluated.questions}
    written = {row["example"]: row for row in records(tables_of(evaluated.directory)("traces"))}
    lines = [
        json.dumps(_trace_row(evaluated, questions[row["example"]], row, written), ensure_ascii=False)
        for row in records(tables_of(evaluated.directory)("answers"))
        if row["condition"] == Condition.WITH_REASONING
        and row["sample"] == 0
        and row["outcome"] not in (Outcome.TRUNCATED, Outcome.UNCLOSED, Outcome.EMPTY)
    ]
    if not lines:
        raise UserError("no answer with reasoning was finished: there is no trace to measure")
    return "\n".join(lines) + "\n"


def _trace_row(
    session: Session, question: Question, row: dict[str, Any], written: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    tokenizer, markers = session.tokenizer, session.model_options.markers
    prompt = render(question.text, tokenizer, markers, session.prompt_style, Condition.WITH_REASONING, question.earlier)
    return {
        "id": question.id,
        "text": f"{prompt}{row['text']}{tokenizer.eos_token or ''}",
        "gold": question.gold,
        "subject": question.kind,
        "level": question.level,
        "finished": bool(row["finished"]),
        "token_ids": list(map(int, written[question.id]["token_ids"])) if question.id in written else None,
    }
