"""Errors that a user can mend: each is one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar


class UserError(Exception):
    """Wrong input. The command line prints the message on one line and ends with exit code 2."""


class PassingError(UserError):
    """Nothing is wrong with the input, and the same may work later: a busy directory, an engine that is not there."""


class TraceError(UserError):
    """A text or a token sequence that is not a trace; `reason` is the same for all traces with the same fault."""

    def __init__(self, trace: str, reason: str) -> None:
        super().__init__(f"trace {trace}: {reason}")
        self.reason = reason


M = TypeVar("M", bound=StrEnum)


def member(kind: type[M], value: str, name: str) -> M:
    """A member by itself or by its value. Raises UserError, with those that there are, for anything else."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{name}={value}: use {', '.join(kind)}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names closest to `name`, as the end of an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def no_interpolation(text: str) -> str:
    """The text as OmegaConf takes it literally."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def on_command_line(option: str, value: object) -> str:
    """`option=value` as it is typed into a shell: quoted for Hydra, to which commas and brackets mean something, and
    for the shell."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_./-]*/[A-Za-z0-9_./-]*", text):
        text = no_interpolation(text)
        text = re.sub(r'(\\*)("|$)', r"\1\1\2", text)  # backslashes before a quote, the closing one too
        text = '"' + text.replace('"', r"\"") + '"'
    return shlex.quote(f"{option}={text}")


def printable(text: str) -> str:
    """The text without what a terminal would obey or cannot show: control characters, lone surrogates, and characters
    that turn the direction of writing."""
    return _UNSHOWN.sub("�", text)


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
