"""Learning curves."""

from __future__ import annotations

from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure

from interp.figures import style
from interp.runs.names import readable


def training_curve(training: pd.DataFrame) -> Figure:
    """Each measure of training.parquet against optimizer steps, with its 95 % interval as a band."""
    figure, axis = style.subplots(figsize=(5.2, 3.2))
    colours = cycle((style.BLUE, style.ORANGE, style.GREEN, style.RED, style.PURPLE))
    lines = cycle(("-", "--", "-.", ":"))  # curves may lie on one another, and be more than there are colours
    for colour, line, (measure, rows) in zip(colours, lines, training.groupby("measure", sort=False), strict=False):
        axis.plot(rows["step"], rows["value"], line, color=colour, label=readable(measure))
        axis.fill_between(rows["step"], rows["low"].astype(float), rows["high"].astype(float), color=colour, alpha=0.2)
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel("accuracy on unseen texts")
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
