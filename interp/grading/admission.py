"""Allow-lists: which text from a model may reach code that parses it.

Scorers and computer algebra evaluate what they parse, so an answer passes one of these lists first: numbers, operators,
brackets, known names. None admits quotes, attribute access or names of the interpreter. What is not admitted is not the
answer to such a question, and no parser sees it.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

MAX_LENGTH = 2000
"""Characters of an answer that is compared as more than text."""
_FUNCTIONS = """
sin cos tan sec csc cot asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt Abs abs pi oo Integral
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Names of more than one letter that algebra may hold."""

_NUMBER = r"(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?![\w.])"
_ARITHMETIC = re.compile(rf"(?:{_NUMBER}|[-+/()\s]|\*(?!\*))+")
_ALGEBRA = re.compile(rf"(?:{_NUMBER}|(?P<name>[A-Za-z]+)(?![\w.])|\*\*|[-+*/(),\s])+")
_NAME = re.compile(r"[A-Za-z]+")
_POWER = re.compile(r"\*\*\s*(?:[-+]?\s*\d{1,3}(?![\w.])|[A-Za-z](?!\w)|\((?:(?!\d{4})[^()*]|\*(?!\*))*\))(?!\s*\*\*)")
_WORDS = re.compile(r"[\w\s-]*")
_SIGNS = frozenset("\\{}[]()+-*/^_=<>,.;:!|&%$~@#?")
_CATEGORIES = ("L", "M", "N", "Sm", "Sc", "So", "Zs", "Cc")
_ATTRIBUTE = re.compile(r"[\w)\]}]\.[^\W\d]|__")


class Admits(StrEnum):
    """What may reach a parser."""

    WORDS = "words"
    """Letters, digits, spaces and minus signs: nothing that can be called."""
    ARITHMETIC = "arithmetic"
    """Numbers, + - * / and round brackets; no powers."""
    ALGEBRA = "algebra"
    """The same with **, commas, variables of one letter and FUNCTIONS. Numbers in an exponent have at most three
    digits, and no power has a power for its exponent."""
    MATHEMATICS = "mathematics"
    """LaTeX or plain notation for math-verify: letters, numbers, signs; no quotes and no attribute access."""


def admitted(text: str, what: Admits) -> bool:
    """Whether a text may reach a parser that takes `what`."""
    if len(text) > MAX_LENGTH:
        return False
    match what:
        case Admits.WORDS:
            return bool(_WORDS.fullmatch(text)) and "__" not in text
        case Admits.ARITHMETIC:
            return bool(_ARITHMETIC.fullmatch(text))
        case Admits.ALGEBRA:
            known = all(len(name) == 1 or name in FUNCTIONS for name in _NAME.findall(text))
            return bool(_ALGEBRA.fullmatch(text)) and known and len(_POWER.findall(text)) == text.count("**")
        case Admits.MATHEMATICS:
            plain = all(c in _SIGNS or unicodedata.category(c).startswith(_CATEGORIES) for c in text)
            return plain and not _ATTRIBUTE.search(text)
