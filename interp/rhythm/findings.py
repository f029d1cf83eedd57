"""The headline numbers of `rhythm`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from interp.rhythm.couplings import MIN_TOKENS, Coupling
from interp.rhythm.head_controls import RANDOM, SENTENCES, against_heads
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.store import records
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import CALLED, ComparedBy, Comparison, Estimate, bootstrap_mean, or_null, rng_for
from interp.text.numbers import difference_text, with_interval

Tables = Callable[[str], pd.DataFrame]

STARTS = "share of WAAD peaks at sentence starts"
NAMES = {
    Coupling.ENTROPY: "entropy at WAAD peaks, nats",
    Coupling.RECEIVER: "share of receiver-FAI peaks that are FAI peaks",
    Coupling.FOLLOWING: "share of FAI peaks at or right after a WAAD peak",
}


@dataclass(frozen=True)
class RhythmFacts:
    """How many traces there were, and which of the sets of heads the headline numbers are of."""

    n_traces: int
    layers: str
    sinks: str


def findings(table: Tables, seed: int, layers: str, sinks: str) -> Findings[RhythmFacts]:
    """What a run tells; its first set of heads is that of these layers and this handling of sinks."""
    tokens, couplings = table("tokens"), table("couplings")
    shifted, against = _couplings(couplings), _against_heads(table("head_controls"), seed)
    boundaries = _boundaries(table("boundaries"))
    headlines = [*shifted.values(), *against.values(), *boundaries]
    starts = next((one for one in boundaries if one.name.startswith("precision of WAAD peaks for sentence")), None)
    by_trace = tokens.groupby("example", sort=False)
    for name, column in (("WAAD, tokens", "waad"), ("FAI to the end", "fai_to_end"), ("entropy, nats", "entropy")):
        means = by_trace[column].mean().to_numpy(dtype=float)
        headlines.append(Headline(f"mean {name}", bootstrap_mean(means, rng_for(seed, "mean", column))))
    for column, name in (("waad_peak", "WAAD"), ("fai_peak", "FAI"), ("receiver_peak", "receiver-FAI")):
        shares = by_trace[column].mean().to_numpy(dtype=float)
        estimate = bootstrap_mean(shares, rng_for(seed, "share", column))
        headlines.append(Headline(f"share of tokens that are {name} peaks", estimate))
    lines = [_line(row) for row in records(_main(couplings))] + _all_heads(table("head_controls"), seed)
    lines += _partial(table("partial_effects")) + _sinks(table("head_sets"))
    facts = RhythmFacts(int(tokens["example"].nunique()), layers, sinks)
    told = partial(why_missing, tokens=tokens, controls=table("head_controls"), boundaries=table("boundaries"))
    return Findings(headlines, facts, lines, verdicts=_verdicts(shifted, against, starts, told))


def _main(couplings: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first set of layers, sinks and horizon, with the chosen rule for peaks."""
    first = couplings.iloc[0] if len(couplings) else None
    if first is None:
        return couplings
    same = (couplings["layers"] == first["layers"]) & (couplings["sinks"] == first["sinks"])
    chosen = (couplings["rule"] == first["rule"]) & (
        couplings["horizon"].isin(["to_end"]) | couplings["horizon"].isna()
    )
    return couplings[same & chosen].drop_duplicates("coupling")


def _couplings(couplings: pd.DataFrame) -> dict[str, Headline]:
    """Each coupling beside circular shifts of its values."""
    headlines = {}
    for row in records(_main(couplings)):
        n, null_low, null_high = int(row["n"]), or_null(row["null_low"]), or_null(row["null_high"])
        null = Estimate(row["baseline"], n, null_low, null_high)
        ends = [None if end is None else row["value"] - end for end in (null_high, null_low)]
        above = Estimate(row["value"] - row["baseline"], n, *ends)
        compared = Comparison(ComparedBy.NULL, above, or_null(row["p_shift"]))
        name = NAMES[Coupling(row["coupling"])]
        headlines[row["coupling"]] = Headline(name, Estimate.of(row), "shifted in a circle", null, compared)
    return headlines


def _against_heads(table: pd.DataFrame, seed: int) -> dict[str, Headline]:
    """How far each coupling exceeds its baseline, beside random sets of heads."""
    found = {}
    names: dict[str, str] = {**{str(key): name for key, name in NAMES.items()}, SENTENCES: STARTS}
    for coupling, name in names.items():
        if (one := against_heads(table, coupling, seed)) is not None:
            about = (f"{name}, above its baseline", one.chosen, CALLED[one.control], one.random)
            found[coupling] = Headline(*about, one.comparison)
    return found


def _all_heads(table: pd.DataFrame, seed: int) -> list[str]:
    """The same couplings of the mean over all heads."""
    names: dict[str, str] = {**{str(key): name for key, name in NAMES.items()}, SENTENCES: STARTS}
    found = {name: against_heads(table, coupling, seed) for coupling, name in names.items()}
    return [
        f"{name}, above its baseline: chosen heads {difference_text(one.chosen.value)}, "
        f"all heads {difference_text(one.all)}"
        for name, one in found.items()
        if one is not None and one.all is not None
    ]


EVENTS = {
    SENTENCES: ("waad_peak", "WAAD peak", ("waad",)),
    Coupling.ENTROPY: ("waad_peak", "WAAD peak", ("waad", "entropy")),
    Coupling.RECEIVER: ("receiver_peak", "receiver-FAI peak", ("receiver_fai", "fai_to_end")),
    Coupling.FOLLOWING: ("fai_peak", "FAI peak", ("fai_to_end", "waad")),
}
"""Of each coupling its events' column in tokens.parquet, what they are called, and the curves that it needs."""


def why_missing(coupling: str, tokens: pd.DataFrame, controls: pd.DataFrame, boundaries: pd.DataFrame) -> str:
    """Why a coupling has no number, or none beside random heads: the first condition that no trace meets."""
    column, event, curves = EVENTS[coupling]
    traces = [part for _, part in tokens.groupby("example", sort=False)]
    having = [part for part in traces if part[column].any()]
    if not having:
        return f"no {event} in any response"
    if coupling == SENTENCES:
        if not any(part["sentence_start"].any() for part in having):
            return f"no sentence begins within a response that has a {event}"
        if 1 not in set(boundaries["tolerance"]):
            return "sentences one token off were not counted (experiment.tolerances)"
    else:
        known = [part[part[list(curves)].notna().all(axis=1)] for part in traces]
        longest = max(map(len, known))
        if longest < MIN_TOKENS:
            return f"responses too short: at most {longest} tokens where it can be measured, of {MIN_TOKENS} needed"
        if not any(part[column].any() for part in known if len(part) >= MIN_TOKENS):
            return f"no {event} in a response of {MIN_TOKENS} tokens or more where it can be measured"
    if not controls["control"].isin(RANDOM).any():
        return "no random set of heads (experiment.random_sets)"
    return f"no {event} of random heads, or of the heads that they stand in for"


def _verdicts(
    shifted: dict[str, Headline],
    heads: dict[str, Headline],
    starts: Headline | None,
    missing: Callable[[str], str],
) -> list[Verdict]:
    """A claim of a coupling needs both: that it is no chance, and that other heads do not show it as well."""
    claims = {"B1": SENTENCES, "B2": Coupling.ENTROPY, "B3": Coupling.RECEIVER, "B4": Coupling.FOLLOWING}
    beside = {**shifted, **({SENTENCES: starts} if starts else {})}
    found = []
    for claim, coupling in claims.items():
        pair = [of[coupling] for of in (beside, heads) if coupling in of]
        if len(pair) == 2:
            found.append(verdict(claim, [(one, Sign.HIGHER) for one in pair]))
        else:
            found.append(verdict(claim, [], why=missing(coupling)))
    return found


def _line(row: dict[str, Any]) -> str:
    low, high = row["lift_low"], row["lift_high"]
    interval = "" if pd.isna(low) else f" [{100 * low:+.0f}, {100 * high:+.0f}]"
    sentence = "" if pd.isna(row["p_sentence"]) else f", within sentences p = {row['p_sentence']:.2g}"
    lift = "" if pd.isna(row["lift"]) else f"{100 * row['lift']:+.1f} %{interval}, "
    return f"{NAMES[Coupling(row['coupling'])]}: {lift}circular shifts p = {row['p_shift']:.2g}{sentence}"


def _boundaries(boundaries: pd.DataFrame) -> list[Headline]:
    headlines = []
    for row in records(boundaries[boundaries["tolerance"] == 1]):
        name = f"{row['measure']} of WAAD peaks for {row['boundary']} starts, one token off at most"
        found, chance = Estimate.of(row), Estimate(row["chance"], int(row["n"]))
        compared = Comparison(ComparedBy.PAIRED, found.above(chance.value), or_null(row["p"]))
        headlines.append(Headline(name, found, "random places", chance, compared))
    return headlines


def _partial(partial: pd.DataFrame) -> list[str]:
    lines = []
    for row in records(partial):
        value = with_interval(row["value"], or_null(row["low"]), or_null(row["high"]), " SD")
        p = "" if pd.isna(row["p"]) else f", p = {row['p']:.2g}"
        name = NAMES[Coupling(row["coupling"])]
        lines.append(f"{name}, given {row['given']}: {value}{p}")
    return lines


def _sinks(sets: pd.DataFrame) -> list[str]:
    """How many heads of each kind stay when sinks are removed."""
    lines = []
    first = sets["layers"].iloc[0]
    for kind, part in sets[sets["layers"] == first].groupby("kind", sort=False):
        heads = {s: set(zip(rows["layer"], rows["head"], strict=True)) for s, rows in part.groupby("sinks")}
        if len(heads) == 2:
            shared = len(heads["kept"] & heads["removed"])
            lines.append(f"{kind} heads that stay when sinks are removed: {shared} of {len(heads['kept'])}")
    return lines
