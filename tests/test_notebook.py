"""The notebook runs from top to bottom, and uses the library alone."""

from __future__ import annotations

import ast
import json
from contextlib import redirect_stdout
from io import StringIO

from matplotlib.figure import Figure

from tests.command import ROOT


def test_the_notebook_runs() -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    names: dict[str, object] = {}
    printed, shown = [], []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert "experiments" not in source
            assert cell["outputs"] == []
            *body, last = ast.parse(source).body
            out = StringIO()
            with redirect_stdout(out):
                exec(compile(ast.Module(body, []), cell["id"], "exec"), names)
                if isinstance(last, ast.Expr):
                    shown.append(eval(compile(ast.Expression(last.value), cell["id"], "eval"), names))
                else:
                    exec(compile(ast.Module([last], []), cell["id"], "exec"), names)
            printed.append(out.getvalue())
    assert "<think>" in shown[0]._repr_html_().replace("&lt;", "<").replace("&gt;", ">")
    assert sum(isinstance(one, Figure) for one in shown) == 3
    assert "log p" in printed[2]
    assert "largest NLD 0.96: layer 1" in printed[3]
    assert "gamma 1.50" in printed[5] or "gamma 1.25" in printed[5]
