"""Questions and given traces: what the experiments run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from interp.data.examples import Question, Task, TraceText
from interp.data.files import Malformed, looks_like_file, read_rows, text_field
from interp.data.ids import own_ids
from interp.errors import UserError, nearest
from interp.organisms import planted, word_problems
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


def word_problem_questions(
    seed: int, split: Split, limit: int, difficulty: Mapping[str, Sequence[int]] | None = None
) -> list[Question]:
    """Problems of `reasoner`'s own kind; the level is the number of people in the story.

    `difficulty` names fields of `Difficulty`: each value is drawn with the same chance.
    """
    chosen = word_problems.difficulty_of(difficulty or {})
    problems = (word_problems.make_problem(seed, split, i, chosen) for i in range(limit))
    return [
        Question(f"{split}-{seed}-{i}", p.question, p.answer, p.kind, str(len(p.people)))
        for i, p in enumerate(problems)
    ]


def planted_questions(seed: int, limit: int) -> list[Question]:
    """Prompts for the planted model."""
    questions = (planted.make_question(seed, i) for i in range(limit))
    return [Question(f"planted-{seed}-{i}", q.question, q.answer) for i, q in enumerate(questions)]


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
    split: str = "test",
) -> list[Question]:
    """Questions from JSON lines or Parquet, or from a data set of the Hugging Face hub (or a local copy of one)."""
    local = looks_like_file(path)
    rows = read_rows(Path(path).expanduser(), malformed) if local else _hub_rows(path, subset, split)
    first = islice(rows, limit)
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


def _hub_rows(path: str, subset: str | None, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import datasets  # takes seconds

    try:
        rows: Iterable[Any] = datasets.load_dataset(path, subset, split=split)
    except Exception as error:  # its errors have no common class: offline, unknown name, unknown split, broken files
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"cannot load the data set {path}: {first}") from error
    for number, row in enumerate(rows, start=1):
        yield number, dict(row)


def read_traces(
    path: Path,
    where: dict[str, Any],
    malformed: Malformed = Malformed.ERROR,
    markers: ThinkMarkers = DEFAULT_MARKERS,
) -> Iterator[TraceText]:
    """Traces from a file of rows with `text` and, if known, `id`, `gold`, `model`, `condition`, `subject`, `level` and
    `finished` or `finish_reason`; only rows whose fields equal `where`, 5 and "5" being the same.

    Instead of `text` a row may have `messages` (the last one the assistant's, perhaps with `reasoning_content`), or
    `prompt` and `completion`. Each trace has an id of its own.
    """
    yield from traces_of(read_rows(path, malformed), where, markers, str(path))


def traces_of(
    rows: Iterable[tuple[int, Mapping[str, Any]]], where: dict[str, Any], markers: ThinkMarkers, source: str
) -> Iterator[TraceText]:
    """The same from numbered rows that have been read already; `source` names them in errors."""
    yield from own_ids(_traces(rows, where, markers, source))


def _traces(
    rows: Iterable[tuple[int, Mapping[str, Any]]], where: dict[str, Any], markers: ThinkMarkers, source: str
) -> Iterator[TraceText]:
    found: set[str] = set()
    fields: set[str] = set()
    for number, row in rows:
        found |= where.keys() & row.keys()
        fields |= row.keys()
        if not all(key in row and _same(row[key], value) for key, value in where.items()):
            continue
        given = {name: row[name] for name in ("model", "id", "condition") if row.get(name) is not None}
        question = str(given.get("id", number))
        text, turns, response = _trace_text(row, markers, f"{source}, line {number}")
        yield TraceText(
            "/".join(map(str, given.values())) or str(number),
            text,
            gold_of(row.get("gold")),
            question,
            _text_or_none(row.get("condition")),
            _text_or_none(row.get("model")),
            _text_or_none(row.get("subject")),
            _text_or_none(row.get("level")),
            _finished(row),
            turns,
            response,
            _token_ids(row),
        )
    missing = where.keys() - found
    if missing:
        raise UserError(f"{source}: no field {min(missing)!r} to select by; it has {', '.join(sorted(fields))}")


def gold_of(value: Any) -> str | None:
    """A gold answer as text; None where there is none: null, NaN, an empty text, or several values."""
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, list | tuple | dict) or value != value or not str(value).strip():
        return None
    return str(value)


def _trace_text(
    row: Mapping[str, Any], markers: ThinkMarkers, where: str
) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """(whole text, turns before the assistant's last, that last turn): the turns only where the row has messages."""
    messages, prompt = row.get("messages"), row.get("prompt")
    completion = next((row[name] for name in ("completion", "response") if isinstance(row.get(name), str)), None)
    if isinstance(row.get("text"), str):
        text = row["text"]
        cut = isinstance(prompt, str) and markers.open not in text and not text.startswith(prompt)
        return (f"{prompt}{text}" if cut else text), (), ""
    if isinstance(prompt, str) and completion is not None:
        return prompt + completion, (), ""
    if messages is None:
        return text_field(row, "text", where), (), ""
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in messages)
        or messages[-1]["role"] != "assistant"
    ):
        raise UserError(
            f"{where}: 'messages' is not a list of turns with `role` and `content`, the last the assistant's"
        )
    *earlier, last = messages
    turns = tuple((str(turn["role"]), _content(turn)) for turn in earlier)
    response, reasoning = _content(last), last.get("reasoning_content") or last.get("reasoning")
    if isinstance(reasoning, str) and markers.open not in response:
        response = f"{markers.open}\n{reasoning.strip()}\n{markers.close}\n\n{response.lstrip()}"
    elif markers.close in response and markers.open not in response:  # the chat template had opened the tag
        response = f"{markers.open}\n{response.lstrip()}"
    return "".join(f"{content}\n" for _, content in turns) + response, turns, response


def _content(turn: Mapping[str, Any]) -> str:
    """The text of a turn, which may be cut into parts."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _token_ids(row: Mapping[str, Any]) -> tuple[int, ...]:
    ids = row.get("token_ids")
    whole = isinstance(ids, Sequence) and not isinstance(ids, str) and all(isinstance(one, int) for one in ids)
    return tuple(ids) if whole and ids else ()


def _finished(row: Mapping[str, Any]) -> bool | None:
    """What a row says of its end: `finished`, or `finish_reason` as servers give it. None = nothing."""
    finished, reason = row.get("finished"), row.get("finish_reason")
    if isinstance(finished, bool):
        return finished
    return None if not isinstance(reason, str) else reason.lower() not in ("length", "max_tokens", "max_length")


def _same(value: Any, wanted: Any) -> bool:
    """Whether a field has a value, whatever kind of number or text either is."""
    return value == wanted or str(value) == str(wanted)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
