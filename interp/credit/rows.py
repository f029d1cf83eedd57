"""Where credit goes on one trace: the rows of credited.parquet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.credit.gamma import CreditRule, Signals, gamma_of
from interp.credit.signals import Measuring
from interp.model.lens import Lens
from interp.rhythm.waad_fai import measure_rhythm, response_of
from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.stats import or_null, rng_for
from interp.text.token_kinds import Boundary, boundary_positions, sentence_numbers
from interp.text.trace import Trace

CREDITED_TABLE = Table(
    "credited",
    EXAMPLE,
    Column("position", INT, "position in the whole sequence, from 0"),
    Column("token", TEXT, "the token's text"),
    Column("segment", TEXT, "segment of the token", null="a final end-of-sequence token"),
    Column("waad", FLOAT, "WAAD over the local heads, 0..W (Paper B, Def. 4.1)", null="undefined here"),
    Column("fai", FLOAT, "FAI over the global heads, 0..1 (Paper B, Def. 4.2)", null="its window is empty"),
    Column("entropy", FLOAT, "entropy of the prediction of this token, in nats", null="undefined here"),
    Column("gamma", FLOAT, "factor on the token's advantage (Paper B, section 5)"),
)


SHOWN = ("waad", "fai", "entropy")


def gamma_on(
    lens: Lens,
    trace: Trace,
    rule: CreditRule,
    measuring: Measuring,
    seed: int,
    decisions: Bool[Tensor, " token"] | None = None,
) -> tuple[dict[str, Float[np.ndarray, " token"]], Float[Tensor, " token"]]:
    """What WAAD, FAI and entropy are on the tokens of a response, and the gamma that a rule makes of them.

    Without an end-of-sequence token. `decisions` are the tokens that decide, where they are known.
    """
    curves, entropy = measure_rhythm(lens, trace, measuring.settings, [measuring.sinks])
    of_heads, heads = curves[measuring.sinks], measuring.heads
    values = {
        "waad": of_heads.over(heads.local, "waad"),
        "fai": of_heads.over(heads.far, "fai"),
        "entropy": entropy,
    }
    signals = Signals(
        **{name: torch.tensor(values[name])[None] for name in SHOWN},
        noise=torch.tensor(rng_for(seed, "credited", trace.example).random(len(entropy)))[None],
        decisions=None if decisions is None else decisions[None],
        sentences=torch.from_numpy(sentence_numbers(boundary_positions(trace, Boundary.SENTENCE, response_of(trace))))[
            None
        ],
    )
    return values, gamma_of(rule, signals, torch.ones(1, len(entropy), dtype=torch.long))[0]


def credited_rows(
    lens: Lens,
    trace: Trace,
    rule: CreditRule,
    measuring: Measuring,
    seed: int,
    decisions: Bool[Tensor, " token"] | None = None,
) -> list[dict[str, Any]]:
    """WAAD, FAI, entropy and gamma of each token of a response, as in `gamma_on`."""
    values, gamma = gamma_on(lens, trace, rule, measuring, seed, decisions)
    return [
        {
            "example": trace.example,
            "position": position,
            "token": trace.token_text(position),
            "segment": trace.segment_at(position),
            **{name: or_null(values[name][i]) for name in SHOWN},
            "gamma": float(gamma[i]),
        }
        for i, position in enumerate(response_of(trace))
    ]
