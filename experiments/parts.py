"""The experiments that a report is made of, loaded when they are run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from interp.report_text import ABOUT

EXPERIMENTS: dict[str, Callable[[], Any]] = {name: partial(import_module, f"experiments.{name}") for name in ABOUT}
