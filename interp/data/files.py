"""Rows of the files that users bring: JSON lines or Parquet, named by line or row where something is wrong."""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from interp.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


class Malformed(StrEnum):
    """What happens to a line that is not a JSON object."""

    ERROR = "error"
    """Nothing is read, and the line is named."""
    SKIP = "skip"
    """It is left out, and said so; the others are read."""


def looks_like_file(path: str) -> bool:
    """Whether a path names a file of a known kind, there or not, rather than a data set on the hub."""
    return path.endswith(SUFFIXES) or Path(path).expanduser().is_file()


def read_rows(path: Path, malformed: Malformed = Malformed.ERROR) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, its fields). Raises UserError for what cannot be read.

    What a file is, it says itself: gzip and Parquet are known by their first bytes, a JSON array by its bracket.
    """
    yield from _whole(path, _parquet_rows(path) if _begins(path, b"PAR1") else _json_rows(path, malformed, SKIPS))


def json_lines(
    path: Path, malformed: Malformed = Malformed.ERROR, remedy: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of each line that is not blank, or of each element of a file that is one JSON array.

    `remedy` ends the error about a malformed line.
    """
    yield from _whole(path, _json_rows(path, malformed, remedy))


SKIPS = "; data.malformed=skip reads the others"
_SURROGATE = re.compile("[\ud800-\udfff]")


def _whole(path: Path, rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with every lone surrogate replaced: no tokenizer and no table can hold one."""
    mended = []
    for number, row in rows:
        plain = _plain(row)
        if plain != row:
            mended.append(number)
        yield number, plain
    if mended:
        log.warning(
            "%s: %d rows hold parts of characters, each one is now \ufffd: %s", path, len(mended), _numbers(mended)
        )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


def _begins(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        raise UserError(f"there is no file {path}: set data.path")
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _json_rows(path: Path, malformed: Malformed, remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number, left_out = 0, []
    zipped = _begins(path, b"\x1f\x8b")
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if zipped else path.open(encoding="utf-8-sig") as lines:
            for number, item in _items(lines):
                try:
                    yield number, _object(item)
                except ValueError as error:
                    if malformed == Malformed.ERROR:
                        raise UserError(f"{path}, line {number}: {error}{remedy}") from error
                    left_out.append(number)
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"cannot read {path} after line {number}: {error}") from error
    if left_out:
        log.warning("%s: %d lines are not JSON objects and were left out: %s", path, len(left_out), _numbers(left_out))


def _items(lines: TextIO) -> Iterator[tuple[int, Any]]:
    """(number, line) of the lines that are not blank; of a file that is one array, (number, element)."""
    number, begun = 0, False
    for number, line in enumerate(lines, start=1):
        if not begun and line.lstrip().startswith("["):
            rest = lines.read()
            try:
                yield from enumerate(json.loads(line + rest), start=1)
            except (ValueError, RecursionError):  # lines after all
                later = enumerate((line + rest).splitlines(), start=number)
                yield from ((n, text) for n, text in later if text.strip())
            return
        if line.strip():
            begun = True
            yield number, line


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def _object(item: Any) -> dict[str, Any]:
    try:
        row = json.loads(item) if isinstance(item, str) else item
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except Exception as error:  # broken bytes end in errors of many kinds
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read {path} after row {number}: {first}") from error


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be there and be a text. `where` names the row in the error."""
    if not isinstance(row.get(name), str):
        raise UserError(f"{where}: no text field {name!r}; it has {', '.join(row) or 'no fields'}")
    return str(row[name])
