"""Which answer a text gives, and whether it is the right one."""

from __future__ import annotations

import re

from math_verify import parse, verify

_SAID = re.compile(r"answer (?:is|equals)\s*:?\s*(.+?)\s*(?:[.!]?\s*$|[.!]\s)", re.IGNORECASE | re.MULTILINE)


def extract_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, or else what the last `the answer is ...` says; None if there is neither."""
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    said = _SAID.findall(text)
    return said[-1] if said else None


def is_correct(extracted: str | None, gold: str) -> bool:
    """Equal as text, or as mathematics by math-verify."""
    if extracted is None:
        return False
    if extracted.strip() == gold.strip():
        return True
    return bool(verify(parse(f"${gold}$"), parse(f"${extracted}$")))


def _last_boxed(text: str) -> str | None:
    """What stands between the braces of the last closed \\boxed{...}, nested braces included."""
    start = text.rfind(r"\boxed{")
    while start >= 0:
        depth = 0
        for i in range(start + len(r"\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[start + len(r"\boxed{") : i]
        start = text.rfind(r"\boxed{", 0, start)
    return None
