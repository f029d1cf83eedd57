"""Numbers as readers see them: a small one is no zero."""

from __future__ import annotations

import pytest

from interp.runs.report import sentence
from interp.text.numbers import three_digits, with_interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.500"), (3.57e-4, "0.000357"), (8.7e-12, "8.70e-12"), (-9.1e-5, "-9.10e-05"), (0.0, "0"), (-0.0, "0"),
        (35.372, "35.4"), (123.4, "123"), (1234.5, "1234"), (2.5e7, "2.50e+07"), (None, "undefined"),
        (float("nan"), "undefined"),
    ],
)  # fmt: skip
def test_three_digits(value: float | None, shown: str) -> None:
    assert three_digits(value) == shown


def test_signs_and_intervals() -> None:
    assert (three_digits(0.02, "+"), three_digits(-0.02, "+")) == ("+0.0200", "-0.0200")
    assert with_interval(1e-5, None, None) == "1.00e-05"
    assert with_interval(2.0, -1e-4, 4.0, " SD") == "2.00 SD [-0.000100, 4.00]"


def test_reports_show_small_numbers() -> None:
    headline = {"name": "effect", "value": 3.57e-4, "low": 8.7e-12, "high": 1e-3, "n": 9, "control": None}
    assert sentence(headline) == "effect: <b>0.000357 [8.70e-12, 0.00100]</b> (n = 9)."
