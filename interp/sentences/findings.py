"""What the sentences' measures say of each other: rank correlations over the sentences of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from interp.runs.columns import FLOAT, INT, NO_INTERVAL, TEXT, Column, Table, ends
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.store import records
from interp.sentences.measure import CAUSAL
from interp.sentences.prediction import BEST, LEAST, PLACE, TOGETHER, rounded
from interp.sentences.signals import SIGNALS
from interp.stats import ComparedBy, Comparison, Estimate, adjust, bootstrap_mean, or_null, rank_correlation, rng_for

NOTHING = "nothing"
SPOKEN = {
    "suppressed": "suppressing it",
    "demanded": "demanding the answer behind it",
    "resampled": "resampling behind it",
    "counterfactual": "another sentence in its place",
    "published_resampled": "its published resampling importance",
    "published_counterfactual": "its published counterfactual importance",
    "answer_mass": "attention of the answer",
    "rfh_mass": "attention of the answer's top heads",
    "received": "attention of later sentences",
    "receiver_heads": "attention of receiver heads",
    "fai": "its FAI",
    "relevance": "its relevance to the answer",
    "entropy": "entropy of its first token",
    "tokens": "its length",
    "sentence": "its place",
}
SENTENCE_SIGNALS_TABLE = Table(
    "sentence_signals",
    Column("causal", TEXT, f"how a sentence may matter: {', '.join(f'`{name}`' for name in CAUSAL)}"),
    Column("other", TEXT, "another such way, or what is cheap to see: the columns of `sentences`"),
    Column("given", TEXT, f"`{NOTHING}`, or `{PLACE}`: the sentence's place is held constant"),
    Column("value", FLOAT, "mean over traces of the (partial) rank correlation over sentences, -1..1"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("p", FLOAT, "two-sided sign-flip p-value of its being 0", null="n < 2"),
    Column("p_adjusted", FLOAT, "`p` after Benjamini-Hochberg over the table", null="n < 2"),
    Column("n", INT, "number of traces"),
    Column(
        "first",
        FLOAT,
        "share of these traces in which both put the same sentence first; of equals each counts as a part",
        null="a place is given",
    ),
    Column("first_chance", FLOAT, "the same of a sentence at random", null="a place is given"),
)


@dataclass(frozen=True)
class SentencesFacts:
    """How many traces and sentences there were."""

    n_traces: int
    n_sentences: int


def signal_rows(sentences: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """The rows of sentence_signals.parquet."""
    pairs = [*combinations(CAUSAL, 2), *((causal, signal) for causal in CAUSAL for signal in SIGNALS)]
    rows: list[dict[str, Any]] = []
    for causal, other in pairs:
        for given in (NOTHING, PLACE):
            if other == "sentence" and given == PLACE:
                continue
            by_trace = [_correlation(of, causal, other, given) for _, of in sentences.groupby("example", sort=False)]
            known = np.array([rho for rho in by_trace if not np.isnan(rho)])
            if not len(known):
                continue
            rng = rng_for(seed, "sentences", causal, other, given)
            found, compared = bootstrap_mean(known, rng), Comparison.paired(known, 0.0, rng)
            about = {"causal": causal, "other": other, "given": given, "value": found.value, "n": found.n}
            first = _same_first(sentences, causal, other) if given == NOTHING else {}
            p = None if compared is None else compared.p
            rows.append({**about, "low": found.low, "high": found.high, "p": p, **first})
    adjust(rows)
    return rows


def _same_first(sentences: pd.DataFrame, causal: str, other: str) -> dict[str, float]:
    """How often the sentence with most effect is the one that another measure puts first."""
    found = []
    for _, of in sentences.groupby("example", sort=False):
        known = of.dropna(subset=[causal, other])
        if len(known) >= LEAST:
            x, y = rounded(known, causal), rounded(known, other)
            if np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            first, best = x == x.max(), y == y.max()  # of equals each counts as a part
            found.append((float((first & best).sum() / (first.sum() * best.sum())), 1 / len(known)))
    if not found:
        return {}
    own, chance = np.array(found).mean(0)
    return {"first": float(own), "first_chance": float(chance)}


def _correlation(of_trace: pd.DataFrame, causal: str, other: str, given: str) -> float:
    known = of_trace.dropna(subset=[causal, other])
    if len(known) < LEAST:
        return float("nan")
    x, y = rounded(known, causal), rounded(known, other)
    return rank_correlation(x, y, [known["sentence"].to_numpy(dtype=float)] if given == PLACE else [])


def findings(sentences: pd.DataFrame, signals: pd.DataFrame, prediction: pd.DataFrame) -> Findings[SentencesFacts]:
    """What a run tells."""
    headlines = list(_concentrated(sentences))
    rows = records(signals[signals["given"] == NOTHING])
    for row in rows:
        if row["other"] in CAUSAL:
            headlines.append(
                _beside_zero(row, f"rank correlation of {SPOKEN[row['causal']]} and {SPOKEN[row['other']]}")
            )
    lines = []
    for causal in CAUSAL:
        theirs = [row for row in rows if row["causal"] == causal and row["other"] in SIGNALS]
        if theirs:
            lines.append(f"{SPOKEN[causal]} goes with: {', '.join(map(_said, theirs))}")
    for causal in CAUSAL:
        foretold = {row["by"]: row for row in records(prediction[prediction["causal"] == causal])}
        if foretold:
            headlines.append(_foretold(causal, foretold))
            best = foretold[BEST]
            shares = f"together {foretold[TOGETHER]['value']:+.2f}, place {foretold[PLACE]['value']:+.2f}"
            lines.append(
                f"{SPOKEN[causal]} on held-out traces: {shares}, {SPOKEN[best['chosen']]} alone {best['value']:+.2f}"
            )
    facts = SentencesFacts(int(sentences["example"].nunique()), len(sentences))
    lines.insert(0, f"{facts.n_sentences} sentences of {facts.n_traces} traces")
    if sentences["unfinished"].max() > 0:
        share = (sentences["unfinished"] * sentences["drawn"]).sum() / sentences["drawn"].sum()
        lines.append(
            f"{share:.0%} of the rollouts were cut off by their limit: they count in no share of answers "
            "(experiment.max_new_tokens)"
        )
    return Findings(headlines, facts, lines)


def _concentrated(sentences: pd.DataFrame) -> Iterator[Headline]:
    """How much of what sentences do to the answer the first of them does. The largest is more than an even share by
    chance as well, so that this is no test."""
    for causal in CAUSAL:
        shares = []
        for _, of in sentences.groupby("example", sort=False):
            harm = of[causal].to_numpy(dtype=float).clip(min=0)
            if not np.isnan(harm).any() and harm.sum() > 0:
                shares.append((harm.max() / harm.sum(), 1 / len(harm)))
        if shares:
            own, even = np.array(shares).T
            rng = rng_for(int(sentences["seed"].iloc[0]), "concentrated", causal)
            yield Headline(
                f"share of the effect of {SPOKEN[causal]} that one sentence has",
                bootstrap_mean(own, rng),
                "if all had as much",
                Estimate(float(even.mean()), len(even)),
            )


def _beside_zero(row: dict[str, Any], name: str) -> Headline:
    found = Estimate.of(row)
    compared = Comparison(ComparedBy.PAIRED, found, or_null(row["p"]))
    return Headline(name, found, "no relation", Estimate(0.0, found.n), compared)


def _foretold(causal: str, foretold: dict[str, dict[str, Any]]) -> Headline:
    """Does what is cheap to see say more than a sentence's place?"""
    beside = Comparison.of(foretold[TOGETHER], "over_place")
    return Headline(
        f"{SPOKEN[causal]} foretold by all that is cheap to see, rank correlation on held-out traces",
        Estimate.of(foretold[TOGETHER]),
        "by its place alone",
        Estimate.of(foretold[PLACE]),
        replace(beside, p=None) if beside else None,  # the row's p is of a correlation of 0
    )


def _said(row: dict[str, Any]) -> str:
    q = "" if pd.isna(row["p_adjusted"]) else f" (q = {row['p_adjusted']:.2g})"
    first = f", same first in {row['first']:.0%} (by chance {row['first_chance']:.0%})"
    return f"{SPOKEN[row['other']]} {row['value']:+.2f}{q}{first}"
