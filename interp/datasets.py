"""Questions and given traces: what the experiments run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError, nearest
from interp.files import Malformed, looks_like_file, read_rows, text_field
from interp.grading import Task
from interp.organisms import planted, word_problems
from interp.organisms.word_problems import Split
from interp.scorers import rule_of


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what is known of the right answer."""

    id: str
    text: str
    gold: str | None = None
    kind: str | None = None
    """What sort of question it is: the group that accuracies are also told by."""
    level: str | None = None
    """How difficult it is said to be."""
    task: Task | None = None
    """Who scores the answer, where there is more than one right one."""
    earlier: tuple[str, ...] = ()
    """Earlier turns of the conversation: user, assistant, user, ..."""
    checklist: tuple[str, ...] = ()
    """What a judge is to look at."""


@dataclass(frozen=True)
class TraceText:
    """A trace that somebody generated: its whole text with special tokens, and what else the file says of it."""

    id: str
    text: str
    gold: str | None = None
    question: str = ""
    """Id of the question: the same in both conditions."""
    condition: str | None = None
    writer: str | None = None
    """The model that wrote it."""
    kind: str | None = None
    level: str | None = None
    finished: bool | None = None


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
    rule_of(task)
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
    questions: list[Question] = []
    for number, row in rows:
        if limit is not None and len(questions) == limit:
            break
        questions.append(_question(row, fields, number, f"{path}, row {number}"))
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
    if gold is not None and fields.gold_after is not None:
        gold = str(gold).rpartition(fields.gold_after)[2].strip().replace(",", "")
    checklist = row.get(fields.checklist) or []
    return Question(
        str(row.get(fields.id, number)),
        text,
        None if gold is None else str(gold),
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


def read_traces(path: Path, where: dict[str, Any], malformed: Malformed = Malformed.ERROR) -> Iterator[TraceText]:
    """Traces from a file of rows with `text` and, if known, `id`, `gold`, `model`, `condition`, `subject`, `level` and
    `finished`; only rows whose fields equal `where`."""
    for number, row in read_rows(path, malformed):
        missing = where.keys() - row.keys()
        if missing:
            raise UserError(f"{path}, line {number}: no field {min(missing)!r} to select by; it has {', '.join(row)}")
        if all(row[key] == value for key, value in where.items()):
            parts = [str(row[key]) for key in ("model", "id", "condition") if key in row]
            finished = row.get("finished")
            yield TraceText(
                "/".join(parts) or str(number),
                text_field(row, "text", f"{path}, line {number}"),
                _text_or_none(row.get("gold")),
                str(row.get("id", number)),
                _text_or_none(row.get("condition")),
                _text_or_none(row.get("model")),
                _text_or_none(row.get("subject")),
                _text_or_none(row.get("level")),
                finished if isinstance(finished, bool) else None,
            )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
