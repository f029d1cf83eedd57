"""Are TransformerLens' hooks on this model a true instrument? Asked before the first hook of a user's own is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.trial import some_ids, tried

RELATIVE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_TOLERANCE = 0.1
"""Relative tolerance of half-precision logits: rounding alone moves them by per cents."""


def require_bridge(lens: Lens) -> None:
    """Raises UserError where TransformerLens cannot run the model or runs it otherwise than Hugging Face does."""
    tried(lens, "hooks of TransformerLens", lambda: check_bridge(lens))


@dataclass(frozen=True)
class BridgeCheck:
    """What was measured on a sequence of `CHECK_TOKENS` ordinary tokens; all differences are absolute."""

    logit_scale: float
    """Largest absolute logit, to judge the differences by."""
    logits_bridge_vs_eager: float
    """Bridge against Hugging Face with eager attention: the same arithmetic, so about zero."""
    logits_bridge_vs_fused: float
    """Bridge against Hugging Face with fused attention, which the fast paths use."""
    pattern_row_sum_error: float
    pattern_on_future: float
    """Largest attention weight on a later position."""
    causal_leak: float
    """Change of the logits before the last position when the last token changes."""
    hooks_fired: int
    """Number of layers whose pattern hook fired."""
    tolerance: float


@torch.no_grad()
def check_bridge(lens: Lens) -> dict[str, float | int]:
    """Compares the bridge with the model; raises UserError if hooks of TransformerLens cannot be trusted on it."""
    ids = torch.tensor([some_ids(lens)], device=lens.device)
    patterns: dict[str, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: object) -> None:  # noqa: ARG001 - TransformerLens passes it by name
        patterns[str(len(patterns))] = pattern.float()

    hooks: list[tuple[str | Callable, Callable]] = [
        (f"blocks.{layer}.attn.hook_pattern", keep) for layer in range(lens.n_layers)
    ]
    bridged = lens.bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits").float()
    fused = lens.hf(ids).logits.float()
    lens.hf.set_attn_implementation("eager")
    eager = lens.hf(ids).logits.float()
    lens.hf.set_attn_implementation(lens.attention)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % lens.n_tokens
    changed = lens.bridge(other, return_type="logits").float()

    stacked = torch.stack([p[0].to(lens.device) for p in patterns.values()]) if patterns else torch.zeros(0, 1, 1, 1)
    scale = fused.abs().max().item()
    result = BridgeCheck(
        logit_scale=scale,
        logits_bridge_vs_eager=(bridged - eager).abs().max().item(),
        logits_bridge_vs_fused=(bridged - fused).abs().max().item(),
        pattern_row_sum_error=(stacked.sum(-1) - 1).abs().max().item() if patterns else float("nan"),
        pattern_on_future=stacked.triu(1).abs().max().item() if patterns else float("nan"),
        causal_leak=(changed - bridged)[:, :-1].abs().max().item(),
        hooks_fired=len(patterns),
        tolerance=RELATIVE_TOLERANCE.get(lens.hf.dtype, HALF_TOLERANCE) * scale,
    )
    wrong = []
    if result.hooks_fired != lens.n_layers:
        wrong.append(f"pattern hooks fired in {result.hooks_fired} of {lens.n_layers} layers")
    if not max(result.logits_bridge_vs_eager, result.logits_bridge_vs_fused) <= result.tolerance:
        rounded = lens.hf.dtype in (torch.float16, torch.bfloat16) and result.logits_bridge_vs_eager <= result.tolerance
        why = " by what half precision rounds in its scores: use model.dtype=float32" if rounded else ""
        wrong.append(f"the bridge's logits differ from Hugging Face's{why}")
    if not max(result.pattern_row_sum_error, result.pattern_on_future) <= 0.01:
        wrong.append("the patterns are not causal probability rows")
    if not result.causal_leak <= result.tolerance:
        wrong.append("a later token changes earlier logits")
    if wrong:
        raise UserError(f"model {lens.name} cannot be measured with TransformerLens: {'; '.join(wrong)}")
    return asdict(result)
