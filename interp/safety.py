"""Nothing is ever unpickled: a pickle runs whatever code its maker put into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from interp.errors import UserError


@contextmanager
def no_pickles(what: str) -> Iterator[None]:
    """While open, whatever would read a pickle raises UserError instead, however deep in a library it lies."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError(f"{what} holds a pickle, which could run anything: only safetensors are read")

    with ExitStack() as stack:
        for name in ("torch.load", "pickle.load", "pickle.loads"):
            stack.enter_context(patch(name, refuse))
        yield
