"""Where credit goes on one trace: the rows of credited.parquet."""

from __future__ import annotations

from typing import Any

import torch

from interp.credit.gamma import CreditRule, Signals, gamma_of
from interp.credit.signals import Measuring
from interp.model.lens import Lens
from interp.rhythm.waad_fai import measure_rhythm, response_of
from interp.stats import or_null, rng_for
from interp.text.trace import Trace

SHOWN = ("waad", "fai", "entropy")


def credited_rows(lens: Lens, trace: Trace, rule: CreditRule, measuring: Measuring, seed: int) -> list[dict[str, Any]]:
    """WAAD, FAI, entropy and gamma of each token of a response. An end-of-sequence token has no row."""
    curves, entropy = measure_rhythm(lens, trace, measuring.settings, [measuring.sinks])
    of_heads, heads = curves[measuring.sinks], measuring.heads
    values = {
        "waad": of_heads.over(heads.local, "waad"),
        "fai": of_heads.over(heads.far, "fai"),
        "entropy": entropy,
        "noise": rng_for(seed, "credited").random(len(entropy)),
    }
    signals = Signals(**{name: torch.tensor(values[name])[None] for name in values})
    gamma = gamma_of(rule, signals, torch.ones(1, len(entropy), dtype=torch.long))[0]
    return [
        {
            "example": trace.example,
            "position": position,
            "token": trace.token_text(position),
            "segment": trace.segment_at(position),
            **{name: or_null(values[name][i]) for name in ("waad", "fai", "entropy")},
            "gamma": float(gamma[i]),
        }
        for i, position in enumerate(response_of(trace))
    ]
