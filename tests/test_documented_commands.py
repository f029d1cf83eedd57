"""Every command of the documentation is one that a shell and Hydra can read, with groups that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.base.arguments import check_arguments
from tests.command import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BEGIN = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*torchrun .*)?(?:anchorlens|python -m experiments\.run) ")
"""Also behind environment variables."""
OF_CHOICE = re.compile(r"\b(experiment|model|data)=(\.\.\.|[A-Z]+)(?=\s|$)")
"""Any name: the shipped ones are checked where they stand."""


def commands(page: Path) -> list[str]:
    """The commands of a page's code, as a shell reads them: blocks, with their continued lines, and code in a line."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return [BEGIN.sub("", line) for line in (*lines, *inline) if BEGIN.match(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_can_be_typed(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(OF_CHOICE.sub("seed=0", command), comments=True)
        if {"--help", "--version"} & set(words):
            continue
        stop = next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))
        try:
            read(words[:stop])
        except Exception as error:
            raise AssertionError(f"{page.name}: {command}: {error}") from error


def read(words: list[str]) -> None:
    """As the command line reads them: only of a sweep may an option have several values."""
    check_arguments(words)
    given = [word for word in words if not word.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(given)
    if not {"-m", "--multirun"} & set(words) and all(one.key_or_group != "study" for one in overrides):
        several = [one.input_line for one in overrides if one.is_sweep_override()]
        assert not several, f"ambiguous: {several}"


def test_the_commands_are_found() -> None:
    found = {page.stem: commands(page) for page in PAGES}
    assert sum(map(len, found.values())) > 80
    (quoted,) = (one for one in found["key_tokens"] if "paraphrase" in one)
    assert "experiment.paraphrase=In other words, {}" not in shlex.split(quoted)
    assert 'experiment.paraphrase="In other words, {}"' in shlex.split(quoted)


def test_one_that_only_the_shell_can_read_is_found() -> None:
    with pytest.raises(AssertionError, match="ambiguous"):
        read(shlex.split("experiment=key_tokens experiment.paraphrase='In other words, {}'"))
