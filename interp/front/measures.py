"""Measures of attention for a notebook: tables, arrays, and a figure of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from interp.errors import UserError
from interp.figures import heads as head_figures
from interp.figures import rhythm as rhythm_figures
from interp.figures.style import look
from interp.heads.measure import HeadMeasures
from interp.heads.measure import measure_heads as rows_of_heads
from interp.heads.ranking import mean_over_examples
from interp.heads.scores import Head, HeadScore, head_array, rank_heads, score_values, usual_count
from interp.heads.unrelated import joined, unrelated_rows, with_unrelated_answer
from interp.model.lens import Lens
from interp.rhythm.couplings import Peaks
from interp.rhythm.head_sets import HeadSets, Ranking, rank_by_distance, sets_of
from interp.rhythm.tables import curve_rows, token_rows
from interp.rhythm.waad_fai import Settings, Sinks
from interp.rhythm.waad_fai import measure_rhythm as curves_of_trace
from interp.runs.names import readable
from interp.text.trace import Trace


@dataclass(frozen=True)
class HeadsMeasured:
    """Where the answers of some traces look."""

    table: pd.DataFrame
    """A row for each trace and head: see heads.parquet in docs/tables.md."""
    model: str
    score: HeadScore

    @property
    def scores(self) -> Float[np.ndarray, "layer head"]:
        """Each head's score, the mean over traces (Paper A, section 4)."""
        return mean_over_examples(head_array(self.table, score_values(self.table, self.score)))

    def top(self, k: int | None = None) -> list[Head]:
        """The k best heads, the Reasoning-Focus Heads; None = ten, or a tenth in a small model."""
        return rank_heads(self.scores, usual_count(self.scores.size) if k is None else k)

    def plot(self) -> Figure:
        """Masses by layer and head, the top heads boxed (Paper A, Fig. 3)."""
        with look():
            return head_figures.head_masses(self.table, self.top(), self.model, f"{readable(self.score)} score")


def measure_heads(
    lens: Lens, traces: Trace | Sequence[Trace], *, score: HeadScore | str = HeadScore.DIFFERENCE, seed: int = 0
) -> HeadsMeasured:
    """All attention measures of every head on some traces, one streaming pass each (Paper A, section 4).

    `score` is what heads are ranked by: the authors' difference score unless said otherwise, as in `experiment=heads`;
    `content` takes one pass more and at least two traces with different answers.
    """
    several = _several(traces)
    table = pd.DataFrame([row for one in several for row in rows_of_heads(lens, one, HeadMeasures(), seed)])
    if score == HeadScore.CONTENT:
        others = [other for i in range(len(several)) if (other := with_unrelated_answer(several, i)) is not None]
        if not others:
            raise UserError("score=content needs at least two traces with different answers")
        table = joined(table, pd.DataFrame([row for one in others for row in unrelated_rows(lens, one)]))
    return HeadsMeasured(table, lens.name, HeadScore(score))


@dataclass(frozen=True)
class RhythmMeasured:
    """WAAD, FAI and entropy along the responses of some traces."""

    table: pd.DataFrame
    """A row for each trace and response token: see tokens.parquet in docs/tables.md."""
    sets: HeadSets
    """The local and global heads that WAAD and FAI are averaged over."""
    model: str

    def plot(self) -> Figure:
        """The curves along the first trace, peaks marked (Paper B, Fig. 2)."""
        with look():
            return rhythm_figures.curves(self.table, self.model)


def measure_rhythm(
    lens: Lens,
    traces: Trace | Sequence[Trace],
    *,
    settings: Settings | None = None,
    share: float = 0.3,
    peaks: Peaks | None = None,
) -> RhythmMeasured:
    """WAAD, FAI and entropy of every response token, over local and global heads ranked on these traces (Paper B,
    section 4): the `share` of heads that look nearest and farthest."""
    several, settings = _several(traces), settings or Settings()
    ranking = Ranking(["all"], [Sinks.KEPT], share, None, len(several), settings, None)
    (sets,) = sets_of(pd.DataFrame(rank_by_distance(lens, several, ranking)))
    rows = []
    for one in several:
        curves, entropy = curves_of_trace(lens, one, settings, [Sinks.KEPT])
        (curve,) = curve_rows(one, curves, [sets])
        rows += token_rows(one, curve, entropy, peaks or Peaks())
    return RhythmMeasured(pd.DataFrame(rows), sets, lens.name)


def _several(traces: Trace | Sequence[Trace]) -> list[Trace]:
    """The traces, each with an `example` of its own, as tables tell them apart by it: those that share one (as all that
    `interp.answer` writes) get a number."""
    found = [traces] if isinstance(traces, Trace) else list(traces)
    if not found:
        raise UserError("there is no trace to measure")
    shared = {name for name, n in Counter(one.example for one in found).items() if n > 1}
    numbered = enumerate(found, start=1)
    own = [replace(one, example=f"{one.example} {i}") if one.example in shared else one for i, one in numbered]
    if len({one.example for one in own}) < len(own):
        raise UserError("traces are told apart by their `example`: give each one of its own")
    return own
