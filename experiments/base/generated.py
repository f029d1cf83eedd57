"""Where a run keeps the responses that it generates for other runs too (interp/model/kept.py)."""

from __future__ import annotations

from pathlib import Path

from interp.errors import UserError

OUTPUTS = "outputs"
"""Where runs lie that were not given a directory."""


NOWHERE = ("none", "off", "no", "false", "never")
"""What null is not called."""


def folder_of(chosen: str | None, directory: Path) -> Path | None:
    """The folder that `generated=` names; None = nowhere.

    `auto`: a run that was given a directory of its own writes nowhere else unless it is told where. Raises UserError
    for what is no folder.
    """
    if chosen is None:
        return None
    if chosen.lower() in NOWHERE:
        raise UserError(f"generated={chosen} would be a folder of that name: generated=null reads and keeps nothing")
    outputs = Path(OUTPUTS)
    if chosen == "auto":
        return outputs / ".generated" if directory.resolve().is_relative_to(outputs.resolve()) else None
    folder = Path(chosen).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"generated={chosen} is no folder: name another, or null")
    return folder
