"""Rows of the files that users bring: JSON lines or Parquet, named by line or row where something is wrong."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
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
    """(line or row number from 1, its fields). Raises UserError for what cannot be read."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: set data.path")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from json_lines(path, malformed, "; data.malformed=skip reads the others")


def json_lines(
    path: Path, malformed: Malformed = Malformed.ERROR, remedy: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank. `remedy` ends the error about a malformed line."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: set data.path")
    number, left_out = 0, []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, _object(line)
                except ValueError as error:
                    if malformed is Malformed.ERROR:
                        raise UserError(f"{path}, line {number}: {error}{remedy}") from error
                    left_out.append(number)
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} after line {number}: {error}") from error
    if left_out:
        shown = ", ".join(map(str, left_out[:10])) + (", ..." if len(left_out) > 10 else "")
        log.warning("%s: %d lines are not JSON objects and were left out: %s", path, len(left_out), shown)


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
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
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot read {path} after row {number}: {str(error).splitlines()[0]}") from error


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be there and be a text. `where` names the row in the error."""
    if not isinstance(row.get(name), str):
        raise UserError(f"{where}: no text field {name!r}; it has {', '.join(row) or 'no fields'}")
    return str(row[name])
