"""The notebook runs from top to bottom, and uses the library alone."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO

from tests.command import ROOT


def test_the_notebook_runs() -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    names: dict[str, object] = {}
    printed = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert "experiments" not in source
            assert cell["outputs"] == []
            out = StringIO()
            with redirect_stdout(out):
                exec(compile(source, cell["id"], "exec"), names)
            printed.append(out.getvalue())
    assert "<think>" in printed[0]
    assert "log p" in printed[2]
    assert "gamma 1.50" in printed[3] or "gamma 1.25" in printed[3]
