r"""Where a text begins to give its answer: what is cut off so that a pair's own phrase and ending can stand there.

Paper A's authors drop the last block between blank lines of an answer. A rule that cuts at single lines leaves
`\boxed{X}` in half of R1's answers, and so tells the answer that the ending asks for.
"""

from __future__ import annotations

import re

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_STATES = re.compile(
    r"\\f?boxed|\b(?:final\s+)?answer\W{0,4}\s*(?:is|equals|:|=)|(?:^|\n)\W*(?:final\s+)?answer\W*(?:\n|$)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"(?:^|\n|(?<=\.)\s)[^\w\n]*(?:final\s+answer|answer)?[^\w\n]*$", re.IGNORECASE)
_AFTER_BOX = re.compile(r"[^.!?\n]*[\s.,;:!\\\])}$*]*")


def states_answer(text: str) -> bool:
    r"""Whether a text gives an answer as such: in `\boxed{}`, by "the answer is", or under a heading."""
    return bool(_STATES.search(text))


def before_answer(text: str) -> str:
    """An answer up to where it gives its result: without its last block, and without all from the first block on that
    states the answer.

    Blocks stand between blank lines, as in the authors' code; of one line alone they are its sentences. The whitespace
    behind what is kept is left there: nothing is kept of a text that is one block.
    """
    border = _BLANK if "\n" in text.strip() else _SENTENCE_END
    start = len(text) - len(text.lstrip())
    end = len(text.rstrip())
    borders = [m for m in border.finditer(text, start, end)]
    kept = 0
    for here, m in enumerate([*borders, None]):
        block = text[borders[here - 1].end() if here else start : m.start() if m else end]
        if m is None or states_answer(block):
            break
        kept = m.start()
    return text[:kept]


def before_closing(text: str, opening: str | None = None) -> str:
    r"""Reasoning without a closing sentence that gives the answer in `\boxed{}` or begins with `opening`, and without
    the heading or the bare signs that stood before it."""
    whole = text.rstrip()
    cut = _boxed_at_end(whole)
    if cut is None and opening:
        last = _last_sentence(whole)
        cut = last if whole[last:].startswith(opening) else None
    if cut is None:
        return whole
    kept = whole[:cut].rstrip()
    while (heading := _HEADING.search(kept)) and heading.group().strip():
        kept = kept[: heading.start()].rstrip()
    return kept


def _last_sentence(text: str) -> int:
    """Where the last sentence or line begins."""
    return max((m.end() for m in _SENTENCE_END.finditer(text)), default=0)


def _boxed_at_end(text: str) -> int | None:
    """Where the last sentence begins, if it holds a box; None if it does not."""
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    depth = 0
    for i in range(at + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            break
    if not _AFTER_BOX.fullmatch(text, i + 1):
        return None
    return _last_sentence(text[:at])
