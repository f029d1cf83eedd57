r"""Which answer a text gives: in `\boxed{}`, in what it says of "the answer", or its last number."""

from __future__ import annotations

import re
from enum import StrEnum

from interp.text.token_kinds import sentence_ends

_SAID = re.compile(r"\banswers?\*{0,2}(?:\s++(?:is|are|equals)\b\s*+:?|\s*+[:=])\*{0,2}\s*+(?=\S)", re.IGNORECASE)
"""the answer is, Answer:, **Answer:**"""
_MATHEMATICS = re.compile(r"\$\$[^$]+\$\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
_ENDS = re.compile(r"(?<=[\d)}$])[.!](?=\s)|,\s+(?:because|since|as|so|which|where|and\s+thus)\b", re.IGNORECASE)
"""Where an answer ends before its sentence does, or whatever stands behind it."""
_DISPLAY = re.compile(r"(?:\\\[|\$\$|\\\()\s*(.+?)\s*(?:\\\]|\$\$|\\\))", re.DOTALL)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_BOX = re.compile(r"\\f?boxed\s*|\\fbox\s*")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(r"[\s$,;.]*(?:and|or|\\text\{\s*(?:and|or)\s*\}|\\quad|\\,)?[\s$,;]*(?:\w\s*=\s*)?[\s$]*")
"""What may stand between the boxes of one answer that has several parts."""


class AnswerFormat(StrEnum):
    """Where an answer is looked for; each looks in the places of those before it first."""

    BOXED = "boxed"
    r"""The last `\boxed{}` alone (Paper A, section 3)."""
    STATED = "stated"
    """Then what the last "the answer is ..." says."""
    LENIENT = "lenient"
    """Then the last number."""


def extract_answer(text: str, where: AnswerFormat = AnswerFormat.STATED) -> str | None:
    r"""The answer that a text gives, nested braces of `\boxed{}` included; None if there is none: an empty box, or one
    that is never closed, gives none.

    Different boxes that stand side by side are one answer of several parts, joined by commas, but for Paper A's own
    rule.
    """
    boxes = _boxes(text)
    if where == AnswerFormat.BOXED:
        return boxes[-1][2] if boxes else None
    if boxes:
        return ", ".join(content for _, _, content in _side_by_side(text, boxes))
    said = _said(text)
    if said or where == AnswerFormat.STATED:
        return said[2] if said else None
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def answer_span(text: str) -> tuple[int, int] | None:
    """Where the answer that `extract_answer` finds in a text begins and ends in it; None if there is none."""
    if boxes := _boxes(text):
        parts = _side_by_side(text, boxes)
        start, end = (
            text.index(content, opening + len(_BOX.match(text, opening)[0]))  # type: ignore[index]
            for opening, _, content in (parts[0], parts[-1])
        )
        return start + len(parts[0][2]) - len(parts[0][2].lstrip()), end + len(parts[-1][2].rstrip())
    said = _said(text)
    return said[:2] if said else None


def _said(text: str) -> tuple[int, int, str] | None:
    """(start, end, content) of the last answer that is said: up to the end of its sentence, or to a reason for it."""
    leads = list(_SAID.finditer(text))
    ends = [end.start() for end in sentence_ends(f"{text}\n")] if leads else []
    for start in (lead.end() for lead in reversed(leads)):
        inside = [one.span() for one in _MATHEMATICS.finditer(text, start)]
        stops = [*ends, *(end.start() for end in _ENDS.finditer(text, start))]
        outside = (stop for stop in stops if stop >= start and not any(a < stop < b for a, b in inside))
        whole = text[start : min(outside, default=len(text))]
        if box := _BOX.search(whole):  # empty or never closed: else no other text is looked at
            whole = whole[: box.start()].rstrip(" $,")
        content = _bare(whole)
        if not _blank(content):
            at = text.index(content, start)
            return at, at + len(content), content
    return None


def _blank(text: str) -> bool:
    """Nothing but signs that set an answer off, or commands round nothing."""
    return not re.sub(r"\\[a-z]+\s*\{\s*\}|\\[\[\](), ]|[\s$*.,:;!`~{}]", "", text)


def _bare(said: str) -> str:
    """Without the signs that only set an answer off: bold, the dollars or brackets of mathematics."""
    said = said.strip().strip("*").strip()
    display = _DISPLAY.match(said)
    if display and not said[display.end() :].strip(" .,!"):
        return display[1].rstrip(" .,")
    inline = re.fullmatch(r"\$([^$]+)\$\.?", said)
    return inline[1].strip() if inline else said


def _side_by_side(text: str, boxes: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    found = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _BETWEEN.fullmatch(text[box[1] : found[0][0]]) or "\n\n" in text[box[1] : found[0][0]]:
            break
        found.insert(0, box)
    return found[-1:] if len({content.strip() for _, _, content in found}) == 1 else found


def _boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of every `\boxed{...}`, `\fbox{...}` and `\boxed 5` that is closed, not empty and
    in no other box."""
    found: list[tuple[int, int, str]] = []
    closed = _closing(text)
    for opening in _BOX.finditer(text):
        if found and opening.start() < found[-1][1]:
            continue
        if text[opening.end() : opening.end() + 1] != "{":
            bare = re.compile(r"-?[\w.]+").match(text, opening.end())
            if bare and opening.group().endswith(" "):
                found.append((opening.start(), bare.end(), bare.group().rstrip(".")))
            continue
        if (end := closed.get(opening.end())) is not None:
            found.append((opening.start(), end + 1, text[opening.end() + 1 : end]))
    return [box for box in found if not _blank(box[2])]


def _closing(text: str) -> dict[int, int]:
    r"""Where each brace that is closed opens, and where that is; `\{` and `\}` do not count."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    for brace in _BRACES.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closed[opened.pop()] = brace.start()
    return closed
