"""Questions and given traces: what the experiments run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from interp.data.examples import Question, Task, TraceText
from interp.data.files import Malformed, text_field
from interp.data.formats import Columns, TraceFormat, ended_by, samples_of
from interp.data.ids import own_ids
from interp.data.sources import rows_from
from interp.errors import UserError, nearest
from interp.organisms import decisions, lookups, planted, word_problems
from interp.organisms.word_problems import Split
from interp.text.trace import DEFAULT_MARKERS, ThinkMarkers


@dataclass(frozen=True)
class Fields:
    """What a file's or a hub data set's columns are called."""

    question: str = "question"
    conversation: str | None = None
    """A list of {role, content} instead of one question text."""
    id: str = "id"
    gold: str | None = "gold"
    gold_after: str | None = None
    """The gold answer is what stands behind the last of these marks, such as ####."""
    kind: str = "subject"
    level: str = "level"
    checklist: str = "checklist"
    text: str | None = None
    """Of given traces, and the next ones too; None = as their format calls it."""
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    model: str = "model"
    condition: str = "condition"

    @property
    def columns(self) -> Columns:
        return Columns(self.text, self.prompt, self.response, self.messages)


def word_problem_questions(
    seed: int, split: Split, limit: int, difficulty: Mapping[str, Sequence[int]] | None = None
) -> list[Question]:
    """Problems of `word-reasoner`'s own kind; the level is the number of people in the story.

    `difficulty` names fields of `Difficulty`: each value is drawn with the same chance.
    """
    chosen = word_problems.difficulty_of(difficulty or {})
    problems = (word_problems.make_problem(seed, split, i, chosen) for i in range(limit))
    return [
        Question(f"{split}-{seed}-{i}", p.question, p.answer, p.kind, str(len(p.people)))
        for i, p in enumerate(problems)
    ]


def lookup_questions(
    seed: int, split: Split, limit: int, size: Mapping[str, int | Sequence[int]] | None = None
) -> list[Question]:
    """Problems of `reasoner`'s own kind; the kind is the order of the answer, the level the items of the chain.

    `size` names fields of `Size`: each value is drawn with the same chance.
    """
    chosen = lookups.size_of(size or {})
    problems = (lookups.make_problem(seed, split, i, chosen) for i in range(limit))
    return [
        Question(f"lookups-{split}-{seed}-{i}", p.question, p.answer, p.kind, str(len(p.chain)))
        for i, p in enumerate(problems)
    ]


def planted_questions(seed: int, limit: int) -> list[Question]:
    """Prompts for the planted model."""
    questions = (planted.make_question(seed, i) for i in range(limit))
    return [Question(f"planted-{seed}-{i}", q.question, q.answer) for i, q in enumerate(questions)]


def decision_questions(seed: int, limit: int) -> list[Question]:
    """Prompts for `decider`: cues whose words are to be decided on."""
    questions = (decisions.make_question(seed, i) for i in range(limit))
    return [Question(f"decisions-{seed}-{i}", q.text, q.answer) for i, q in enumerate(questions)]


def reasoning_gym_questions(task: str, seed: int, limit: int, options: Mapping[str, Any]) -> list[Question]:
    """Problems of a reasoning-gym generator by name, scored by the generator itself. `options` are the generator's."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError("data.kind=reasoning_gym needs the package reasoning-gym: pip install reasoning-gym") from error
    if task not in DATASETS:
        raise UserError(f"reasoning-gym has no task {task!r}; {nearest(task, DATASETS)}")
    try:
        entries = list(reasoning_gym.create_dataset(task, seed=seed, size=limit, **options))
    except Exception as error:  # each task checks its options in its own way, or fails over them
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"data.options does not suit the task {task}: {first}") from error
    return [
        Question(
            f"{task}-{seed}-{i}",
            str(entry["question"]).strip(),
            _text_or_none(entry["answer"]),
            task,
            _plain_level(entry["metadata"].get("difficulty")),
            Task(task, entry, dict(options)),
        )
        for i, entry in enumerate(entries)
    ]


def _plain_level(difficulty: Any) -> str | None:
    """reasoning-gym's difficulty where it is one number; ranges are the same for all problems of a task."""
    return str(difficulty) if isinstance(difficulty, int | float | str) else None


def read_questions(
    path: str,
    limit: int | None = None,
    fields: Fields = Fields(),
    malformed: Malformed = Malformed.ERROR,
    subset: str | None = None,
    split: str | None = "test",
) -> list[Question]:
    """Questions from JSON lines or Parquet, or from a data set of the Hugging Face hub (or a local copy of one)."""
    first = islice(rows_from(path, malformed, subset, split), limit)
    questions = list(own_ids(_question(row, fields, number, f"{path}, row {number}") for number, row in first))
    if not questions:
        raise UserError(f"{path} has no question")
    return questions


def _question(row: Mapping[str, Any], fields: Fields, number: int, where: str) -> Question:
    earlier: tuple[str, ...] = ()
    if fields.conversation is None:
        text = text_field(row, fields.question, where)
    else:
        turns = row.get(fields.conversation)
        if not isinstance(turns, list) or not all(isinstance(t, dict) and "content" in t for t in turns) or not turns:
            raise UserError(f"{where}: {fields.conversation!r} is not a list of turns with `content`")
        *earlier_turns, last = (str(turn["content"]) for turn in turns)
        earlier, text = tuple(earlier_turns), last
    gold = None if fields.gold is None else row.get(fields.gold)
    if isinstance(gold, str) and fields.gold_after is not None:
        gold = gold.rpartition(fields.gold_after)[2].strip().replace(",", "")
    checklist = row.get(fields.checklist) or []
    return Question(
        str(number if row.get(fields.id) is None else row[fields.id]),
        text,
        gold_of(gold),
        _text_or_none(row.get(fields.kind)),
        _text_or_none(row.get(fields.level)),
        earlier=earlier,
        checklist=tuple(map(str, checklist)) if isinstance(checklist, list) else (str(checklist),),
    )


def read_traces(
    path: str | Path,
    where: dict[str, Any],
    malformed: Malformed = Malformed.ERROR,
    markers: ThinkMarkers = DEFAULT_MARKERS,
    *,
    kind: TraceFormat = TraceFormat.AUTO,
    fields: Fields = Fields(),
    subset: str | None = None,
    split: str | None = None,
) -> Iterator[TraceText]:
    """Traces in any of the formats of interp/data/formats.py, from a file, a folder or a data set of the hub; only rows
    whose fields equal `where`, 5 and "5" being the same.

    A row may say `finished` or `finish_reason`, and hold the `token_ids` of its text. Each trace has an id of its own:
    the second sample of a question is `ID#2`.
    """
    rows = rows_from(str(path), malformed, subset, split)
    yield from traces_of(rows, where, markers, str(path), kind=kind, fields=fields)


def traces_of(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    where: dict[str, Any],
    markers: ThinkMarkers,
    source: str,
    *,
    kind: TraceFormat = TraceFormat.AUTO,
    fields: Fields = Fields(),
) -> Iterator[TraceText]:
    """The same from numbered rows that have been read already; `source` names them in errors."""
    yield from own_ids(_traces(rows, where, markers, source, kind, fields))


def _traces(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    where: dict[str, Any],
    markers: ThinkMarkers,
    source: str,
    kind: TraceFormat,
    fields: Fields,
) -> Iterator[TraceText]:
    found: set[str] = set()
    known: set[str] = set()
    for number, row in rows:
        found |= where.keys() & row.keys()
        known |= row.keys()
        if not all(key in row and _same(row[key], value) for key, value in where.items()):
            continue
        given = [row[name] for name in (fields.model, fields.id, fields.condition) if row.get(name) is not None]
        name = "/".join(map(str, given)) or str(number)
        gold = gold_of(None if fields.gold is None else row.get(fields.gold))
        for n, sample in enumerate(samples_of(row, markers, f"{source}, line {number}", kind, fields.columns), start=1):
            yield TraceText(
                name if n == 1 else f"{name}#{n}",
                sample.text,
                gold if gold is not None else gold_of(sample.gold),
                str(number if row.get(fields.id) is None else row[fields.id]),
                _text_or_none(row.get(fields.condition)),
                _text_or_none(row.get(fields.model)),
                _text_or_none(row.get(fields.kind)),
                _text_or_none(row.get(fields.level)),
                _finished(row) if sample.finished is None else sample.finished,
                sample.turns,
                sample.response,
                _token_ids(row),
                sample.prompt,
            )
    missing = where.keys() - found
    if missing:
        raise UserError(f"{source}: no field {min(missing)!r} to select by; it has {', '.join(sorted(known))}")


def gold_of(value: Any) -> str | None:
    """A gold answer as text; None where there is none: null, NaN, an empty text, or several values."""
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, list | tuple | dict) or value != value or not str(value).strip():
        return None
    return str(value)


def _token_ids(row: Mapping[str, Any]) -> tuple[int, ...]:
    ids = row.get("token_ids")
    whole = isinstance(ids, Sequence) and not isinstance(ids, str) and all(isinstance(one, int) for one in ids)
    return tuple(ids) if whole and ids else ()


def _finished(row: Mapping[str, Any]) -> bool | None:
    """What a row says of its end: `finished`, or `finish_reason` as servers give it. None = nothing."""
    finished, reason = row.get("finished"), row.get("finish_reason")
    if isinstance(finished, bool):
        return finished
    return ended_by(reason)


def _same(value: Any, wanted: Any) -> bool:
    """Whether a field has a value, whatever kind of number or text either is."""
    return value == wanted or str(value) == str(wanted)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
