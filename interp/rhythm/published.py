"""Numbers that the papers publish, to stand beside ours where the model is theirs."""

from __future__ import annotations

from interp.rhythm.couplings import Coupling

COUPLINGS: dict[str, dict[Coupling, tuple[float, float]]] = {
    "qwen3-4b-base": {
        Coupling.ENTROPY: (0.3608, 0.2386),
        Coupling.RECEIVER: (0.6084, 0.2241),
        Coupling.FOLLOWING: (0.5253, 0.3687),
    },
}
"""Value at events and baseline, all layers (Paper B, Table 2). The unit of its entropies is not stated."""
LIFTS: dict[str, dict[str, dict[Coupling, float]]] = {
    "qwen3-4b-base": {
        "top": {Coupling.RECEIVER: 2.96, Coupling.ENTROPY: 0.38, Coupling.FOLLOWING: 0.60},
        "middle": {Coupling.RECEIVER: 1.27, Coupling.ENTROPY: 0.26, Coupling.FOLLOWING: 0.26},
        "bottom": {Coupling.RECEIVER: 1.05, Coupling.ENTROPY: 0.52, Coupling.FOLLOWING: 0.37},
        "all": {Coupling.RECEIVER: 1.7149, Coupling.ENTROPY: 0.5197, Coupling.FOLLOWING: 0.4247},
    },
    "llama-3.1-8b": {"all": {Coupling.RECEIVER: 1.987, Coupling.ENTROPY: 0.282, Coupling.FOLLOWING: 0.341}},
}
"""Value / baseline - 1 by layers (Paper B, Tables 2, 10 and 12)."""

CREDIT: dict[str, float] = {
    "uniform": 0.526,
    "random": 0.550,
    "entropy": 0.577,
    "local_chunk": 0.599,
    "global_anchor": 0.604,
    "coupled": 0.631,
}
"""Accuracy of Qwen3-4B-Base on 512 held-out Countdown problems after training (Paper B, section 5)."""
