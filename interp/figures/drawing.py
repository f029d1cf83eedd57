"""A run's figures, one after the other: each is made when it is its turn, and one that fails spares the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from matplotlib.figure import Figure

from interp.figures import style

Tables = Callable[[str], pd.DataFrame]
"""A run's tables by name; one that the run did not write is empty."""
Drawn: TypeAlias = Figure | pd.DataFrame | str | None
"""A figure, a table to print, an HTML page, or nothing where there is nothing to show."""
Drawings: TypeAlias = Iterator[tuple[str, Callable[[], Drawn]]]
"""Names of files, without their ending, and what makes their content."""


def save_all(drawings: Drawings, directory: Path, failed: Callable[[str, Exception], None]) -> None:
    """Writes NAME.png and NAME.pdf, NAME.csv and NAME.tex, or NAME.html; `failed` hears of what cannot be drawn."""
    for name, make in drawings:
        try:
            with style.look():
                save(make(), directory, name)
        except Exception as error:
            failed(name, error)


def save(drawn: Drawn, directory: Path, name: str) -> None:
    """Writes one of them."""
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(drawn, Figure):
        style.save(drawn, directory, name)
    elif isinstance(drawn, pd.DataFrame):
        style.save_table(drawn, directory, name)
    elif drawn is not None:
        (directory / f"{name}.html").write_text(drawn, encoding="utf-8", errors="replace")
