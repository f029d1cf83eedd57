"""Numbers as they are written for readers, and numbers that are written as words."""

from __future__ import annotations

import math

SPELT = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


def in_digits(word: str) -> str:
    """The word, or the number that it spells, up to twenty: `six` and `Six` are `6`."""
    return str(SPELT.index(word.lower())) if word.lower() in SPELT else word


def three_digits(value: float | None, sign: str = "") -> str:
    """A number with three significant digits, so that a small one is no zero; `undefined` without one. `sign="+"`:
    with its sign."""
    if value is None or math.isnan(value):
        return "undefined"
    if value == 0:
        return f"{0:{sign}}"
    return f"{value:{sign}.0f}" if 1000 <= abs(value) < 1e6 else f"{value:{sign}#.3g}".rstrip(".")


def with_interval(value: float | None, low: float | None, high: float | None, unit: str = "", *, sign: str = "") -> str:
    """A number, its unit, and the ends of its interval where it has one. `sign="+"`: each with its sign."""
    unknown = low is None or high is None or math.isnan(low) or math.isnan(high)
    ends = "" if unknown else f" [{three_digits(low, sign)}, {three_digits(high, sign)}]"
    return f"{three_digits(value, sign)}{unit}{ends}"


def difference_text(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A difference, and the ends of its interval where it has one, each with its sign."""
    return with_interval(value, low, high, sign="+")
