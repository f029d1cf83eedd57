r"""Units behind an answer: `5 cm`, `5\text{ km/h}`, `12 hours`, `864 \mbox{ inches}^2`.

math-verify takes letters off the end of any answer for units (`2t` for 2, `5\text{ million}` for 5), so it is asked not
to, and what is a unit is decided here. In doubt a word is none: it may be a number, an operation or a variable.
"""

from __future__ import annotations

import re

from interp.grading.admission import MAX_LENGTH

_MEASURE_WORDS = """
nm mm cm dm m km in ft yd mi mg g kg lb lbs oz ml mL cl dl l L s sec secs min mins h hr hrs ms N J kJ W kW kWh V mV Hz
kHz MHz GHz Pa kPa mph kph kmh USD ° °C °F deg cc sq cu
millimeter centimeter meter kilometer millimetre centimetre metre kilometre inch inches foot feet yard mile milligram
gram kilogram pound ounce ton tonne milliliter millilitre liter litre cup pint quart gallon second minute hour day
week month year degree radian Celsius Fahrenheit Kelvin dollar cent euro penny pennies unit square cubic per
"""
_OTHER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand hundreds thousands mil mio lakh
lakhs crore crores dozen dozens score gross half halves third thirds quarter quarters
fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth
hundredths thousandth thousandths millionth millionths percent percentage pct
plus minus over divided multiplied squared cubed than and but root power mod modulo factorial choose double
doubled twice triple tripled halved negative below under past lim max gcd lcm alpha beta gamma delta epsilon zeta eta
theta iota kappa lambda sigma tau phi chi psi omega rho infinity infty inf
"""
_MEASURES = frozenset(_MEASURE_WORDS.split())
_NO_UNIT = frozenset(_OTHER_WORDS.split())
_BEHIND = frozenset(["squared", "cubed", "per", "C", "F", "a", "an", "of", "in", "at", "on", "the"])
"""What may stand behind the first word of a unit, and is none by itself."""
_NAMED = re.compile(r"[a-z]+illions?(?:ths?)?|(?:arc)?(?:sin|cos|tan|cot|csc|log|exp|sqrt)h?[xyz]?")
"""Numbers and functions, with a variable drawn to them or not."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_POWER = re.compile(r"(?:\^\{?-?\d\}?|[²³])$")
_TEXT = r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit)\s*"
_WRAPPED = re.compile(rf"(.*?[\w)}}\]°])\s*(?:\\[ ,;:]|~)*{_TEXT}\{{([^{{}}]*)\}}(\^\{{?-?\d\}}?|[²³])?")
_TEXT_COMMAND = re.compile(rf"{_TEXT}\{{([^{{}}]*)\}}")
_PLACE = re.compile(r"(?:(?<=[\d)}])|(?<=\\pi\b))\s*(?:\\[ ,;:]|~)*\s*(?=[A-Za-z°])")
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?")


def without_unit(text: str) -> tuple[str, str]:
    r"""An answer and the unit behind it; "" where there is none.

    `\text{...}` and plain words are read alike, but a single plain letter is a unit only behind a number: elsewhere it
    may be a variable.
    """
    if len(text) > MAX_LENGTH:
        return text, ""
    text = _DEGREES.sub("°", re.sub(r"\s+", " ", text.strip())).replace(r"\$", "").replace("$", "")
    text = text.removesuffix(".").rstrip()
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped and _is_unit(unit := f"{wrapped[2].strip()}{wrapped[3] or ''}"):
        return wrapped[1].rstrip("\\ "), unit
    for place in _PLACE.finditer(text):
        value, unit = text[: place.start()].rstrip("\\ "), _TEXT_COMMAND.sub(r"\1", text[place.end() :])
        words = _words(unit)
        apart = place.end() > place.start() or words[0] in _MEASURES
        letter = any(len(word) == 1 for word in words)
        if apart and _is_unit(unit) and not (letter and re.search(r"[^-+\d.,/\s]", value)):
            return value, unit
    return text, ""


def same_unit(one: str, other: str) -> bool:
    """Whether two units may stand for one another: a missing one for any, a measure for another (metres and m cannot be
    told from metres and feet here), other words for themselves alone."""
    if not one or not other or one.casefold().rstrip("s") == other.casefold().rstrip("s"):
        return True
    return all(_is_measure(word) for unit in (one, other) for word in _words(unit) if word not in _BEHIND)


def _words(unit: str) -> list[str]:
    return [_POWER.sub("", word).rstrip(".,") for word in re.split(r"[\s/·*~-]+|\\cdot", unit) if word]


def _is_measure(word: str) -> bool:
    return word in _MEASURES or word.lower() in _MEASURES or word.lower().removesuffix("s") in _MEASURES


def _is_unit(unit: str) -> bool:
    words = _words(unit)
    if words in ([], ["per"], ["per", "cent"]) or "times" in words[:-1]:
        return False
    return all(_may_be_unit(word) or (i > 0 and word in _BEHIND) for i, word in enumerate(words))


def _may_be_unit(word: str) -> bool:
    """A measure, or a word of three letters and more that is neither a number, an operation nor letters in a row."""
    if word in _MEASURES or (len(word) > 2 and _is_measure(word)):
        return True
    if not re.fullmatch(r"[a-z][a-z'’]{2,}", word) or word in _NO_UNIT or word in _ALPHABET or _NAMED.fullmatch(word):
        return False
    return bool(re.search("[aeiouy]", word))
