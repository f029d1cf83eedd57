"""Tables of finished runs side by side, for notebooks."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.errors import UserError
from interp.runs.directory import ENVIRONMENT, SUMMARY
from interp.runs.names import measured
from interp.runs.store import read_json, read_table, tables_of


def finished_run(directory: str | Path | None) -> Path:
    """The directory that `run=` names. Raises UserError if it is not that of a finished run."""
    if directory is None:
        raise UserError("set run=DIR to the directory of a finished run")
    source = Path(directory)
    if not (source / ENVIRONMENT).is_file():
        raise UserError(f"there is no run in {source}: it has no {ENVIRONMENT}")
    tables_of(source)
    return source


SEVERAL = "several runs"
"""What tables and pages call the model and the data of an experiment that reads more than one run."""
GIVEN_TEXTS = "given texts"
"""What they call the model of texts that no model reads."""


def experiment_of(environment: Mapping[str, Any]) -> str:
    """The experiment of a run with this environment.json."""
    return str(environment["options"]["experiment"]["name"])


def measured_by(environment: Mapping[str, Any]) -> tuple[str, str]:
    """The model and the data of a run with this environment.json, as tables and pages call them."""
    told = environment.get("measured")  # runs of earlier versions have their options alone
    return measured(environment["options"]) if told is None else (told["model"], told["data"])


def measured_in(directory: str | Path | None) -> tuple[str, str]:
    """The same of a run's directory; SEVERAL for one that holds runs, or none at all."""
    if directory is None or not (Path(directory) / ENVIRONMENT).is_file():
        return SEVERAL, SEVERAL
    environment = read_json(Path(directory) / ENVIRONMENT)
    return measured_by(environment) if "options" in environment else (SEVERAL, SEVERAL)


class Runs(Mapping[str, pd.DataFrame]):
    """The tables of some runs by name, each row with its run's directory in the column `run`. What a table itself has
    in a column of that name is in `run_label`."""

    def __init__(self, directories: list[Path]) -> None:
        self.directories = directories
        self._names = sorted({file.stem for directory in directories for file in directory.glob("*.parquet")})

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._names:
            raise KeyError(f"no run has a table {name}; there are {', '.join(self._names)}")
        having = [directory for directory in self.directories if (directory / f"{name}.parquet").is_file()]
        tables = (read_table(one, name).rename(columns={"run": "run_label"}).assign(run=str(one)) for one in having)
        return pd.concat(tables, ignore_index=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def headlines(self) -> pd.DataFrame:
        """Every headline number of every run, with its control and its difference from that: `value`, `low`, `high`,
        `n`, `control` (its kind), `control_value` and so on, `difference`, `difference_low` and so on, `test`, `p`."""
        return pd.DataFrame(
            [
                {"run": str(one), **_flat(headline)}
                for one in self.directories
                for headline in read_json(one / SUMMARY)["headlines"]
            ]
        )

    def __repr__(self) -> str:
        return f"{len(self.directories)} runs with tables {', '.join(self._names)}"


def _flat(headline: Mapping[str, Any]) -> dict[str, Any]:
    """A headline number of summary.json in one row; null where it has no control, or was not compared."""
    control, compared = headline["control"] or {}, headline.get("comparison") or {}
    ends = ("low", "high", "n")
    return {
        **{key: headline[key] for key in ("name", "value", *ends)},
        "control": control.get("kind"),
        **{f"control_{key}": control.get(key) for key in ("value", *ends)},
        "difference": compared.get("value"),
        **{f"difference_{key}": compared.get(key) for key in ends},
        **{key: compared.get(key) for key in ("test", "p")},
    }


def load(pattern: str | Path) -> Runs:
    """The finished runs whose directories match a pattern such as `outputs/*/*-heads-*`. Raises UserError for none, and
    for one that lost a table."""
    found = [Path(one) for one in sorted(glob.glob(str(pattern)))]  # noqa: PTH207 - may be absolute
    finished = [one for one in found if (one / ENVIRONMENT).is_file() and (one / SUMMARY).is_file()]
    if not finished:
        raise UserError(f"{pattern} names no finished run ({len(found)} directories match)")
    for one in finished:
        tables_of(one)
    return Runs(finished)
