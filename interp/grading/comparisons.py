"""What grading compares in a process of its own: mathematics by math-verify, answers to reasoning-gym's tasks."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from typing import Any


def math_equal(gold: str, extracted: str) -> bool:
    """Equal as mathematics, without their units (units.py): math-verify takes letters such as t, d, c for units too.

    Only LaTeX is read. Of a text that is none math-verify would take the last number.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at each call that we do the timing
    config = LatexExtractionConfig()
    config = replace(config, normalization_config=replace(config.normalization_config, units=False))
    # Its own time limits need signals; the worker is killed from outside instead.
    one, other = (parse(f"${text}$", [config], parsing_timeout=None) for text in (gold, extracted))
    return bool(verify(one, other, timeout_seconds=None))


def task_score(extracted: str, name: str, entry: dict[str, Any], options: dict[str, Any]) -> bool:
    """Full marks by the generator of the task; it gives partial ones for the form alone."""
    return float(_generator(name, json.dumps(options)).score_answer(extracted, entry)) > 0.99


@cache
def _generator(name: str, options: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, **json.loads(options))
