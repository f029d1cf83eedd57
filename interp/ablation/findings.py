"""The headline numbers of `ablate`, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from interp.heads.scores import Head
from interp.runs.effects import over_examples, per_example
from interp.runs.headlines import Findings, Headline
from interp.runs.store import records
from interp.stats import Estimate, bootstrap_mean, rng_for, sign_flips

RFH = "rfh"
METRICS = {
    "ld": "change of the answer's logit difference",
    "flipped": "share of traces whose answer token is no longer the likeliest",
    "kl": "KL(clean || cut) over answer tokens, nats",
    "same_answer": "share of answers that stay the same when written anew",
}


@dataclass(frozen=True)
class AblateFacts:
    """The lists of heads that were cut, best first, and on how many traces."""

    lists: dict[str, list[Head]]
    n_traces: int


def findings(effects: pd.DataFrame, lists: Mapping[str, Sequence[Head]], seed: int) -> Findings[AblateFacts]:
    """What a run tells."""
    headlines = _doses(effects) + _knockouts(effects)
    lines = [f"{name} heads: {', '.join(map(str, heads)) or 'none above the floor'}" for name, heads in lists.items()]
    lines += _tests(effects, seed) + _single(effects)
    facts = AblateFacts({name: list(heads) for name, heads in lists.items()}, int(effects["example"].nunique()))
    return Findings(headlines, facts, lines)


def dose_rows(effects: pd.DataFrame) -> pd.DataFrame:
    """Rows of ablated lists of heads, controls included."""
    return effects[effects["intervention"].str.startswith("ablate_head_") & effects["heads_kind"].notna()]


def _doses(effects: pd.DataFrame) -> list[Headline]:
    """The largest dose of each list that has it, first kind of ablation, answer rows if measured."""
    rows = dose_rows(effects)
    if rows.empty:
        return []
    first = rows.iloc[0]
    rows = rows[(rows["intervention"] == first["intervention"]) & (rows["rows"] == first["rows"])]
    headlines = []
    for kind, of_kind in rows.groupby("heads_kind", sort=False):
        own = of_kind[of_kind["control"].isna()]
        n = int(own["n_heads"].max())
        for metric, label in METRICS.items():
            here = own[(own["n_heads"] == n) & (own["metric"] == metric)]
            if here.empty:
                continue
            name = f"{label}: top {n} {str(kind).upper() if kind == RFH else kind} heads ablated ({first['rows']} rows)"
            estimate = over_examples(here)
            control = _random(rows, n, metric) if kind == RFH else None
            headlines.append(Headline(name, estimate, "random heads of the RFHs' layers" if control else None, control))
    return headlines


def _random(rows: pd.DataFrame, n: int, metric: str) -> Estimate | None:
    drawn = rows[(rows["control"] == "random_heads") & (rows["n_heads"] == n) & (rows["metric"] == metric)]
    return None if drawn.empty else over_examples(drawn)


def _knockouts(effects: pd.DataFrame) -> list[Headline]:
    whole = effects[
        effects["intervention"].str.startswith("knockout_") & effects["heads_kind"].isna() & effects["layer"].isna()
    ]
    whole = whole[~whole["intervention"].str.endswith("_unscaled")]  # the figure has both
    headlines = []
    for name, rows in whole.groupby("intervention", sort=False):
        for metric in ("flipped", "same_answer"):
            here = rows[rows["metric"] == metric]
            if not here.empty:
                edge = str(name).removeprefix("knockout_").replace("_unscaled", ", not rescaled").replace("_", "->", 1)
                estimate = over_examples(here)
                clean = Estimate(float(here["clean"].mean()), len(here))
                headlines.append(
                    Headline(f"{METRICS[metric]}: {edge} cut in all heads", estimate, "nothing cut", clean)
                )
    return headlines


def _tests(effects: pd.DataFrame, seed: int) -> list[str]:
    """Do RFHs matter more than random heads of the same layers? Paired over traces."""
    rows = dose_rows(effects)
    rows = rows[(rows["heads_kind"] == RFH) & (rows["metric"] == "ld")]
    lines = []
    for place, part in rows.groupby(["intervention", "rows", "n_heads"], sort=False):
        intervention, where, n = map(str, place)
        own, drawn = (per_example(part[part["control"].isna() == is_own]) for is_own in (True, False))
        both = pd.DataFrame({"own": own, "random": drawn}).dropna()
        if len(both) >= 2:
            difference = (both["own"] - both["random"]).to_numpy()
            estimate = bootstrap_mean(difference, rng_for(seed, "test", intervention, where, n))
            p, _, _ = sign_flips(difference, rng_for(seed, "signs", intervention, where, n))
            kind = str(intervention).removeprefix("ablate_head_")
            name = f"top {int(float(n))} RFHs minus random heads, {kind}, {where} rows"
            lines.append(
                f"{name}, logit difference: {estimate.value:+.2f} "
                f"[{estimate.low:+.2f}, {estimate.high:+.2f}], sign flips p = {p:.2g}, n = {estimate.n}"
            )
    return lines


def _single(effects: pd.DataFrame) -> list[str]:
    """The heads that matter most alone."""
    alone = effects[effects["head"].notna() & (effects["metric"] == "ld")]
    if alone.empty:
        return []
    means = alone.groupby(["layer", "head"])["value"].mean().reset_index()
    ranked = sorted(records(means), key=lambda row: -abs(row["value"]))
    listed = ", ".join(f"({int(row['layer'])},{int(row['head'])}) {row['value']:+.2f}" for row in ranked[:5])
    small = int((means["value"].abs() < 0.05 * max(1e-12, float(means["value"].abs().max()))).sum())
    return [
        f"single heads that move the answer's logit difference most: {listed}",
        f"{small} of {len(means)} heads do less than a twentieth of the first alone",
    ]
