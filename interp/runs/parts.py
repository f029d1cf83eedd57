"""A part: some rows of some tables in a directory of their own, which exists only once it is whole.

Runs write one for each example (store.py); responses that several runs may use are kept as parts as well
(interp/model/kept.py). Pages of tables carry checksums: what a disk has changed is an error, not another number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import UserError
from interp.runs.columns import COMMON, TABLES, table_of

log = logging.getLogger(__name__)
STATUS = "status.json"

Row = Mapping[str, Any]


def fill_part(folder: Path, about: Row, tables: Mapping[str, Sequence[Row]], common: Row) -> dict[str, Any]:
    """Writes a part into an empty folder, which the caller then moves into place in one step; `common` is what every
    row says besides. Returns what its status.json says: `about`, and how many rows each table has."""
    status = {**about, "tables": {name: len(rows) for name, rows in tables.items() if rows}}
    for name in status["tables"]:
        full = [{**row, **common} for row in tables[name]]
        pq.write_table(_checked_table(name, full), folder / f"{name}.parquet", write_page_checksum=True)
    write_json(folder / STATUS, status)
    return status


def read_status(part: Path) -> Row:
    """A part's status.json. Raises UserError for what is no whole part."""
    remedy = f"remove {part} and resume the run to measure it again"
    if not (part / STATUS).is_file():
        raise UserError(f"{part} is not a part of this run, or has lost its {STATUS}: {remedy}")
    status = read_json(part / STATUS)
    if not isinstance(status.get("tables"), dict) or "skipped" not in status:
        raise UserError(f"{part / STATUS} does not say which tables there are: {remedy}")
    for name in status["tables"]:
        if not (part / f"{name}.parquet").is_file():
            raise UserError(f"{part} has lost its table {name}: {remedy}")
    return status


def read_rows(file: Path, name: str) -> pa.Table:
    """A table of a part or of a finished run. Raises UserError for one that cannot be read."""
    schema = TABLES[name].schema if name in TABLES else None
    try:
        found = pq.read_table(file, schema=schema, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, name, error) from error
    if name in TABLES:
        lacking = sorted(set(found.column_names) - set(pq.read_schema(file).names))
        for column in (*COMMON, *TABLES[name].columns):
            if not column.null and found[column.name].null_count:
                raise UserError(f"{file} lacks values of its column {column.name}")
        if lacking:
            log.warning("%s has no %s, which count as null: another version wrote it", file, ", ".join(lacking))
    return found


def n_rows(file: Path) -> int:
    """Of a table, without reading it."""
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, file.stem, error) from error


def _unreadable(file: Path, name: str, error: Exception) -> UserError:
    return UserError(f"cannot read table {name} in {file.parent}: {str(error).splitlines()[0]}")


def _checked_table(name: str, rows: Sequence[Row]) -> pa.Table:
    """The rows as the schema says. Raises ValueError for an unknown column or a null where none may be."""
    declared = table_of(name)
    schema = declared.schema
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    found = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    for column in (*COMMON, *declared.columns):
        if not column.null and found[column.name].null_count:
            raise ValueError(f"column {column.name} of table {name} must not be null")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read {file}: it holds no JSON object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """In one step: a reader sees the old file or the new one."""
    unfinished = file.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(file)
