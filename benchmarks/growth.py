"""How the cost of a run grows: in tokens, heads, traces and workers, measured here, and a large run by arithmetic.

    python -m benchmarks.growth                      # all of it; minutes on one core
    python -m benchmarks.growth --parts tokens heads
    python -m benchmarks.growth --parts arithmetic   # nothing is run

- tokens, heads: all measures of experiment=heads on one made trace, random weights of Llama's architecture
- traces: whole commands, experiment=heads on reasoner without its probes, by 1 and by 2 workers, with equal tables.
  What 1, 2 and 8 workers would take with a core each is simulated from the CPU seconds of a start and of a trace, and
  says so: the run's own start, then those of its workers side by side, each with its share of the traces.
- arithmetic: Llama-8B, 500 traces of 8,192 tokens, on 1 and 64 GPUs, by operations and bytes. Not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.attention import make_trace
from benchmarks.shards import check_equal, timed
from interp.heads.measure import HeadMeasures, measure_heads
from interp.model.lens import Lens, from_memory
from interp.organisms.planted import planted_words
from interp.organisms.word_tokenizer import word_tokenizer
from interp.runs.store import read_table, records

PARTS = ("tokens", "heads", "traces", "arithmetic")
SIMULATED = 8
SMALL = ["experiment.haystack.lengths=[]", "experiment.induction_prompts=0", "experiment.maps=0"]
SMALL += ["experiment.explore.traces=0", "experiment.unrelated=false", "experiment.random_sets=20"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--heads", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--traces", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} CPU cores, one thread; medians of {options.repeats} runs, of commands one run each")
    for part in options.parts:
        PRINTED[part](options)


def by_tokens(options: argparse.Namespace) -> None:
    lens = made(heads=8)
    growth("tokens", options.tokens, [seconds(lens, n, options.repeats) for n in options.tokens])


def by_heads(options: argparse.Namespace) -> None:
    times = [seconds(made(heads=n), 1024, options.repeats) for n in options.heads]
    growth("heads a layer (of 64 dimensions, 1,024 tokens)", options.heads, times)


def made(heads: int) -> Lens:
    """Four layers, whose width grows with their heads as in real models."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=64 * heads,
        intermediate_size=192 * heads,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=131072,
    )
    torch.manual_seed(0)
    return from_memory("random", AutoModelForCausalLM.from_config(config), word_tokenizer(planted_words()))


def seconds(lens: Lens, tokens: int, repeats: int) -> float:
    """Of one trace, once everything is warm."""
    measure_heads(lens, make_trace(512, 1000), HeadMeasures(permutations=0), 0)
    taken, trace = [], make_trace(tokens, 1000)
    for _ in range(repeats):
        started = time.perf_counter()
        measure_heads(lens, trace, HeadMeasures(permutations=0), 0)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def growth(what: str, sizes: list[int], times: list[float]) -> None:
    print(f"\n| {what} | seconds | grows since the last as its power |")
    print("|---|---|---|")
    for i, (size, took) in enumerate(zip(sizes, times, strict=True)):
        power = f"{np.log(took / times[i - 1]) / np.log(size / sizes[i - 1]):.2f}" if i else ""
        print(f"| {size} | {took:.2f} | {power} |", flush=True)


def by_traces(options: argparse.Namespace) -> None:
    n = max(options.traces)
    with tempfile.TemporaryDirectory() as folder:
        file = given(Path(folder), n)
        taken = [timed(command(file, size), 1, Path(folder) / str(size)) for size in options.traces]
        two = timed(command(file, n), 2, Path(folder) / "two")
        check_equal(Path(folder) / str(n), Path(folder) / "two")
    print("\n| traces | workers | seconds of the command | CPU seconds |")
    print("|---|---|---|---|")
    for size, (elapsed, cpu) in zip(options.traces, taken, strict=True):
        print(f"| {size} | 1 | {elapsed:.1f} | {cpu:.1f} |")
    print(f"| {n} | 2 | {two[0]:.1f} | {two[1]:.1f} |")
    slope, start = np.polyfit(options.traces, [cpu for _, cpu in taken], 1)
    print(f"CPU seconds: {start:.1f} to begin and end, {slope:.3f} a trace")
    for workers in (1, 2, SIMULATED):
        starts = 1 if workers == 1 else 2
        total = starts * start + slope * n / workers
        print(f"simulated, {n} traces, {workers} workers with a core each: {total:.1f} s")
    even = start / (slope * (1 - 1 / SIMULATED))
    print(f"simulated: {SIMULATED} workers take less time than one process from {even:.0f} traces on", flush=True)


def command(file: Path, n: int) -> list[str]:
    data = ["data=traces", f"data.path={file}", f"data.limit={n}"]
    return ["experiment=heads", "model=reasoner", *data, *SMALL]


def given(folder: Path, n: int) -> Path:
    """n traces: those of reasoner, again and again under other names."""
    timed(["experiment=heads", "model=reasoner", "data.limit=16", *SMALL], 1, folder / "made")
    rows = records(read_table(folder / "made", "traces"))
    lines = [json.dumps({"id": f"t{i}", "text": rows[i % len(rows)]["text"]}) for i in range(n)]
    file = folder / "traces.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


@dataclass(frozen=True)
class Large:
    """Llama 3.1 8B on one GPU of the class of an H100, and what is asked of it."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    kv_width: int = 1024
    matrices: float = 6.98e9
    """Parameters of the layers; embeddings take no product."""
    unembedding: float = 0.53e9
    traces: int = 500
    tokens: int = 8192
    prompt: int = 256
    batch: int = 16
    bf16: float = 0.4 * 989e12
    """Operations a second in bfloat16: 40 % of the peak."""
    fp32: float = 0.5 * 67e12
    """Of the measured scores, which are float32: half of the peak."""
    bandwidth: float = 0.6 * 3.35e12
    """Bytes a second: 60 % of the peak."""
    step: float = 0.025
    """Seconds that transformers itself takes for a step of generation, whatever the batch."""
    readings: int = 8
    """How often reductions read or write a block of weights."""

    def forward(self) -> float:
        """Operations of one pass over a trace: matrices, and causal attention (two products over half the square)."""
        return 2 * self.matrices * self.tokens + 2 * self.tokens**2 * self.width * self.layers

    def measuring(self) -> float:
        """Seconds of all measures of a trace: a pass, scores once more in float32, and what reductions read."""
        scores = self.tokens**2 * self.width * self.layers
        blocks = self.readings * 4 * self.tokens**2 / 2 * self.heads * self.layers
        return self.forward() / self.bf16 + scores / self.fp32 + blocks / self.bandwidth

    def generating(self) -> float:
        """Seconds of a batch: weights and keys and values are read for every token."""
        weights = 2 * (self.matrices + self.unembedding)
        keys_values = self.batch * 2 * 2 * self.kv_width * self.layers * self.tokens / 2
        return (self.tokens - self.prompt) * (self.step + (weights + keys_values) / self.bandwidth)

    def patch(self) -> float:
        """Seconds of one patch at an average place: half of the layers, half of the positions."""
        return self.forward() / 4 / self.bf16


def by_arithmetic(_: argparse.Namespace) -> None:
    """Printed with everything that it assumes."""
    one = Large()
    print(f"\nBy arithmetic, not measured: {one}")
    batches = -(-one.traces // one.batch)
    print("| part | one unit | units | hours on 1 GPU | hours on 64 GPUs | busy of the 64 |")
    print("|---|---|---|---|---|---|")
    for name, each, units in (
        ("generating (batches of 16)", one.generating(), batches),
        ("measuring: `heads` or `rhythm`", one.measuring(), one.traces),
        ("measuring: `ablate`, 60 cuts of heads", 60 * one.forward() / one.bf16, one.traces),
        ("exact patches: 512 places in each of 32 layers of 8 traces", one.patch() * 512 * one.layers, 8),
    ):
        rounds = -(-units // 64)
        print(
            f"| {name} | {each:.1f} s | {units} | {each * units / 3600:.2f} | {each * rounds / 3600:.2f} "
            f"| {min(64, units)} |"
        )
    memory = 2 * (one.matrices + 2 * one.unembedding) / 2**30
    cache = one.batch * 2 * 2 * one.kv_width * one.layers * one.tokens / 2**30
    print(f"GiB on each GPU: weights {memory:.1f}, keys and values of a batch {cache:.1f} (generation)", flush=True)


PRINTED = {
    "tokens": by_tokens,
    "heads": by_heads,
    "traces": by_traces,
    "arithmetic": by_arithmetic,
}

if __name__ == "__main__":
    main()
