r"""Whether an answer equals the gold answer: as text where the gold answer is text, as mathematics otherwise.

Mathematics alone would take words for products of letters (`May Lee` for `Amy Lee`), dates for differences and tiny
numbers for nothing, so these are compared before math-verify sees anything.
"""

from __future__ import annotations

import re
from fractions import Fraction

TOLERANCE = Fraction(1, 10**6)
"""Relative difference up to which two numbers that are not both whole are one."""

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm|boxed)\s*\{([^{}]*)\}")
_CHOICE_GOLD = re.compile(r"\(?([A-J])\)?")
_CHOICE = re.compile(r"(?:option\s+|choice\s+)?\(?([A-J])(?:\)|[.:](?=\s|$)|$)(?:\s*.*)?", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_](?:[\w'’&./-]*\w)?(?:[\s,]+['’]?[^\W\d_](?:[\w'’&./-]*\w)?['’]?)*")
_FUNCTIONS = frozenset(["sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "oo", "inf", "infinity", "emptyset"])
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]\.?m\.?)?"
_DATE = re.compile(rf"\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}|{_TIME}", re.IGNORECASE)
_UNIT = re.compile(r"([-+]?[\d.,]*\d)\s+((?:[a-z][A-Za-z]*\s?)+)\.?")  # a name is no unit
_MULTIPLIERS = frozenset("hundred thousand million billion trillion dozen percent or to and".split())  # noqa: SIM905
_SCIENTIFIC = re.compile(r"([-+]?\d*\.?\d+)(?:[eE]([-+]?\d{1,3})|(?:\\times|\\cdot|\*|×)10\^\{?([-+]?\d{1,3})\}?)?")
_POWER = re.compile(r"([-+]?\d{1,9})\^\{?([-+]?\d{1,3})\}?")
_FRACTION = re.compile(r"([-+]?)(?:\\[dt]?frac\{(.+?)\}\{(.+?)\}$|(.+?)/(.+))")


def bare(text: str) -> str:
    """Without what only sets an answer off: bold, dollars, text commands round words, a final full stop, spaces."""
    text = text.strip().strip("*").strip()
    while (unwrapped := _WRAPPED.sub(r"\1", text)) != text:
        text = unwrapped
    text = re.sub(r"\s+", " ", text.replace("$", "").replace("~", " ")).strip()
    return re.sub(r"(?<=[^\W\d_])!$|(?<=.)\.$", "", text).rstrip()


def equal_as_text(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal, where text or numbers decide that; None where only mathematics can tell."""
    ours, theirs = bare(answer), bare(gold)
    if not ours or not theirs:
        return ours == theirs
    if ours == theirs:
        return True
    choice = _CHOICE_GOLD.fullmatch(theirs)
    if choice and (chosen := _CHOICE.fullmatch(ours)):
        return chosen[1].upper() == choice[1]
    if _is_text(theirs):
        return _folded(ours) == _folded(theirs) if _is_text(ours) or len(theirs.split()) > 1 else None
    if _DATE.fullmatch(theirs):
        return _folded(ours) == _folded(theirs)
    return _numbers_agree(ours, theirs)


def _is_text(text: str) -> bool:
    """Words, of which at least one has several letters and is no function; names, sentences, true and even."""
    words = re.findall(r"[^\W\d_]+", text)
    longer = [word for word in words if len(word) > 1]
    return bool(_WORDS.fullmatch(text)) and bool(longer) and not {word.lower() for word in words} & _FUNCTIONS


def _folded(text: str) -> str:
    return re.sub(r"(?<=\d) (?=[ap]m)", "", re.sub(r"\s+", " ", text.casefold().replace("’", "'"))).strip(" ,")


def _numbers_agree(ours: str, theirs: str) -> bool | None:
    """None unless both are numbers; the answer may have a unit in words where the gold answer has none."""
    gold = number(theirs)
    if gold is None:
        return None
    found = number(ours)
    if found is None and (unit := _UNIT.fullmatch(ours)) and not {w.lower() for w in unit[2].split()} & _MULTIPLIERS:
        found = number(unit[1])
    if found is None:
        return None
    if found == gold:
        return True
    if found.denominator == gold.denominator == 1:
        return False
    return abs(found - gold) <= TOLERANCE * max(abs(found), abs(gold))


def number(text: str) -> Fraction | None:
    r"""The exact value of a decimal, a power, a number times a power of ten, or a fraction of such; None for others."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("−", "-").replace(r"\!", "").replace(r"\,", ""))
    text = re.sub(r"\s+", "", text)
    if power := _POWER.fullmatch(text):
        return _power(int(power[1]), int(power[2]))
    if scientific := _SCIENTIFIC.fullmatch(text):
        exponent = int(scientific[2] or scientific[3] or 0)
        return Fraction(scientific[1]) * Fraction(10) ** exponent
    if fraction := _FRACTION.fullmatch(text):
        above, below = (number(part) for part in (fraction[2] or fraction[4], fraction[3] or fraction[5]))
        if above is None or not below:
            return None
        return -above / below if fraction[1] == "-" else above / below
    return None


def _power(base: int, exponent: int) -> Fraction | None:
    return None if base == 0 and exponent < 0 else Fraction(base) ** exponent
