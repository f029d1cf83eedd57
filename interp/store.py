"""The run directory: tables with one schema, written example by example, so that a killed run can go on.

While a run goes on, each finished example is one directory under `parts/`, moved into place in one step; at the end the
parts become the tables. The same parts give the same tables, bit for bit, however often the run was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.columns import COMMON
from interp.errors import UserError
from interp.schema import TABLES, arrow_schema

PARTS = "parts"
SUMMARY = "summary.json"
ENVIRONMENT = "environment.json"
LOCK = ".lock"
STATUS = "status.json"
CLOSING = "closing-"
"""Parts of steps after the examples; they sort behind the examples' numbers."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """What every row of every table says of its run."""

    experiment: str
    model: str
    data: str
    seed: int


class RunStore:
    """One run's directory. Holds a lock on it until closed: two runs never write into one directory."""

    def __init__(self, directory: Path, identity: Identity, *, resume: bool = False) -> None:
        self.directory, self.identity = directory, identity
        if resume and not (directory / ENVIRONMENT).is_file():
            raise UserError(f"nothing to resume in {directory}: it has no {ENVIRONMENT}")
        if not resume and (directory / ENVIRONMENT).exists():
            raise UserError(f"{directory} already holds a run: choose another directory or add resume={directory}")
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire()
        self._parts = directory / PARTS
        self._parts.mkdir(exist_ok=True)
        for unfinished in self._parts.glob("*.tmp"):
            shutil.rmtree(unfinished)

    def _acquire(self) -> TextIO:
        lock = (self.directory / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing into {self.directory}: wait for it or choose another") from error
        return lock

    def close(self) -> None:
        self._lock.close()

    @property
    def finished(self) -> bool:
        return (self.directory / SUMMARY).is_file()

    @property
    def n_measured(self) -> int:
        """Number of examples that were measured and not skipped."""
        examples = (part for part in self._part_directories() if not part.name.startswith(CLOSING))
        return sum(read_json(part / STATUS)["skipped"] is None for part in examples)

    def has(self, index: int) -> bool:
        """Whether the index-th example of the data is done."""
        return self._part(index).is_dir()

    def has_closing(self, name: str) -> bool:
        """Whether this step after the examples is done."""
        return (self._parts / f"{CLOSING}{name}").is_dir()

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self.directory / ENVIRONMENT, environment)

    def note_instrument(self, checked: Mapping[str, Any]) -> None:
        """Brings environment.json up to date, where there is one, with what was compared since it was written."""
        if (self.directory / ENVIRONMENT).is_file():
            environment = self.environment()
            if environment.get("instrument") is not None and environment["instrument"] != checked:
                self.write_environment({**environment, "instrument": {**environment["instrument"], **checked}})

    def environment(self) -> dict[str, Any]:
        return read_json(self.directory / ENVIRONMENT)

    def write(self, index: int, example: str, **tables: Sequence[Row]) -> None:
        """Saves all rows of one example at once: after a kill it is there whole or not at all."""
        self._write_part(self._part(index), {"example": example, "skipped": None}, tables)

    def write_closing(self, name: str, **tables: Sequence[Row]) -> None:
        """Saves the rows of a step after the examples, such as a ranking over all of them."""
        self._write_part(self._parts / f"{CLOSING}{name}", {"example": None, "skipped": None}, tables)

    def skip(self, index: int, example: str, reason: str, **tables: Sequence[Row]) -> None:
        """Notes that an example was left out of the measures and why; `tables` keep what is known of it."""
        self._write_part(self._part(index), {"example": example, "skipped": reason}, tables)

    def _write_part(self, part: Path, status: Row, tables: Mapping[str, Sequence[Row]]) -> None:
        unfinished = part.with_suffix(".tmp")
        unfinished.mkdir()
        for name, rows in tables.items():
            if rows:
                full = [{**row, **asdict(self.identity)} for row in rows]
                pq.write_table(_checked_table(name, full), unfinished / f"{name}.parquet")
        write_json(unfinished / STATUS, status)
        unfinished.rename(part)

    def skipped(self) -> dict[str, int]:
        """How many examples were left out, by reason."""
        reasons = (read_json(part / STATUS)["skipped"] for part in self._part_directories())
        return dict(sorted(Counter(reason for reason in reasons if reason).items()))

    def table(self, name: str) -> pd.DataFrame:
        """Everything written so far, in the order of the data."""
        return _read_rows(self._files(name), name).to_pandas()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Turns the parts into the tables and writes the summary, which marks the run as finished."""
        for name in TABLES:
            if files := self._files(name):
                whole = self.directory / f"{name}.parquet"
                unfinished = whole.with_suffix(".tmp")
                with pq.ParquetWriter(unfinished, arrow_schema(name)) as writer:
                    for file in files:
                        writer.write_table(pq.read_table(file, schema=arrow_schema(name)))
                unfinished.rename(whole)
        write_json(self.directory / SUMMARY, summary)
        shutil.rmtree(self._parts)

    def _part(self, index: int) -> Path:
        return self._parts / f"{index:06d}"

    def _part_directories(self) -> list[Path]:
        return sorted(p for p in self._parts.iterdir() if p.suffix != ".tmp")

    def _files(self, name: str) -> list[Path]:
        return [file for part in self._part_directories() if (file := part / f"{name}.parquet").is_file()]


def read_table(directory: Path, name: str) -> pd.DataFrame:
    """A table of a finished run."""
    file = directory / f"{name}.parquet"
    if not file.is_file():
        raise UserError(f"{directory} has no table {name}: is the run finished?")
    return _read_rows([file], name).to_pandas()


def tables_of(directory: Path) -> Callable[[str], pd.DataFrame]:
    """Reads the tables of a finished run by name; one that the run did not write is empty."""
    if not (directory / SUMMARY).is_file():
        raise UserError(f"{directory} holds no finished run: it has no {SUMMARY}")

    def table(name: str) -> pd.DataFrame:
        file = directory / f"{name}.parquet"
        return _read_rows([file] if file.is_file() else [], name).to_pandas()

    return table


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    return content


def _read_rows(files: Sequence[Path], name: str) -> pa.Table:
    schema = arrow_schema(name)
    try:
        return pa.concat_tables([pq.read_table(file, schema=schema) for file in files] or [schema.empty_table()])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot read table {name} in {files[0].parent.parent}: {error}") from error


def _checked_table(name: str, rows: Sequence[Row]) -> pa.Table:
    """The rows as the schema says. Raises ValueError for an unknown column or a null where none may be."""
    schema = arrow_schema(name)
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    for column in (*COMMON, *TABLES[name]):
        if not column.null and table[column.name].null_count:
            raise ValueError(f"column {column.name} of table {name} must not be null")
    return table


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """In one step: a reader sees the old file or the new one."""
    unfinished = file.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    unfinished.replace(file)
