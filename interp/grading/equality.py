r"""Whether an answer equals the gold answer: as text where the gold answer is text, as mathematics otherwise.

Mathematics alone would take words for products of letters (`May Lee` for `Amy Lee`), dates for differences and tiny
numbers for nothing, so these are compared before math-verify sees anything.
"""

from __future__ import annotations

import re
from fractions import Fraction

from interp.grading.units import same_unit, without_unit

TOLERANCE = Fraction(1, 10**6)
"""Relative difference up to which two numbers that are not both whole are one."""

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm|boxed)\s*\{([^{}]*)\}")
_CHOICE_GOLD = re.compile(r"\(?([A-J])\)?")
_CHOICE = re.compile(r"(?:option\s+|choice\s+)?\(?([A-J])(?:\)|[.:](?=\s|$)|$)(\s*.*)?", re.IGNORECASE)
_OTHER = r"(?:option\s+|choice\s+)?\(?([A-J])"
_JOINED = re.compile(
    rf"\s*(?:(?:[,;/&]\s*)?or\s+{_OTHER}(?![\w'’])"
    rf"|(?:[,;/&]|(?:[,;]\s*)?and\b)\s*{_OTHER}(?:\)|[.:,;]|\s*$|\s+(?:and|or)\b))",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:^|(?<=[\s),;]))(?:\(([A-Ja-j])\)|([A-Ja-j])\)|([A-J])[.:](?=\s))")
_OF_OTHERS = re.compile(r"\b(?:both|neither|either|all|none|not|than|rather|instead|because|since|as)\b", re.IGNORECASE)
"""What a choice says of others without choosing them: `D) Both (A) and (B)`."""
_WORDS = re.compile(r"[^\W\d_](?:[\w'’&./-]*\w)?(?:[\s,]+['’]?[^\W\d_](?:[\w'’&./-]*\w)?['’]?)*")
_FUNCTIONS = frozenset(["sin", "cos", "tan", "log", "ln", "exp", "sqrt", "pi", "oo", "inf", "infinity", "emptyset"])
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]\.?m\.?)?"
_DATE = re.compile(rf"\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}|{_TIME}", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])(?<!\d\s)[1-9]\d{0,2}(?:([ ,])\d{3})(?:\1\d{3})*(?![\d,]|\s\d)")
_PARTED = re.compile(r"(?=.*\d\s+[\d.])[-+\d.,/\s]+")
_PERCENT = re.compile(r"\s*(?:\\?%|\b(?:percent|per cent|pct)\b)$", re.IGNORECASE)
_SCIENTIFIC = re.compile(r"([-+]?\d*\.?\d+)(?:[eE]([-+]?\d{1,3})|(?:\\times|\\cdot|\*|×)10\^\{?([-+]?\d{1,3})\}?)?")
_POWER = re.compile(r"([-+]?)(\d{1,9})\^\{?([-+]?\d{1,3})\}?")
_FRACTION = re.compile(r"([-+]?)(?:\\[dt]?frac\{(.+?)\}\{(.+?)\}$|([^/]+)/((?:(?!\\times|\\cdot)[^/*×])+))")
_MIXED = re.compile(r"([-+]?)(\d+)(?:\s*\\[dt]?frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)\s*(\d))|\s+(\d+)/(\d+))")


def bare(text: str) -> str:
    """Without what only sets an answer off: bold, dollars, text commands round words, a final full stop, spaces."""
    text = text.strip().strip("*").strip()
    while (unwrapped := _WRAPPED.sub(r"\1", text)) != text:
        text = unwrapped
    text = re.sub(r"(?<!\\)\\[ ,;:]|~", " ", text.replace(r"\$", "").replace("$", "").replace(r"\!", ""))
    text = re.sub(r"^(?:\\approx|≈)\s*(?=\S)", "", re.sub(r"\s+", " ", text).strip())
    return re.sub(r"(?<=.)\.$", "", text).rstrip()


def equal_as_text(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal, where text or numbers decide that; None where only mathematics can tell."""
    ours, theirs = bare(answer), bare(gold)
    if not ours or not theirs:
        return ours == theirs
    if ours == theirs:
        return True
    choice = _CHOICE_GOLD.fullmatch(theirs)
    if choice and (chosen := _CHOICE.fullmatch(ours.replace("*", ""))):
        return chosen[1].upper() == choice[1] and not _chooses_another(chosen[1], chosen[2] or "")
    if _is_text(_calm(theirs)):
        ours, theirs = _calm(ours), _calm(theirs)
        return _folded(ours) == _folded(theirs) if _is_text(ours) or len(theirs.split()) > 1 else None
    if _DATE.fullmatch(theirs):
        return _folded(ours) == _folded(theirs)
    return _numbers_agree(answer, gold)


def _chooses_another(letter: str, rest: str) -> bool:
    """Whether what stands behind a choice is a second one: `(A) or (B)`, `A) 5 or B) 6`."""
    found = _JOINED.match(rest)
    listed = [(0, found[1] or found[2])] if found else []
    listed += [(one.start(), next(filter(None, one.groups()))) for one in _LISTED.finditer(rest)]
    others = [at for at, other in listed if other.isupper() == letter.isupper() and other.upper() != letter.upper()]
    return bool(others) and not _OF_OTHERS.search(rest[: others[0]])


def _calm(text: str) -> str:
    """Without a final exclamation mark, which behind words is none of mathematics."""
    return re.sub(r"(?<=[^\W\d_])!+$", "", text)


def _is_text(text: str) -> bool:
    """Words, of which at least one has several letters and is no function; names, sentences, true and even."""
    words = re.findall(r"[^\W\d_]+", text)
    longer = [word for word in words if len(word) > 1]
    return bool(_WORDS.fullmatch(text)) and bool(longer) and not {word.lower() for word in words} & _FUNCTIONS


def _folded(text: str) -> str:
    return re.sub(r"(?<=\d) (?=[ap]m)", "", re.sub(r"\s+", " ", text.casefold().replace("’", "'"))).strip(" ,")


def _numbers_agree(answer: str, gold: str) -> bool | None:
    """None unless both are numbers, perhaps with units behind them. A percentage may stand for its number (50 % for 50)
    or for its share (.5), as math-verify has it."""
    (ours, our_unit), (theirs, their_unit) = without_unit(answer), without_unit(gold)
    ours, theirs = bare(ours), bare(theirs)
    found, right = (number(_PERCENT.sub("", text)) for text in (ours, theirs))
    if right is None or found is None:
        # Numbers side by side: math-verify would add them up.
        parted = _PARTED.fullmatch(ours if found is None else "") or _PARTED.fullmatch(theirs if right is None else "")
        return _listed(ours) == _listed(theirs) if parted else None
    if not same_unit(our_unit, their_unit):
        return False
    ours_in_percent, theirs_in_percent = (bool(_PERCENT.search(text)) for text in (ours, theirs))
    if ours_in_percent == theirs_in_percent:
        return _close(found, right)
    share, other = (found / 100, right) if ours_in_percent else (right / 100, found)
    return _close(found, right) or _close(share, other)


def _close(one: Fraction, other: Fraction) -> bool:
    if one.denominator == other.denominator == 1:
        return one == other
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def _listed(text: str) -> list[str]:
    return sorted(text.replace(",", " ").split())


def number(text: str) -> Fraction | None:
    r"""The exact value of a decimal, a power, a number times a power of ten, a fraction of such, or a mixed number
    (`1 1/2`); None for others."""
    text = re.sub(r"(?<!\\)\\[ ,]", " ", text.replace("−", "-").replace(r"\!", "").replace("{,}", ",")).strip("€£¥ ")
    text = _THOUSANDS.sub(lambda group: re.sub(r"[ ,]", "", group[0]), re.sub(r"\s+", " ", text))
    if mixed := _MIXED.fullmatch(text):
        whole, over, under = (int(part) for part in mixed.groups()[1:] if part)
        return _signed(mixed[1], whole + Fraction(over, under)) if over < under else None
    text = re.sub(r"(?<![\d.]) | (?![\d.])", "", text)
    if power := _POWER.fullmatch(text):
        return _signed(power[1], _power(int(power[2]), int(power[3])))
    if scientific := _SCIENTIFIC.fullmatch(text):
        exponent = int(scientific[2] or scientific[3] or 0)
        return Fraction(scientific[1]) * Fraction(10) ** exponent
    if fraction := _FRACTION.fullmatch(text):
        above, below = (number(part) for part in (fraction[2] or fraction[4], fraction[3] or fraction[5]))
        return _signed(fraction[1], above / below) if above is not None and below else None
    return None


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if sign == "-" and value is not None else value


def _power(base: int, exponent: int) -> Fraction | None:
    return None if base == 0 and exponent < 0 else Fraction(base) ** exponent
