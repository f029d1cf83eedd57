"""Experiments by name, loaded when they are run: some need packages that are not always installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from experiments.base.arguments import choices
from interp.errors import UserError, nearest

EXTRAS = {"trl": "rl"}
"""Packages that some experiments need, and the extra that installs them."""


def experiment(name: str) -> Any:
    """The module of an experiment: run, plan, OPTIONS. Raises UserError if there is none, or a package is missing."""
    if name not in (known := choices("experiment")):
        raise UserError(f"experiment.name={name} is not an experiment; {nearest(str(name), known)}")
    try:
        return import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        install = f"pip install 'anchorlens[{EXTRAS[error.name]}]'"
        raise UserError(f"{name} needs the package {error.name}: run `{install}`") from error
