"""Finished runs in a tracker: headline numbers, figures and tables go to Weights & Biases or trackio, if asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from interp.errors import UserError
from interp.runs.names import measured

log = logging.getLogger(__name__)

MOST_ROWS = 10_000
"""Longer tables are not sent: they are files of the run."""


class Tracker(StrEnum):
    """Who keeps track."""

    WANDB = "wandb"
    TRACKIO = "trackio"


def require_tracker(tracker: Tracker) -> None:
    """Raises UserError where its package is missing."""
    if find_spec(tracker) is None:
        raise UserError(f"track={tracker} needs the package {tracker}: pip install 'anchorlens[{tracker}]'")


def track(
    tracker: Tracker, project: str, directory: Path, options: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Sends a finished run: its options as configuration, every headline number, figures as pictures, short tables."""
    module = import_module(tracker)
    name = f"{options['experiment']['name']}-{measured(options)[0]}-{directory.name}"
    module.init(project=project, name=name, config=dict(options))
    try:
        module.log(numbers(summary))
        pictures = {f"figures/{file.stem}": module.Image(str(file)) for file in sorted(directory.glob("figures/*.png"))}
        if pictures:
            module.log(pictures)
        for file in sorted(directory.glob("*.parquet")):
            table = pd.read_parquet(file)
            if len(table) <= MOST_ROWS:
                module.log({f"tables/{file.stem}": module.Table(dataframe=_plain(table))})
    finally:
        module.finish()


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Every headline number with the ends of its interval, by name."""
    found = {}
    for headline in summary["headlines"]:
        for key, name in (("value", ""), ("low", "/low"), ("high", "/high")):
            if headline[key] is not None:
                found[f"{headline['name']}{name}"] = float(headline[key])
    return found


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Lists as text: trackers keep numbers and text alone."""
    nested = [name for name in table if len(table) and not pd.api.types.is_scalar(table[name].iloc[0])]
    return table.assign(**{str(name): table[name].map(str) for name in nested})
