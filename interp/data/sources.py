"""Where rows come from: files, data sets saved to disk, folders of thought-anchors' solutions, data sets of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from interp.data.files import Malformed, looks_like_file, read_rows
from interp.errors import UserError

SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder of `save_to_disk` is known."""
INSPECT = ".eval"
"""What Inspect's logs end in."""
BASE_SOLUTION, PROBLEM = "base_solution.json", "problem.json"


def rows_from(
    path: str, malformed: Malformed = Malformed.ERROR, subset: str | None = None, split: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, fields) of every row. `split` None = the only one, or `train`, or `test`.

    Raises UserError for what is not there or cannot be read.
    """
    place = Path(path).expanduser()
    if place.suffix == INSPECT or (place.is_dir() and any(place.glob(f"*{INSPECT}"))):
        return _inspect_logs([place] if place.is_file() else sorted(place.glob(f"*{INSPECT}")), path)
    if place.is_dir():
        if any((place / name).is_file() for name in SAVED):
            return _rows(path, lambda datasets: datasets.load_from_disk(str(place)), split)
        if any(True for _ in place.rglob(BASE_SOLUTION)):
            return _solutions(place)
        return _rows(path, lambda datasets: datasets.load_dataset(str(place), subset, split=split), split)
    if looks_like_file(path) or path.startswith((".", "/", "~")):
        return read_rows(place, malformed)
    return _rows(path, lambda datasets: datasets.load_dataset(path, subset, split=split), split)


def _rows(path: str, load: Any, split: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    import datasets  # takes seconds

    try:
        found: Any = load(datasets)
        if isinstance(found, dict):
            found = found[split if split is not None else _only(found)]
        rows: Iterable[Any] = found
    except Exception as error:  # its errors have no common class: offline, unknown name, unknown split, broken files
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"cannot load the data set {path}: {first}") from error
    for number, row in enumerate(rows, start=1):
        yield number, dict(row)


def _only(splits: dict[str, Any]) -> str:
    chosen: str = next((name for name in ("train", "test") if name in splits and len(splits) > 1), next(iter(splits)))
    return chosen


def _solutions(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Base solutions of thought-anchors' data, with the gold answer and the name of their problem."""
    for number, file in enumerate(sorted(folder.rglob(BASE_SOLUTION)), start=1):
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            beside = file.parent / PROBLEM
            problem = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file}: {error}") from error
        if not isinstance(row, dict) or not isinstance(problem, dict):
            raise UserError(f"cannot read {file}: it holds no JSON object")
        known = {"gt_answer": problem.get("gt_answer"), "level": problem.get("level"), "subject": problem.get("type")}
        yield number, {"id": file.parent.name, **{name: value for name, value in known.items() if value}, **row}


def _inspect_logs(files: Sequence[Path], path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The samples of Inspect's logs, by its own reader: messages, target, model, and why each one ended."""
    if not files:
        raise UserError(f"there is no file {path}: set data.path")
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise UserError(f"reading {path} needs the package inspect-ai: pip install inspect-ai") from error
    number = 0
    for file in files:
        try:
            log = read_eval_log(str(file))
        except Exception as error:  # broken archives end in errors of many kinds
            first = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise UserError(f"cannot read {file}: {first}") from error
        for sample in log.samples or ():
            number += 1
            target = sample.target if isinstance(sample.target, str) else list(sample.target)
            yield (
                number,
                {
                    "id": str(sample.id),
                    "messages": [_message(one) for one in sample.messages],
                    "gold": target,
                    "model": log.eval.model,
                    "finish_reason": sample.output.stop_reason if sample.output.choices else None,
                },
            )


def _message(message: Any) -> dict[str, Any]:
    """An Inspect message as a chat message, its reasoning parted from its text."""
    parts = message.content if isinstance(message.content, list) else []
    text = "".join(part.text for part in parts if part.type == "text") if parts else message.content
    reasoning = "".join(part.reasoning for part in parts if part.type == "reasoning")
    return {"role": message.role, "content": text, **({"reasoning_content": reasoning} if reasoning else {})}
