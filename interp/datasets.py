"""Questions and given traces: what the experiments run on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.organisms import planted, word_problems
from interp.organisms.word_problems import Split


@dataclass(frozen=True)
class Question:
    """What a model is asked, and the right answer where there is one."""

    id: str
    text: str
    gold: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class TraceText:
    """A trace that somebody generated: its whole text with special tokens."""

    id: str
    text: str
    gold: str | None = None


def word_problem_questions(seed: int, split: Split, limit: int) -> list[Question]:
    """Problems of `reasoner`'s own kind."""
    problems = (word_problems.make_problem(seed, split, i) for i in range(limit))
    return [Question(f"{split}-{seed}-{i}", p.question, p.answer, p.kind) for i, p in enumerate(problems)]


def planted_questions(seed: int, limit: int) -> list[Question]:
    """Prompts for the planted model."""
    questions = (planted.make_question(seed, i) for i in range(limit))
    return [Question(f"planted-{seed}-{i}", q.question, q.answer) for i, q in enumerate(questions)]


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Questions from a JSON-lines file (.jsonl, .jsonl.gz) with `question` and, if known, `id` and `gold`."""
    questions: list[Question] = []
    for number, row in json_lines(path):
        if limit is not None and len(questions) == limit:
            break
        text = _field(row, "question", path, number)
        gold = row.get("gold")
        questions.append(Question(str(row.get("id", number)), text, None if gold is None else str(gold)))
    return questions


def read_traces(path: Path, where: dict[str, Any]) -> Iterator[TraceText]:
    """Traces from a JSON-lines file with `text` and, if known, `id`, `gold`; only rows whose fields equal `where`."""
    for number, row in json_lines(path):
        missing = where.keys() - row.keys()
        if missing:
            raise UserError(f"{path}, line {number}: no field {min(missing)!r} to select by; it has {', '.join(row)}")
        if all(row[key] == value for key, value in where.items()):
            parts = [str(row[key]) for key in ("model", "id", "condition") if key in row]
            gold = row.get("gold")
            text = _field(row, "text", path, number)
            yield TraceText("/".join(parts) or str(number), text, None if gold is None else str(gold))


def _field(row: dict[str, Any], name: str, path: Path, number: int) -> str:
    if not isinstance(row.get(name), str):
        raise UserError(f"{path}, line {number}: no text field {name!r}; it has {', '.join(row) or 'no fields'}")
    return str(row[name])


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: set data.path")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: not a JSON object")
                yield number, row
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} after line {number}: {error}") from error
