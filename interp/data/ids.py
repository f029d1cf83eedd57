"""Ids of examples: every table tells examples by them, so no two may share one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Any)
"""A dataclass with an `id`."""


def own_ids(items: Iterable[T]) -> Iterator[T]:
    """The items, each with an id of its own: the second `x` is `x#2`. Says how many had another's."""
    used: set[str] = set()
    again: Counter[str] = Counter()
    for item in items:
        name, n = item.id, 1
        while name in used:
            n += 1
            name = f"{item.id}#{n}"
        if n > 1:
            again[item.id] += 1
        used.add(name)
        yield item if n == 1 else replace(item, id=name)
    if again:
        shown = ", ".join(list(again)[:5]) + (", ..." if len(again) > 5 else "")
        log.warning("%d ids stand more than once, so some examples are now called %s#2 and so on: %s",
                    len(again), next(iter(again)), shown)  # fmt: skip
