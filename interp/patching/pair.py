"""All patches of one contrast pair: which are made, and the rows of effects.parquet that they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.patching.align import ContrastPair, KeyPosition, Pads, Part, Role, both, key_positions, padded
from interp.patching.attribution import Method, attributions
from interp.patching.exact import BUDGET_BYTES, Freeze, Patch, Run, record, sweep
from interp.patching.nld import Answers, Direction
from interp.stats import or_null
from interp.text.numbers import in_digits

Row = dict[str, Any]
VERBS = {Direction.DENOISE: "patch", Direction.NOISE: "noise"}


@dataclass(frozen=True)
class PatchOptions:
    """Which patches of a pair are made."""

    sites: Sequence[Site] = (Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT)
    directions: Sequence[Direction] = (Direction.DENOISE,)
    layers: Sequence[int] | None = None
    """None = all."""
    head_roles: Sequence[Role] = (Role.PHRASE_ANSWER, Role.PREDICTING)
    """Where every head's output is patched."""
    random_positions: int = 3
    answer_tokens: int = 3
    budget_bytes: int = BUDGET_BYTES
    map_prompt: bool = False
    """Maps begin with the prompt and the think tag; else with the reasoning."""
    map_window: int = 1
    """How many neighbouring positions a patch of an exact map takes together, the last one named by `map_stride`."""


@dataclass
class PairRuns:
    """The two unpatched runs of a pair and its places, as positions of those runs."""

    pair: ContrastPair
    clean: Run
    corrupted: Run
    answers: Answers
    _shift: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    @property
    def base(self) -> tuple[dict[str, float], dict[str, float]]:
        return self.answers.unpatched()

    def place(self, key: KeyPosition) -> tuple[int, int]:
        """Positions of a place in the clean and in the corrupted run, pads counted where they were put in."""
        return self._shift.get((key.clean, key.corrupted), (key.clean, key.corrupted))


def longest_run(pair: ContrastPair, pads: Pads) -> int:
    """Tokens of the longer of a pair's two runs, pads counted where they are put in."""
    sides = (pair.clean, pair.corrupted)
    return len(pair.aligned) if pads == Pads.ATTENDED else max(len(side.trace.token_ids) for side in sides)


def run_pair(lens: Lens, pair: ContrastPair, sites: Sequence[Site], pads: Pads) -> PairRuns:
    """Runs both sides once."""
    shift: dict[tuple[int, int], tuple[int, int]] = {}
    clean_ids: Sequence[int] = pair.clean.trace.token_ids
    corrupted_ids: Sequence[int] = pair.corrupted.trace.token_ids
    if pads == Pads.ATTENDED:
        clean_ids, corrupted_ids, _, _ = padded(pair, pad_token(lens))
        shift = {(a, b): (i, i) for i, (a, b) in enumerate(pair.aligned) if a is not None and b is not None}
    clean, corrupted = record(lens, clean_ids, sites), record(lens, corrupted_ids, sites)
    answers = Answers(clean.logits, corrupted.logits, pair.clean.answer_id, pair.corrupted.answer_id)
    return PairRuns(pair, clean, corrupted, answers, shift)


def pad_token(lens: Lens) -> int:
    """The tokenizer's pad token, or its end-of-sequence token."""
    pad = lens.tokenizer.pad_token_id
    return int(lens.tokenizer.eos_token_id if pad is None else pad)


@dataclass(frozen=True)
class _Planned:
    """A patch with what its rows say of it."""

    patch: Patch
    key: KeyPosition
    control: str | None = None
    first: KeyPosition | None = None
    """Where the patch takes several positions, the first of them; `key` is the last."""


class PairPatcher:
    """Makes the patches of one pair and turns them into rows."""

    def __init__(
        self, lens: Lens, runs: PairRuns, options: PatchOptions, progress: Callable[[int], None] | None = None
    ):
        self.lens, self.runs, self.options, self.progress = lens, runs, options, progress
        self.layers = list(range(lens.n_layers) if options.layers is None else options.layers)
        self.keys = key_positions(runs.pair, options.answer_tokens)

    def _patches(
        self, direction: Direction, site: Site, keys: Iterable[KeyPosition], heads: Sequence[int | None] = (None,),
        control: str | None = None,
    ) -> list[_Planned]:  # fmt: skip
        planned = []
        for key in keys:
            clean, corrupted = self.runs.place(key)
            at, source = (corrupted, clean) if direction == Direction.DENOISE else (clean, corrupted)
            for layer in self.layers:
                for head in heads:
                    planned.append(_Planned(Patch(site, layer, (at,), head, (source,)), key, control))
        return planned

    def main(self, rng: np.random.Generator) -> list[Row]:
        """Key positions at every site, every head at the key roles, and random positions of the reasoning."""
        rows: list[Row] = []
        heads = range(self.lens.n_heads)
        at_roles = [key for key in self.keys if key.role in self.options.head_roles]
        for direction in self.options.directions:
            planned = [one for site in self.options.sites for one in self._patches(direction, site, self.keys)]
            planned += self._patches(direction, Site.Z, at_roles, list(heads)) if self.options.head_roles else []
            planned += self._patches(direction, Site.RESID_PRE, self.random_keys(rng), control="random_position")
            rows += self._sweep(direction, planned)
        return rows

    def random_keys(self, rng: np.random.Generator) -> list[KeyPosition]:
        """Positions of the reasoning just before the probing phrase: others, about as far from the end, that name
        neither answer, since that is what is patched at the phrase."""
        body = [key for key in both(self.runs.pair, (Part.BODY,)) if not self._names_an_answer(key)][-20:]
        n = min(self.options.random_positions, len(body))
        return [body[i] for i in sorted(rng.choice(len(body), n, replace=False))] if n else []

    def _names_an_answer(self, key: KeyPosition) -> bool:
        """In digits or spelt, on either side."""
        sides = ((self.runs.pair.clean, key.clean), (self.runs.pair.corrupted, key.corrupted))
        answers = {in_digits(str(self.lens.tokenizer.decode([side.answer_id])).strip()) for side, _ in sides}
        return any(in_digits(side.trace.token_text(position).strip()) in answers for side, position in sides)

    def full_map(self, stride: int = 1) -> list[Row]:
        """Residual stream at every `stride`-th position that both sides have, the key ones left out; with a window, at
        that position and those before it together."""
        if self.options.map_window > 1:
            return self._sweep(Direction.DENOISE, self._windows(stride))
        return self._sweep(Direction.DENOISE, self._patches(Direction.DENOISE, Site.RESID_PRE, self._map_keys(stride)))

    def _windows(self, stride: int) -> list[_Planned]:
        runs: list[list[KeyPosition]] = []  # of neighbours: no window reaches over a key position
        for key in self._map_keys(1):
            if runs and key.corrupted == runs[-1][-1].corrupted + 1:
                runs[-1].append(key)
            else:
                runs.append([key])
        ends = [(run, end) for run in runs for end in range(len(run), 0, -stride)]
        planned, begun = [], set[int]()
        for run, end in ends:
            window = run[max(0, end - self.options.map_window) : end]
            if window[0].corrupted in begun:
                continue  # where a run of neighbours begins, windows that overlap would be cut short
            begun.add(window[0].corrupted)
            places = [self.runs.place(key) for key in window]
            at, sources = (tuple(place[i] for place in places) for i in (1, 0))
            for layer in self.layers:
                patch = Patch(Site.RESID_PRE, layer, at, None, sources)
                planned.append(_Planned(patch, window[-1], first=window[0]))
        return planned

    def map_size(self, stride: int) -> int:
        """Number of places, layers times positions, of a map."""
        return len(self.layers) * len(self._map_keys(stride))

    def estimated_map(self, stride: int, method: Method, verify: int) -> list[Row]:
        """The same by attribution, and exact patches of the `verify` places with the largest estimates."""
        keys = self._map_keys(stride)
        if not keys:
            return []
        rows = self._estimated([Site.RESID_PRE], keys, method)
        planned = self._patches(Direction.DENOISE, Site.RESID_PRE, keys)
        size = {(row["layer"], row["position"]): abs(row["value"] or 0.0) for row in rows if row["metric"] == "ld"}
        planned.sort(key=lambda one: -size[one.patch.layer, one.key.corrupted])
        return rows + self._sweep(Direction.DENOISE, planned[:verify])

    def _map_keys(self, stride: int) -> list[KeyPosition]:
        done = {key.corrupted for key in self.keys}
        before = (Part.PROMPT, Part.THINK) if self.options.map_prompt else ()
        parts = (*before, Part.BODY, Part.PHRASE, Part.END_THINK, Part.ANSWER)
        # They have no role: the figures of single roles are to show the same positions for every pair.
        keys = [replace(key, role=None) for key in both(self.runs.pair, parts) if key.corrupted not in done]
        return keys[::-stride][::-1]

    def unrelated(self, other: PairRuns) -> list[Row]:
        """Another pair's clean activations at the places of the same role: they know nothing of this answer."""
        theirs = {key.role: other.place(key)[0] for key in key_positions(other.pair, self.options.answer_tokens)}
        planned = []
        for key in self.keys:
            if key.role in (Role.PHRASE_ANSWER, Role.PREDICTING) and key.role in theirs:
                at = (self.runs.place(key)[1],)
                for layer in self.layers:
                    patch = Patch(Site.RESID_PRE, layer, at, None, (theirs[key.role],))
                    planned.append(_Planned(patch, key, "unrelated_pair"))
        return self._sweep(Direction.DENOISE, planned, source=other.clean)

    def through(self, heads: Sequence[Head]) -> list[Row]:
        """Residual stream at the phrase's answer, with all later heads but these held as they were (path patching)."""
        return self._through(heads, self._phrase_answer(None))

    def through_sets(self, sets: Sequence[Sequence[Head]], control: str) -> list[Row]:
        """The same by sets of heads, in the first of the layers: everything that a patch does comes from there."""
        planned = [one for one in self._phrase_answer(control) if one.patch.layer == min(self.layers)]
        return [{**row, "draw": i} for i, heads in enumerate(sets) for row in self._through(heads, planned)]

    def _phrase_answer(self, control: str | None) -> list[_Planned]:
        keys = [key for key in self.keys if key.role == Role.PHRASE_ANSWER]
        return self._patches(Direction.DENOISE, Site.RESID_PRE, keys, control=control)

    def _through(self, heads: Sequence[Head], planned: Sequence[_Planned]) -> list[Row]:
        freeze = Freeze(frozenset((head.layer, head.head) for head in heads))
        rows = self._sweep(Direction.DENOISE, planned, freeze=freeze, verb="through")
        return [row for row in rows if row["metric"] in ("nld", "ld")]

    def attributed(self) -> list[Row]:
        """First-order estimates of the patches at the key positions, for the residual stream and every head."""
        sites = [Site.RESID_PRE, Site.Z] if self.options.head_roles else [Site.RESID_PRE]
        rows = self._estimated(sites, self.keys, Method.ATP)
        return [row for row in rows if row["head"] is None or row["role"] in self.options.head_roles]

    def _estimated(self, sites: Sequence[Site], keys: Sequence[KeyPosition], method: Method) -> list[Row]:
        """Estimates of patches of some sites (by head for z) at every layer and some positions."""
        runs, answers = self.runs, self.runs.answers
        places = [runs.place(key) for key in keys]
        at, sources = [place[1] for place in places], [place[0] for place in places]
        found = attributions(self.lens, runs.corrupted, runs.clean, answers, sites, at, sources, method)
        clean_base, corrupted_base = runs.base
        whole = answers.ld_clean - answers.ld_corrupted
        values = {site: of.cpu() for site, of in found.values.items()}
        rows = []
        for site, layer, (i, key) in product(sites, self.layers, enumerate(keys)):
            for head in range(self.lens.n_heads) if site == Site.Z else [None]:
                ld = float(values[site][(layer, i) if head is None else (layer, i, head)])
                patch = Patch(site, layer, (at[i],), head)
                estimates = {"ld": answers.ld_corrupted + ld, "nld": ld / whole if whole else math.nan}
                for metric, value in estimates.items():
                    bases = (clean_base[metric], corrupted_base[metric])
                    rows.append(self._row("attribute", _Planned(patch, key), metric, *bases, value))
        return rows

    def _sweep(
        self,
        direction: Direction,
        planned: Sequence[_Planned],
        source: Run | None = None,
        freeze: Freeze | None = None,
        verb: str | None = None,
    ) -> list[Row]:
        if not planned:
            return []
        runs = self.runs
        target, usual = (runs.corrupted, runs.clean) if direction == Direction.DENOISE else (runs.clean, runs.corrupted)
        answers = Answers(
            runs.clean.logits, runs.corrupted.logits, runs.answers.clean_id, runs.answers.corrupted_id, direction
        )
        found = sweep(
            self.lens, target, source or usual, [one.patch for one in planned], answers.measure,
            budget_bytes=self.options.budget_bytes, freeze=freeze, progress=self.progress,
        )  # fmt: skip
        clean, corrupted = runs.base
        values: dict[str, list[float]] = {metric: column.tolist() for metric, column in found.items()}
        return [
            self._row(verb or VERBS[direction], one, metric, clean[metric], corrupted[metric], column[i])
            for i, one in enumerate(planned)
            for metric, column in values.items()
        ]

    def _row(self, verb: str, planned: _Planned, metric: str, clean: float, corrupted: float, patched: float) -> Row:
        """`value` is the effect: the metric itself where it is one (nld, kl, flipped), else its change."""
        patch, key = planned.patch, planned.key
        side = self.runs.pair.clean if verb == VERBS[Direction.NOISE] else self.runs.pair.corrupted
        at = key.clean if verb == VERBS[Direction.NOISE] else key.corrupted
        first = at if planned.first is None else planned.first.corrupted
        segment = side.trace.segment_at(first)
        base = clean if verb == VERBS[Direction.NOISE] else corrupted
        value = patched if metric in ("nld", "kl", "flipped") else patched - base
        return {
            "example": self.runs.pair.id,
            "intervention": f"{verb}_{patch.site}",
            "layer": patch.layer,
            "head": patch.head,
            "position": first,
            "position_end": at + 1,
            "segment": None if segment is None else segment.value,
            "token": side.trace.token_text(first),
            "role": None if key.role is None else key.role.value,
            "metric": metric,
            "clean": or_null(clean),
            "corrupted": or_null(corrupted),
            "patched": or_null(patched),
            "value": or_null(value),
            "control": planned.control,
        }


def roles_of(names: Sequence[str]) -> list[Role]:
    """Roles by name. Raises UserError for an unknown one."""
    try:
        return [Role(name) for name in names]
    except ValueError as error:
        raise UserError(f"experiment.head_roles={','.join(names)} must be of {', '.join(Role)}") from error
