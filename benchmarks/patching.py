"""Suffix patching against the hook-by-hook loop and TransformerLens' patching module: time and equality in one run.

    python benchmarks/patching.py                                # smollm2-135m, 600 tokens: make smollm2
    python benchmarks/patching.py --tokens 300 600 1200 --grid   # also all layers x all positions of the second half

The loops are timed on some of the patches (--loop), evenly spread over layers and positions, after one that warms up;
each patch costs them the same. Ours is timed whole, its two base passes in, and without them. Differences are those of
the logit difference between two tokens over the timed patches, beside the same in float64 (the floor of rounding).

A model of another size with random weights: --hidden, --layers, --heads, --kv-heads, --mlp, --vocab, --dtype, --device.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import torch
from attention import add_model_options, load
from transformer_lens import patching as tl_patching

from interp.model.lens import Lens, from_memory
from interp.model.sites import Site
from interp.patching.exact import BUDGET_BYTES, Patch, Run, record, sweep


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[600])
    parser.add_argument("--loop", type=int, default=12, help="patches that the loops are timed on")
    parser.add_argument("--grid", action="store_true", help="also all layers x all positions of the second half")
    parser.add_argument("--budget-mb", type=int, default=BUDGET_BYTES // 2**20)
    add_model_options(parser)
    return parser.parse_args()


def main() -> None:
    options = parse()
    lens = load(options)
    print(
        "| tokens | positions before the end | patches | way | s a patch | suffix is faster | without base passes "
        "| difference |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for tokens in options.tokens:
        clean, corrupted = sequences(tokens, lens.hf.config.vocab_size)
        sets = {"120, 119, 5, 1": (120, 119, 5, 1), "5, 4, 3, 2, 1": (5, 4, 3, 2, 1)}
        if options.grid:
            sets[f"{tokens // 2} to 1"] = tuple(range(tokens // 2, 0, -1))
        for name, before in sets.items():
            compare(lens, clean, corrupted, name, [tokens - b for b in before], options)
    floor(lens, *sequences(min(options.tokens), lens.hf.config.vocab_size))


def sequences(tokens: int, vocab: int) -> tuple[list[int], list[int]]:
    """Two sequences that differ in every tenth token."""
    rng = np.random.default_rng(0)
    clean = rng.integers(10, vocab, tokens)
    corrupted = clean.copy()
    corrupted[::10] = rng.integers(10, vocab, len(corrupted[::10]))
    return clean.tolist(), corrupted.tolist()


def ld(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., 100] - logits[..., 200]


def compare(
    lens: Lens, clean: list[int], corrupted: list[int], name: str, positions: list[int], options: argparse.Namespace
) -> None:
    patches = [Patch(Site.RESID_PRE, layer, (p,)) for p in positions for layer in range(lens.n_layers)]
    start = time.perf_counter()
    source, target = record(lens, clean), record(lens, corrupted)
    base = time.perf_counter() - start
    start = time.perf_counter()
    budget = options.budget_mb * 2**20
    ours = sweep(lens, target, source, patches, lambda logits: {"ld": ld(logits)}, budget_bytes=budget)["ld"]
    swept = time.perf_counter() - start
    timed = np.unique(np.linspace(0, len(patches) - 1, options.loop).astype(int)).tolist()
    loops = {"loop of hooks": hook_loop, "TransformerLens patching": tl_loop}
    n = len(patches)
    row = f"| {len(clean)} | {name} | {n} |"
    lines = [f"{row} suffix | {(base + swept) / n:.4f} | | | |"]
    for way, loop in loops.items():
        each, values = loop(lens, target, source, [patches[i] for i in timed])
        difference = (values - ours[timed]).abs().max().item()
        faster = f"{each * n / (base + swept):.1f} | {each * n / swept:.1f}"
        lines.append(f"{row} {way} | {each:.4f} | {faster} | {difference:.1e} |")
    print("\n".join(lines), flush=True)
    print(
        f"<!-- base passes {base:.2f} s, sweep {swept:.2f} s; the loops were timed on {len(timed)} patches -->",
        flush=True,
    )


def hook_loop(lens: Lens, target: Run, source: Run, patches: Sequence[Patch]) -> tuple[float, torch.Tensor]:
    """Seconds a patch and the logit differences of one full forward pass a patch."""
    ids = torch.tensor([target.ids], device=lens.device)

    def one(patch: Patch) -> torch.Tensor:
        def write(activation: torch.Tensor, hook: object) -> torch.Tensor:  # noqa: ARG001
            activation[0, patch.positions[0]] = source.resid[patch.layer, patch.positions[0]]
            return activation

        hooks: Any = [(patch.site.hook(patch.layer), write)]
        return ld(
            lens.bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits", logits_to_keep=1)[0, -1].double()
        )

    return timed_loop([lambda patch=patch: one(patch) for patch in patches])


def tl_loop(lens: Lens, target: Run, source: Run, patches: Sequence[Patch]) -> tuple[float, torch.Tensor]:
    """The same through TransformerLens' `generic_activation_patch`, one call a patch."""
    ids = torch.tensor([target.ids], device=lens.device)
    cache = {Site.RESID_PRE.hook(layer): source.resid[layer][None] for layer in range(lens.n_layers)}

    class ByName(dict):
        """What the setter asks for: the cached activation under TransformerLens' name, whatever its alias."""

        def __missing__(self, key: str) -> torch.Tensor:
            return cache[Site.RESID_PRE.hook(int(key.split(".")[1]))]

    def one(patch: Patch) -> torch.Tensor:
        found = tl_patching.generic_activation_patch(
            lens.bridge,
            ids,
            ByName(cache),
            lambda logits: ld(logits[0, -1].double()),
            patch_setter=tl_patching.layer_pos_patch_setter,
            activation_name="resid_pre",
            index_df=pd.DataFrame({"layer": [patch.layer], "pos": [patch.positions[0]]}),
        )
        return found[0].double()

    return timed_loop([lambda patch=patch: one(patch) for patch in patches])


@torch.no_grad()
def timed_loop(calls: Sequence[Any]) -> tuple[float, torch.Tensor]:
    calls[0]()
    start = time.perf_counter()
    values = torch.stack([call() for call in calls])
    return (time.perf_counter() - start) / len(calls), values.cpu()


def floor(lens: Lens, clean: list[int], corrupted: list[int]) -> None:
    """The same comparison in float64, where rounding is out of the way."""
    lens.hf.double()
    exact = from_memory("float64", lens.hf, lens.tokenizer)
    # A hook that changes nothing makes ours go through the bridge's blocks: the fused ones round to float32 in places.
    hooks: Any = [("blocks.0.hook_resid_pre", lambda resid, hook: resid)]  # noqa: ARG005
    source, target = record(exact, clean, hooks=hooks), record(exact, corrupted, hooks=hooks)
    patches = [Patch(Site.RESID_PRE, layer, (len(clean) - 120,)) for layer in range(0, exact.n_layers, 6)]
    ours = sweep(exact, target, source, patches, lambda logits: {"ld": ld(logits)}, hooks=hooks)["ld"]
    _, values = hook_loop(exact, target, source, patches)
    print(
        f"in float64, {len(clean)} tokens, {len(patches)} patches: largest difference {(values - ours).abs().max():.1e}"
    )


if __name__ == "__main__":
    main()
