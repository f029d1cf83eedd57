"""The route from the reasoning to the answer as a graph of heads and MLPs, from edges.parquet."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from interp.figures import style
from interp.patching.route import ANSWER, MLP

COLOURS = {"q": style.BLUE, "k": style.GREEN, "v": style.ORANGE, MLP: style.PURPLE, ANSWER: style.RED}
LEAST = 0.01
"""Edges of less NLD, in size, are not drawn."""


def route(edges: pd.DataFrame, shape: tuple[int, int], model: str) -> Figure | None:
    """Every edge that was patched and has an effect, as a line from its sender to its receiver, of the first pair.

    Width: size of its NLD; dashed: it works against the clean answer. Receivers of k and v stand at the first query
    head that reads the key-value head, MLPs in a column of their own. None where no edge has an effect.
    """
    if edges.empty:
        return None
    example = edges["example"].iloc[0]
    strong = edges[(edges["example"] == example) & (edges["value"].abs() >= LEAST)]
    if strong.empty:
        return None
    n_layers, n_heads = shape
    figure, axis = style.subplots(figsize=(5.6, 0.2 * n_layers + 2.4), layout="constrained")
    middle = (n_heads - 1) / 2
    places = set()
    for row in strong.itertuples():
        start = _place(row.sender_layer, row.sender_head, (middle, -1.0), n_heads)
        end = _place(row.layer, row.query_head, (middle, float(n_layers)), n_heads)
        places |= {start, end}
        axis.annotate(
            "", end, start,
            arrowprops={"arrowstyle": "-|>", "color": COLOURS[str(row.through)], "lw": 0.5 + 3 * min(1, abs(row.value)),
                        "ls": "-" if row.value > 0 else "--", "shrinkA": 4, "shrinkB": 4},
        )  # fmt: skip
    axis.plot([x for x, _ in places], [y for _, y in places], "o", color=style.GREY, markersize=5)
    axis.set_xlim(-0.7, n_heads + 0.9)
    named = range(0, n_heads, max(1, n_heads // 8))
    axis.set_xticks([*named, n_heads + 0.3], [*map(str, named), "MLP"])
    axis.set_ylim(-1.6, n_layers + 0.6)
    axis.text(middle, -1.45, "embeddings", ha="center", fontsize=8)
    axis.text(middle, n_layers + 0.2, "answer", ha="center", fontsize=8)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_yticks(range(0, n_layers, max(1, n_layers // 10)))
    for name, colour in COLOURS.items():
        axis.plot([], [], color=colour, label={ANSWER: "to the answer", MLP: "to an MLP"}.get(name, f"by {name}"))
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.suptitle(f"{model}, pair {example}: edges patched alone, NLD of at least {LEAST}", fontsize=9)
    return figure


def _place(layer: float, head: float, otherwise: tuple[float, float], n_heads: int) -> tuple[float, float]:
    """Where a node stands: MLPs right of the heads and, within a layer, above them."""
    if pd.isna(layer):
        return otherwise
    return (n_heads + 0.3, float(layer) + 0.35) if pd.isna(head) else (float(head), float(layer))
