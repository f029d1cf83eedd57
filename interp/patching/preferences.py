"""Whether a model prefers the right answers of its contrast pairs: what NLD is normalised by.

Pairs are dropped where a run does not prefer its own answer (Paper A, Fig. 7), so those that are left always do, even
on random weights. Whether the model does is asked of all pairs that could be made, the dropped ones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from interp.patching.nld import Answers
from interp.runs.columns import BOOL, EXAMPLE, FLOAT, Column, Table
from interp.runs.headlines import Headline
from interp.runs.verdicts import Outcome, Sign, Verdict, decide, verdict
from interp.stats import Comparison, Estimate, bootstrap_mean, rng_for
from interp.text.numbers import difference_text

PREFERENCES_TABLE = Table(
    "preferences",
    EXAMPLE,
    Column("clean", FLOAT, "logit of the clean answer minus that of the corrupted one, in the clean run"),
    Column("corrupted", FLOAT, "the same in the corrupted run"),
    Column("kept", BOOL, "whether the pair was patched: `clean` above data.min_ld, `corrupted` below minus that"),
)


def preference_row(example: str, answers: Answers, min_ld: float) -> dict[str, Any]:
    """The row of preferences.parquet of one pair; `min_ld`: by how much both runs must prefer their own answers."""
    clean, corrupted = answers.ld_clean, answers.ld_corrupted
    kept = clean > min_ld and corrupted < -min_ld and clean != corrupted
    return {"example": example, "clean": clean, "corrupted": corrupted, "kept": kept}


def preferences(table: pd.DataFrame, seed: int) -> list[tuple[Headline, Sign]]:
    """The logit difference of either run over all pairs, and which way it goes in a model that prefers the right
    answers. Where it does not (an untrained model, one that cannot do the task), NLD says nothing."""
    found = []
    for side, sign in (("clean", Sign.HIGHER), ("corrupted", Sign.LOWER)):
        values = table[side].to_numpy(dtype=float)
        rng = rng_for(seed, "preference", side)
        mean, zero = bootstrap_mean(values, rng), Estimate(0.0, len(values))
        name = f"logit difference of the {side} run, all pairs"
        found.append((Headline(name, mean, "no preference", zero, Comparison.paired(values, 0.0, rng)), sign))
    return found


def verdict_if_preferred(
    claim: str, number: Headline, prefers: Sequence[tuple[Headline, Sign]], least: float
) -> Verdict:
    """The verdict on a claim that an NLD is higher than its control by more than `least`; undecided unless it is shown
    that both runs prefer their own answers, for a preference of the other's is no finding against the claim."""
    found = verdict(claim, [(number, Sign.HIGHER)], least=[least])
    lacking = next((of for of, sign in prefers if decide(of, sign) != Outcome.AGREES), None)
    if lacking is None:
        return found
    found_there = difference_text(lacking.estimate.value)
    why = f"it is not shown that both runs prefer their own answers: {lacking.name} {found_there}"
    return replace(found, outcome=Outcome.UNDECIDED, why=why)
