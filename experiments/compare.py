"""Do different models, data sets or conditions have the same heads? Finished `heads` runs side by side."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import ListConfig
from scipy import stats

from experiments.heads_findings import overlap_text
from experiments.options import typed
from experiments.plan import Plan
from experiments.session import Session
from experiments.summary import Findings, Headline, summary
from interp.errors import UserError, nearest
from interp.figures.redraw import redraw
from interp.heads import Head, HeadScore
from interp.ranking import overlap_rows
from interp.stats import Estimate
from interp.store import ENVIRONMENT, read_json, records, tables_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompareOptions:
    """conf/experiment/compare.yaml"""

    name: str = "compare"
    kind: str = HeadScore.DIFFERENCE.value


@dataclass(frozen=True)
class _Run:
    """A finished run: what tells it from the others, and its ranking by the chosen kind."""

    directory: Path
    label: str
    ranking: pd.DataFrame

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads a layer."""
        return int(self.ranking["layer"].max()) + 1, int(self.ranking["head"].max()) + 1

    @property
    def top(self) -> list[Head]:
        rows = self.ranking[self.ranking["top"]].sort_values("rank")
        return [Head(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)]

    @property
    def values(self) -> np.ndarray:
        return self.ranking.sort_values(["layer", "head"])["value"].to_numpy(dtype=float)


def run(session: Session) -> Findings:
    """Overlaps of the top heads and rank correlations of all heads' scores between the runs."""
    options = typed(CompareOptions, session.cfg.experiment, "experiment")
    runs = _runs(session, options.kind)
    log.info("comparing %s", ", ".join(str(one.directory) for one in runs))
    session.describe_environment(with_model=False)
    store, (layers, heads) = session.store, runs[0].shape
    store.write_closing("overlaps", overlaps=overlap_rows({one.label: one.top for one in runs}, layers * heads))
    headlines = []
    for first, second in combinations(runs, 2):
        rho = stats.spearmanr(first.values, second.values, nan_policy="omit").statistic
        known = int((~np.isnan(first.values) & ~np.isnan(second.values)).sum())
        headlines.append(Headline(f"rank correlation of heads, {first.label} and {second.label}", Estimate(rho, known)))
    lines = [
        f"{row['first']} and {row['second']}: top heads in both: {overlap_text(row)}"
        for row in records(store.table("overlaps"))
        if row["p"] is not None
    ]
    facts = summary(headlines, kind=options.kind, runs={one.label: str(one.directory) for one in runs})
    redraw("compare", store.table, facts, session.directory / "figures")
    store.finish(facts)
    return Findings(headlines, lines, f"{len(runs)} runs by {options.kind}")


def plan(session: Session) -> Plan:
    """No model is needed."""
    runs = _runs(session, typed(CompareOptions, session.cfg.experiment, "experiment").kind)
    return Plan(0, 0, 0, 0, 10.0, f"nothing: the tables of {len(runs)} runs are enough")


def _runs(session: Session, kind: str) -> list[_Run]:
    """The runs that `runs` names; what does not compare is refused."""
    asked = session.cfg.runs
    if asked is None:
        raise UserError("set runs=GLOB or runs=[DIR,DIR,...] to finished runs of experiment=heads")
    patterns = list(asked) if isinstance(asked, ListConfig) else [str(asked)]
    directories = [Path(found) for pattern in patterns for found in sorted(glob.glob(str(pattern)))]  # noqa: PTH207 - may be absolute
    directories = list(dict.fromkeys(d for d in directories if (d / ENVIRONMENT).is_file()))
    if len(directories) < 2:
        raise UserError(f"runs={asked} names {len(directories)} runs: at least two are needed")
    all_options = [read_json(directory / ENVIRONMENT)["options"] for directory in directories]
    found = []
    for directory, label, options in zip(directories, _labels(all_options), all_options, strict=True):
        if options["experiment"]["name"] != "heads":
            raise UserError(f"{directory} is a run of {options['experiment']['name']}: only runs of heads compare")
        ranking = tables_of(directory)("ranking")
        if kind not in set(ranking["kind"]):
            raise UserError(f"{directory} has no ranking by {kind!r}; {nearest(kind, ranking['kind'].unique())}")
        found.append(_Run(directory, label, ranking[ranking["kind"] == kind]))
        if found[-1].shape != found[0].shape:
            sizes = [f"{one.directory} has {one.shape[0]} x {one.shape[1]} heads" for one in (found[0], found[-1])]
            raise UserError(f"heads of different models do not correspond: {', '.join(sizes)}")
    return found


def _labels(options: list[dict[str, Any]]) -> list[str]:
    """What tells each run from the others: model, data, selection, seed; a number where that is not enough."""
    parts = [
        {
            "model": one["model"]["name"],
            "data": one["data"]["name"],
            "where": "/".join(map(str, (one["data"].get("where") or {}).values())),
            "limit": f"limit {one['data'].get('limit')}",
            "data seed": f"data seed {one['data'].get('seed')}",
            "seed": f"seed {one['seed']}",
        }
        for one in options
    ]
    differing = [key for key in parts[0] if len({part[key] for part in parts}) > 1] or ["model"]
    labels = [", ".join(part[key] for key in differing if part[key]) or part["model"] for part in parts]
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} #{i}" for i, label in enumerate(labels, start=1)]
