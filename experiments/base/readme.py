"""The README's table of experiments, out of their records and files: `python -m experiments.base.readme` writes it."""

from __future__ import annotations

from pathlib import Path

from experiments.base.arguments import choices
from experiments.base.experiment import experiments

BEGIN, END = "<!-- experiments -->\n", "<!-- /experiments -->\n"


def table() -> str:
    """A row for each experiment, in the order of the papers: its page, and what it does."""
    lines = choices("experiment")
    found = sorted(experiments().items(), key=lambda item: item[1].about.source)
    rows = [f"| [`{name}`](docs/{name}.md) | {lines[name]} |" for name, one in found]
    return "\n".join(["| experiment | what it does |", "|---|---|", *rows]) + "\n"


def with_table(readme: str) -> str:
    """The README with the table as it is now."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    file = Path("README.md")
    file.write_text(with_table(file.read_text()))
