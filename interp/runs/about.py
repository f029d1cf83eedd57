"""What the report says of an experiment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class About:
    """Its question, what was published, and how its figures are called."""

    title: str
    question: str
    source: str = ""
    """Where in the papers."""
    published: str = ""
    """What the paper found, on its own models."""
    figures: dict[str, str] = field(default_factory=dict)
    """Captions of figures and tables by the name of their file; further ones are shown behind these by their names."""
    beside: dict[str, str] = field(default_factory=dict)
    """What the paper published for the first headline number whose name contains the key; * stands for what varies."""

    def placed(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """The headline numbers that something published stands beside, by name: its key, and what was published."""
        found, left = {}, dict(self.beside)
        for name in names:
            key = next((key for key in left if fnmatchcase(name, f"*{key}*")), None)
            if key is not None:
                found[name] = key, left.pop(key)
        return found
