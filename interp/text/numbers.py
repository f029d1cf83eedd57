"""Numbers that are written as words."""

from __future__ import annotations

SPELT = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


def in_digits(word: str) -> str:
    """The word, or the number that it spells, up to twenty: `six` and `Six` are `6`."""
    return str(SPELT.index(word.lower())) if word.lower() in SPELT else word
