"""What is cut in a run, and which random sets of heads stand beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.ablation.effects import Intervention, Labels
from interp.ablation.interventions import Ablation, AblationKind, Knockout
from interp.ablation.interventions import Rows as CutRows
from interp.heads.scores import Head, usual_count
from interp.runs.columns import INT, TEXT, Column, Table
from interp.stats import SAME_LAYERS, alike_in, layers_of, relabelled, rng_for
from interp.text.trace import Segment

RFH = "rfh"
EDGES = {f"{source}_{destination}": (source, destination) for source in Segment for destination in Segment}
CUT = [edge for edge, (source, _) in EDGES.items() if source in (Segment.REASONING, Segment.ANSWER)]
"""Those that can be cut."""
ONLY = "only_"
"""Before the name of a list: the edge is cut in all heads but these."""
LIKE_MASS = "random_heads_of_like_mass"
"""Control: heads of any layer with about the same attention to the reasoning."""
WRITTEN = 3
"""Under so many of its random sets answers are written anew as well: that costs most."""
FEWER = 5
"""Beside lists that decide no claim stand so many times fewer sets: enough for a test at .05 and for the figures."""
ALIKE = 3
"""Heads of like attention to the reasoning: among so many times as many as the list has, next to one another in it."""
FEWEST = 40
"""The same beside further kinds of ablation and rows, of RFHs alone: for the figures."""


CUT_LISTS_TABLE = Table(
    "cut_lists",
    Column("half", INT, "0 or 1: which half of the traces was cut; the heads were ranked on the other"),
    Column("heads_kind", TEXT, "as in `effects`"),
    Column("n_heads", INT, "as in `effects`"),
    Column("rank", INT, "place in the list, from 1"),
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
)


Lists = Mapping[str, Sequence[Head]]
"""The heads of each kind, best first."""


@dataclass(frozen=True)
class Step:
    """One intervention with its name, and whether answers are written anew under it."""

    interventions: tuple[Intervention, ...]
    labels: Labels
    write: bool


@dataclass(frozen=True)
class Design:
    """Which lists of heads, in which numbers and ways, and which edges are cut."""

    doses: Sequence[int]
    kinds: Sequence[AblationKind]
    rows: Sequence[CutRows]
    knockouts: Sequence[str]
    renormalise: Sequence[bool]
    window: int
    """Layers of a window of knockouts; 0 = none."""
    alone: Sequence[Head]
    """Heads that are also cut one by one."""
    random_sets: int
    write: bool
    seed: int
    n_layers: int
    n_heads: int
    mass: Mapping[Head, float] | None = None
    """The heads' attention to the reasoning, where random sets are to be like the lists in that and not in layers."""

    def steps(self, halves: Sequence[Lists], half: int = 0) -> Iterator[Step]:
        """Every intervention on one half of the traces, each with its controls behind it. `halves`: the lists that are
        cut on each."""
        lists = halves[half]
        for name, heads in lists.items():
            for n in (n for n in self.doses if n <= len(heads)):
                yield from self._dose(halves, half, name, n)
        for head in self.alone:
            labels = Labels(f"ablate_head_{self.kinds[0]}", rows=CutRows.ANSWER, layer=head.layer, head=head.head)
            yield Step((Ablation(frozenset([head]), self.kinds[0], CutRows.ANSWER),), labels, write=False)
        for edge in self.knockouts:
            for scaled in self.renormalise:
                yield from self._knockouts(edge, scaled, halves, half)

    def random(self, halves: Sequence[Lists], half: int, name: str, n: int, most: int) -> tuple[list[list[Head]], str]:
        """Random sets in place of a list's first n heads, and the name of that control: heads renamed within their
        layers, or among heads of like attention to the reasoning, and alike on both halves of the traces, whose lists
        share most of their heads."""
        if not most:
            return [], SAME_LAYERS
        having = [i for i, lists in enumerate(halves) if n <= len(lists.get(name, ()))]
        groups = layers_of(self.every) if self.mass is None else alike_in(self.mass, ALIKE * n)
        sets = relabelled([halves[i][name][:n] for i in having], groups, most, rng_for(self.seed, "random heads", n))
        drawn = [[Head(*place) for place in draw[having.index(half)]] for draw in sets.heads]
        return drawn, LIKE_MASS if sets.matched and self.mass is not None else sets.control

    def list_rows(self, lists: Lists, half: int) -> Iterator[dict[str, Any]]:
        """The rows of cut_lists.parquet for one half of the traces."""
        for name, heads in lists.items():
            for n in (n for n in self.doses if n <= len(heads)):
                for rank, head in enumerate(heads[:n], start=1):
                    about = {"half": half, "heads_kind": name, "n_heads": n, "rank": rank}
                    yield {**about, "layer": head.layer, "head": head.head}

    @property
    def every(self) -> list[Head]:
        return [Head(layer, h) for layer in range(self.n_layers) for h in range(self.n_heads)]

    def decisive(self, heads: Sequence[Head]) -> int:
        """How many of the list the claims are about: as many as a list of special heads has, or the smallest dose."""
        usual = usual_count(self.n_layers * self.n_heads)
        fitting = [n for n in self.doses if n <= len(heads)]
        return max([n for n in fitting if n <= usual] or [min(fitting, default=0)])

    def _dose(self, halves: Sequence[Lists], half: int, name: str, n: int) -> Iterator[Step]:
        heads = halves[half][name]
        decides = name == RFH and n == self.decisive(heads)
        for i, kind in enumerate(self.kinds):
            for j, rows in enumerate(self.rows):
                fewer = FEWER if i == j == 0 else FEWEST
                most = 0 if name != RFH and fewer == FEWEST else self.random_sets // fewer
                most = self.random_sets if decides and i == j == 0 else most
                sets, name_of_control = self.random(halves, half, name, n, most)
                for draw, cut in [(None, list(heads[:n])), *enumerate(sets)]:
                    control = None if draw is None else name_of_control
                    labels = Labels(f"ablate_head_{kind}", name, n, rows, draw=draw, control=control)
                    write = self.write and i == 0 and rows is CutRows.ANSWER and (draw is None or draw < WRITTEN)
                    yield Step((Ablation(frozenset(cut), kind, rows),), labels, write)

    def _knockouts(self, edge: str, scaled: bool, halves: Sequence[Lists], half: int) -> Iterator[Step]:
        """The whole edge, windows of layers, the RFHs' edges and all but these, beside random sets'."""
        source, destination = EDGES[edge]
        name = f"knockout_{edge}" if scaled else f"knockout_{edge}_unscaled"

        def cut(heads: Sequence[Head] | None) -> tuple[Intervention, ...]:
            return (Knockout(source, destination, None if heads is None else frozenset(heads), scaled),)

        yield Step(cut(None), Labels(name), write=self.write)
        for first in range(self.n_layers - self.window + 1) if self.window else ():
            inside = [Head(layer, h) for layer in range(first, first + self.window) for h in range(self.n_heads)]
            yield Step(cut(inside), Labels(name, layer=first, layer_end=first + self.window), write=False)
        if scaled != self.renormalise[0] or edge != self.knockouts[0]:
            return  # sets of heads are cut for the first edge and in one way only
        listed = halves[half].get(RFH, [])
        for n in (n for n in self.doses if n <= len(listed)):
            top = listed[:n]
            most = self.random_sets if n == self.decisive(listed) else self.random_sets // FEWER
            sets, control = self.random(halves, half, RFH, n, most)
            for kind, of in ((RFH, lambda heads: heads), (f"{ONLY}{RFH}", lambda heads: _others(self.every, heads))):
                yield Step(cut(of(top)), Labels(name, kind, n), write=False)
                for draw, others in enumerate(sets):
                    yield Step(cut(of(others)), Labels(name, kind, n, draw=draw, control=control), write=False)


def kept_lists(cut_lists: pd.DataFrame, half: int) -> dict[str, list[Head]]:
    """The lists of one half of the traces out of cut_lists.parquet, as far as their largest dose: what is cut."""
    found = {}
    for name, rows in cut_lists[cut_lists["half"] == half].groupby("heads_kind", sort=False):
        largest = rows[rows["n_heads"] == rows["n_heads"].max()].sort_values("rank")
        found[str(name)] = [Head(int(a), int(b)) for a, b in largest[["layer", "head"]].to_numpy()]
    return found


def _others(everything: Sequence[Head], heads: Sequence[Head]) -> list[Head]:
    kept = set(heads)
    return [head for head in everything if head not in kept]
