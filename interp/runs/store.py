"""The run directory: tables with one schema, written example by example, so that a killed run can go on.

While a run goes on, each finished example is one directory under `parts/`, moved into place in one step; at the end the
parts become the tables. The same parts give the same tables, bit for bit, however often the run was interrupted.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import UserError
from interp.runs.columns import table_of
from interp.runs.directory import DATA_SET, ENVIRONMENT, LOCK, PARTS, SUMMARY, RunDirectory
from interp.runs.parts import STATUS, Row, fill_part, n_rows, read_json, read_rows, read_status, write_json

__all__ = [
    "Identity",
    "RunStore",
    "of_part",
    "read_json",
    "read_table",
    "records",
    "tables_of",
    "write_json",
    "written_tables",
]

CLOSING = "closing-"
"""Parts of steps after the examples; they sort behind the examples' numbers."""


@dataclass(frozen=True)
class Identity:
    """What every row of every table says of its run."""

    experiment: str
    model: str
    data: str
    seed: int


class RunStore:
    """One run's directory. Holds a lock on it until closed: two runs never write into one directory.

    Every part notes its tables and their numbers of rows: what is lost from a part, or a part that is lost while the
    run goes on, is an error as soon as the tables are read.
    """

    def __init__(self, directory: Path, identity: Identity, *, resume: bool = False) -> None:
        self.directory, self.identity = directory, identity
        self.claim = RunDirectory(directory, resume=resume)
        self._parts = directory / PARTS
        self._elsewhere: dict[str, Path] = {}
        try:
            if not self._parts.is_dir():
                self.claim.made(self._parts)
            self._parts.mkdir(exist_ok=True)
            for unfinished in self._parts.glob("*.tmp"):
                shutil.rmtree(unfinished)
            self._workers_instrument: dict[str, Any] = {}
            self._status = {part.name: read_status(part) for part in sorted(self._parts.iterdir())}
        except BaseException:
            self.claim.close()
            raise

    def close(self) -> None:
        self.claim.close()

    def discard(self) -> None:
        """Removes what this process has made in the directory, unless something was measured there or in runs that it
        is made of, or the run was begun by another process."""
        measured = any(status["skipped"] is None for status in self._status.values())
        if not (measured or self.claim.resumed or self.finished or any(self.directory.glob(f"*/{ENVIRONMENT}"))):
            self.claim.discard()

    @property
    def finished(self) -> bool:
        return (self.directory / SUMMARY).is_file()

    @property
    def n_measured(self) -> int:
        """Number of examples that were measured and not skipped."""
        examples = (status for name, status in self._status.items() if not name.startswith(CLOSING))
        return sum(status["skipped"] is None for status in examples)

    @property
    def n_tried(self) -> int:
        """Number of examples that were measured, those whose measures gave nothing included."""
        return sum(_tried(status) for name, status in self._status.items() if not name.startswith(CLOSING))

    def tried(self, index: int) -> bool:
        """Whether the index-th example, which is done, was measured, and not left out before."""
        return _tried(self._status[self._part(index).name])

    def has(self, index: int) -> bool:
        """Whether the index-th example of the data is done."""
        return self._part(index).name in self._status

    def has_closing(self, name: str) -> bool:
        """Whether this step after the examples is done."""
        return f"{CLOSING}{name}" in self._status

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        self.claim.made(self.directory / ENVIRONMENT)
        write_json(self.directory / ENVIRONMENT, environment)

    def note_instrument(self, checked: Mapping[str, Any]) -> None:
        """Brings environment.json up to date, where there is one, with what was compared since it was written."""
        if (self.directory / ENVIRONMENT).is_file():
            environment = self.environment()
            known = environment.get("instrument")
            if known is not None and (now := {**known, **checked, **self._workers_instrument}) != known:
                self.write_environment({**environment, "instrument": now})

    def environment(self) -> dict[str, Any]:
        return read_json(self.directory / ENVIRONMENT)

    def write(self, index: int, example: str, **tables: Sequence[Row]) -> None:
        """Saves all rows of one example at once: after a kill it is there whole or not at all."""
        self._write_part(self._part(index), {"example": example, "skipped": None}, tables)

    def write_closing(self, name: str, **tables: Sequence[Row]) -> None:
        """Saves the rows of a step after the examples, such as a ranking over all of them."""
        self._write_part(self._parts / f"{CLOSING}{name}", {"example": None, "skipped": None}, tables)

    def skip(self, index: int, example: str, reason: str, tried: bool = False, **tables: Sequence[Row]) -> None:
        """Notes that an example was left out of the measures and why; `tables` keep what is known of it. `tried`: it
        was measured, and that gave nothing."""
        self._write_part(self._part(index), {"example": example, "skipped": reason, "tried": tried}, tables)

    def look_into(self, run: Path) -> None:
        """Also reads the parts of the run that this one is a worker of; what is written goes into its own directory."""
        for part in sorted((run / PARTS).iterdir()):
            self._status[part.name] = read_status(part)
            self._elsewhere[part.name] = part

    def take(self, share: Path) -> None:
        """Moves in the parts that a worker of this run has finished in its own directory, and removes that.

        Raises UserError while the worker is still writing, and for a directory that is not of this run.
        """
        begun = (share / ENVIRONMENT).is_file()
        if begun and read_json(share / ENVIRONMENT).get("run") != self.environment()["run"]:
            raise UserError(f"{share} was not made by this run: move it away to go on")
        half_written = share / f"{ENVIRONMENT}.tmp"
        if not begun:
            half_written.unlink(missing_ok=True)
        theirs = RunStore(share, self.identity, resume=begun)
        try:
            for name, status in theirs._status.items():
                (theirs._parts / name).rename(self._parts / name)
                self._keep(self._parts / name, status)
            if begun:
                self._workers_instrument |= theirs.environment().get("instrument") or {}
                self.note_instrument({})
                (share / ENVIRONMENT).unlink()
                half_written.unlink(missing_ok=True)
            theirs._parts.rmdir()
            (share / LOCK).unlink()
        finally:
            theirs.close()  # before its directory goes: network file systems keep open files
        share.rmdir()

    def _write_part(self, part: Path, about: Row, tables: Mapping[str, Sequence[Row]]) -> None:
        unfinished = part.with_suffix(".tmp")
        unfinished.mkdir()
        status = fill_part(unfinished, about, tables, asdict(self.identity))
        unfinished.rename(part)
        self._keep(part, status)

    def _keep(self, part: Path, status: Row) -> None:
        self.claim.made(part, part / STATUS, *(part / f"{name}.parquet" for name in status["tables"]))
        self._status[part.name] = status

    def skipped(self) -> dict[str, int]:
        """How many examples were left out, by reason."""
        reasons = (status["skipped"] for status in self._status.values())
        return dict(sorted(Counter(reason for reason in reasons if reason).items()))

    def table(self, name: str) -> pd.DataFrame:
        """Everything written so far, in the order of the data. Raises UserError if some of it is gone."""
        return pa.concat_tables([*self._pieces(name), table_of(name).schema.empty_table()]).to_pandas()

    def finish(self, summary: Mapping[str, Any], draw: Callable[[], None] | None = None) -> None:
        """Turns the parts into the tables, lets `draw` draw from them, and writes the summary, which marks the run as
        finished. Raises UserError if anything that was measured is gone."""
        for name in dict.fromkeys(name for status in self._status.values() for name in status["tables"]):
            whole = self.directory / f"{name}.parquet"
            unfinished = whole.with_suffix(".tmp")
            with pq.ParquetWriter(unfinished, table_of(name).schema) as writer:
                for piece in self._pieces(name):
                    writer.write_table(piece)
            unfinished.rename(whole)
        if draw is not None:
            draw()
        rows = Counter[str]()
        for status in self._status.values():
            rows.update(status["tables"])
        write_json(self.directory / SUMMARY, {**summary, "tables": dict(sorted(rows.items()))})
        for name, status in self._status.items():
            for file in (STATUS, *(f"{table}.parquet" for table in status["tables"])):
                (self._parts / name / file).unlink(missing_ok=True)
            _remove_if_empty(self._parts / name)
        _remove_if_empty(self._parts)

    def _part(self, index: int) -> Path:
        return self._parts / f"{index:06d}"

    def _pieces(self, name: str) -> list[pa.Table]:
        """A table part by part, in the order of the data."""
        folders = {part: self._elsewhere.get(part, self._parts / part) for part in sorted(self._status)}
        for folder in folders.values():
            if not (folder / STATUS).is_file():
                raise UserError(f"{folder} is gone since it was measured: resume the run to measure it again")
        pieces = []
        for part, folder in folders.items():
            rows = self._status[part]["tables"].get(name)
            if rows is not None:
                piece = read_rows(folder / f"{name}.parquet", name)
                if piece.num_rows != rows:
                    raise UserError(f"{folder} has lost rows of table {name}: remove this folder and resume the run")
                pieces.append(piece)
        return pieces


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def read_table(directory: Path, name: str) -> pd.DataFrame:
    """A table of a finished run."""
    file = directory / f"{name}.parquet"
    if not file.is_file():
        raise UserError(f"{directory} has no table {name}: is the run finished?")
    return read_rows(file, name).to_pandas()


def tables_of(directory: Path) -> Callable[[str], pd.DataFrame]:
    """Reads the tables of a finished run by name; one that the run did not write is empty."""
    if not (directory / SUMMARY).is_file():
        raise UserError(f"{directory} holds no finished run: it has no {SUMMARY}")
    for part in directory.glob(f"*/{SUMMARY}"):
        if part.parent.name != DATA_SET:
            _check_tables(part.parent)
    _check_tables(directory)
    return written_tables(directory)


def _check_tables(directory: Path) -> None:
    """Raises UserError where a finished run lost a table or some of its rows."""
    for name, rows in read_json(directory / SUMMARY).get("tables", {}).items():  # earlier versions did not list them
        file = directory / f"{name}.parquet"
        if not file.is_file():
            raise UserError(f"{directory} has lost its table {name}")
        if n_rows(file) != rows:
            raise UserError(f"{file} has {n_rows(file)} rows and has not the {rows} that the run wrote")


def written_tables(directory: Path) -> Callable[[str], pd.DataFrame]:
    """Reads the tables of a run whose tables are written, though its summary may not be. PART/NAME is a table of a part
    of a report, which is a run in a directory of its own."""

    def read(name: str) -> pd.DataFrame:
        file, name = directory / f"{name}.parquet", name.rpartition("/")[2]
        return (read_rows(file, name) if file.is_file() else table_of(name).schema.empty_table()).to_pandas()

    return read


def of_part(table: Callable[[str], pd.DataFrame], part: str) -> Callable[[str], pd.DataFrame]:
    """Reads the tables of a part of a report by name, out of what reads those of the report."""
    return lambda name: table(f"{part}/{name}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _tried(status: Mapping[str, Any]) -> bool:
    return status["skipped"] is None or bool(status.get("tried"))
