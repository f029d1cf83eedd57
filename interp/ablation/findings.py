"""The headline numbers of `ablate`, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.ablation.design import LIKE_MASS, RFH
from interp.ablation.roles import AnswerRole
from interp.heads.scores import Head
from interp.runs.effects import over_examples, per_example
from interp.runs.findings import Findings
from interp.runs.headlines import Headline
from interp.runs.names import readable
from interp.runs.store import records
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import (
    ANY_LAYER,
    CALLED,
    ENOUGH_SETS,
    Comparison,
    Estimate,
    adjust,
    among_draws,
    bootstrap_mean,
    rng_for,
)
from interp.text.numbers import difference_text

SETS = CALLED | {LIKE_MASS: "sets of heads with like attention to the reasoning"}
ONLY_THESE = "kept only in"
METRICS = {
    "ld": "change of the answer's logit difference",
    "flipped": "share of traces whose answer token is no longer the likeliest",
    "kl": "KL(clean || cut) over answer tokens, nats",
    "same_answer": "share of answers that stay the same when written anew",
}


@dataclass(frozen=True)
class AblateFacts:
    """Which heads the claims are about, and on how many traces they were cut."""

    lists: dict[str, list[Head]]
    """By kind, and half of the traces where these differ, best first, at the dose that decides."""
    n_traces: int


def findings(
    table: Callable[[str], pd.DataFrame], lists: Mapping[str, Sequence[Head]], seed: int, *, halves: bool
) -> Findings[AblateFacts]:
    """What a run tells; `halves`: heads were ranked on other traces than they were cut on."""
    effects = table("effects")
    whole = effects[effects["role"].isna()]
    doses, verdicts = _doses(whole)
    headlines = [*doses, *_edges(whole), *_knockouts(whole, seed), *_by_role(effects, seed)]
    lines = [f"top {len(heads)} {name} heads: {', '.join(map(str, heads))}" for name, heads in lists.items()]
    if not halves:
        lines.append("heads were ranked on the traces that they are cut on: their effects are flattered")
    lines += _tests(whole) + _single(whole)
    facts = AblateFacts({name: list(heads) for name, heads in lists.items()}, int(effects["example"].nunique()))
    return Findings(headlines, facts, lines, verdicts=verdicts)


def dose_rows(effects: pd.DataFrame) -> pd.DataFrame:
    """Rows of ablated lists of heads, controls included."""
    return effects[effects["intervention"].str.startswith("ablate_head_") & effects["heads_kind"].notna()]


def decisive(rows: pd.DataFrame) -> int:
    """How many heads the claims are about: the dose with the most random sets, or the largest."""
    draws = rows.groupby("n_heads")["draw"].nunique()
    return int(draws.index[draws == draws.max()].max())


def against_sets(rows: pd.DataFrame) -> tuple[str | None, Estimate | None, Comparison | None]:
    """One intervention's rows of a metric with controls: what these are, the sets' mean with the middle 95 % of sets
    (n = sets), and where the list itself stands among them. Sets, not traces, are what chance chooses."""
    own, (kind, sets) = rows[rows["control"].isna()], random_sets(rows)
    beside, compared = among_draws(float(own["value"].mean()), sets)
    return (None, None, None) if beside is None else (kind, beside, compared)


def random_sets(rows: pd.DataFrame) -> tuple[str | None, Float[np.ndarray, " set"]]:
    """What the sets beside one list are, of one dose, intervention and metric, and the mean effect of each over all
    traces that the list was cut on."""
    own, drawn = rows[rows["control"].isna()], rows[rows["control"].notna()]
    if drawn.empty:
        return None, np.empty(0)
    by_set = drawn.groupby("draw")
    whole = by_set["example"].nunique() == own["example"].nunique()  # one half of the traces may have fewer sets
    controls = set(drawn["control"])  # the halves may differ
    kind = SETS[ANY_LAYER if ANY_LAYER in controls else min(controls)]
    return kind, by_set["value"].mean()[whole].dropna().to_numpy(dtype=float)


def _doses(effects: pd.DataFrame) -> tuple[list[Headline], list[Verdict]]:
    """The largest dose of each list that has it, first kind of ablation and rows; the verdicts on RFHs."""
    rows = dose_rows(effects)
    headlines: list[Headline] = []
    decided: list[tuple[Headline, Sign]] = []
    if not rows.empty:
        first = rows.iloc[0]
        rows = rows[(rows["intervention"] == first["intervention"]) & (rows["rows"] == first["rows"])]
    for kind, of_kind in rows.groupby("heads_kind", sort=False):
        n = decisive(of_kind)
        for metric, label in METRICS.items():
            here = of_kind[(of_kind["n_heads"] == n) & (of_kind["metric"] == metric)]
            own = here[here["control"].isna()]
            if own.empty:
                continue
            name = f"{label}: top {n} {str(kind).upper() if kind == RFH else kind} heads ablated ({first['rows']} rows)"
            number = Headline(name, over_examples(own), *against_sets(here))
            headlines.append(number)
            if kind == RFH and metric == "ld":
                decided.append((number, Sign.LOWER))
            if kind == RFH and metric == "kl":
                decided.append((number, Sign.HIGHER))
    edges = [(number, Sign.LOWER) for number in _edges(effects) if ONLY_THESE not in number.name]
    return headlines, [_verdict("A6", decided, "lists, doses"), _verdict("A6.edges", edges, "lists, doses, knockouts")]


def _verdict(claim: str, numbers: list[tuple[Headline, Sign]], options: str) -> Verdict:
    """A claim that some heads do more than others is not tested where either were not cut."""
    if not numbers:
        return verdict(claim, [], why=f"no RFHs were cut (experiment: {options})")
    if any(number.comparison is None for number, _ in numbers):
        return verdict(claim, [], why="no random set of heads was cut beside the RFHs (experiment.random_sets)")
    return verdict(claim, numbers)


def _edges(effects: pd.DataFrame) -> list[Headline]:
    """The edges of the RFHs alone, and of all heads but these, at the largest dose."""
    headlines = []
    rows = effects[effects["intervention"].str.startswith("knockout_") & effects["heads_kind"].notna()]
    rows = rows[rows["metric"] == "ld"]
    for (intervention, kind), part in rows.groupby(["intervention", "heads_kind"], sort=False):
        here = part[part["n_heads"] == decisive(part)]
        edge, n = str(intervention).removeprefix("knockout_").replace("_", "->", 1), int(here["n_heads"].iloc[0])
        which = f"cut in the top {n} RFHs" if kind == RFH else f"{ONLY_THESE} the top {n} RFHs"
        own = over_examples(here[here["control"].isna()])
        name = f"{METRICS['ld']}: {edge} {which}"
        headlines.append(Headline(name, own, *against_sets(here)))
    return headlines


def _knockouts(effects: pd.DataFrame, seed: int) -> list[Headline]:
    whole = effects[
        effects["intervention"].str.startswith("knockout_") & effects["heads_kind"].isna() & effects["layer"].isna()
    ]
    whole = whole[~whole["intervention"].str.endswith("_unscaled")]  # the figure has both
    headlines = []
    for name, rows in whole.groupby("intervention", sort=False):
        edge = str(name).removeprefix("knockout_").replace("_", "->", 1)
        for metric in ("ld", "flipped", "same_answer"):
            here = rows[rows["metric"] == metric]
            if here.empty:
                continue
            before = here["clean"].to_numpy(dtype=float)
            after = (here["value"] if metric != "ld" else here["patched"]).to_numpy(dtype=float)
            compared = Comparison.paired(after, before, rng_for(seed, "knockout", name, metric))
            clean: Estimate | None = Estimate(0.0, len(here))
            if metric != "ld":
                known = before[~np.isnan(before)]
                clean = Estimate(float(known.mean()), len(known)) if len(known) else None
            text = f"{METRICS[metric]}: {edge} cut in all heads"
            headlines.append(Headline(text, over_examples(here), "nothing cut" if clean else None, clean, compared))
    return headlines


def _by_role(effects: pd.DataFrame, seed: int) -> list[Headline]:
    """What the first edge's knockout, and the RFHs' ablation, do to each kind of word of the answer, beside the words
    that stand in the prompt as well: one answer, two sources."""
    rows = effects[effects["role"].notna() & (effects["metric"] == "logprob") & effects["control"].isna()]
    headlines = []
    whole = rows[rows["intervention"].str.startswith("knockout_") & rows["heads_kind"].isna() & rows["layer"].isna()]
    doses = rows[rows["intervention"].str.startswith("ablate_head_") & (rows["heads_kind"] == RFH)]
    if len(doses):
        doses = doses[doses["n_heads"] == decisive(effects[effects["heads_kind"] == RFH])]
    for part, what in ((whole, "{} cut in all heads"), (doses, "RFHs ablated")):
        if part.empty:
            continue
        first = part.iloc[0]
        here = part[
            (part["intervention"] == first["intervention"]) & (part["rows"].isna() | (part["rows"] == first["rows"]))
        ]
        edge = str(first["intervention"]).removeprefix("knockout_").replace("_", "->", 1)
        by_role = {str(role): per_example(of) for role, of in here.groupby("role", sort=True)}
        beside = by_role.get(AnswerRole.PROMPT)
        for role, values in by_role.items():
            name = f"change of log-probability of {readable(role)} tokens: {what.format(edge)}"
            estimate = bootstrap_mean(values.to_numpy(dtype=float), rng_for(seed, "role", first["intervention"], role))
            if beside is None or role == AnswerRole.PROMPT:
                headlines.append(Headline(name, estimate))
                continue
            control = bootstrap_mean(
                beside.to_numpy(dtype=float), rng_for(seed, "role", first["intervention"], "prompt")
            )
            both = (values - beside.reindex(values.index)).to_numpy(dtype=float)
            compared = Comparison.paired(both, 0.0, rng_for(seed, "roles", first["intervention"], role))
            headlines.append(Headline(name, estimate, "words of the prompt in the same answers", control, compared))
    return headlines


def _tests(effects: pd.DataFrame) -> list[str]:
    """Where each list of heads stands among its random sets; one family, Benjamini-Hochberg."""
    rows = dose_rows(effects)
    rows = rows[rows["metric"] == "ld"]
    found: list[dict[str, Any]] = []
    for (kind, intervention, where, n), part in rows.groupby(
        ["heads_kind", "intervention", "rows", "n_heads"], sort=False
    ):
        sets, _, compared = against_sets(part)
        if compared is not None and compared.difference.n >= ENOUGH_SETS:
            method = str(intervention).removeprefix("ablate_head_")
            found.append(
                {"about": f"top {int(n)} {kind} heads, {method}, {where} rows, logit difference against {sets}"}
                | {"c": compared, "p": compared.p}
            )
    adjust(found)
    return [
        f"{row['about']}: {difference_text(of.value, of.low, of.high)}, p = {row['p']:.2g}, "
        f"q = {row['p_adjusted']:.2g} ({of.n} sets)"
        for row in found
        for of in (row["c"].difference,)
    ]


def _single(effects: pd.DataFrame) -> list[str]:
    """The heads that matter most alone."""
    alone = effects[effects["head"].notna() & (effects["metric"] == "ld")]
    if alone.empty:
        return []
    means = alone.groupby(["layer", "head"])["value"].mean().reset_index()
    ranked = sorted(records(means), key=lambda row: -abs(row["value"]))
    listed = ", ".join(
        f"({int(row['layer'])},{int(row['head'])}) {difference_text(row['value'])}" for row in ranked[:5]
    )
    small = int((means["value"].abs() < 0.05 * max(1e-12, float(means["value"].abs().max()))).sum())
    return [
        f"single heads that move the answer's logit difference most: {listed}",
        f"{small} of {len(means)} heads do less than a twentieth of the first alone",
    ]
