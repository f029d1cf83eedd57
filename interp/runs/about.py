"""What the report says of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """What the paper published for the first headline number whose name contains the key."""
