"""What measuring attention costs beside a plain forward pass: CPU time and peak memory, all in one run.

    python -m benchmarks.measuring --hidden 512                              # a random Qwen2: 4 layers, 8 heads of 64
    python -m benchmarks.measuring --hidden 512 --lengths 2048 4096 --layer

Each measurement runs in a process of its own, so that its peak memory is its own. Three ways of one pass:

- plain: the model alone, with fused attention
- weights: all measures of experiment=heads (masses from every segment, received attention by token and by sentence,
  attended positions); the blocks of weights that they are taken from also make the layers' output
- fused: the same measures, the output by fused attention beside the blocks

`--layer` compares ways to measure within one layer's attention alone: fused attention; blocks of weights with the
output, masses and column sums out of them; one fused call with the indicators of eight segments as further values,
which gives the masses; and one more with queries and keys exchanged and each row's normaliser as a further dimension,
whose log-sum-exp is that of the column sums.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.attention import add_model_options, load, make_trace, peak
from benchmarks.processes import in_a_process

WAYS = ("plain", "weights", "fused")
SENTENCE = 20
"""Tokens of a sentence."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layer", action="store_true", help="ways to measure one layer")
    add_model_options(parser)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "TOKENS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def clock(device: str) -> float:
    """Seconds of the processor's time where it does the work, which other processes do not stretch."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def measure(way: str, tokens: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one pass, peak memory of the process (or GPU) in GiB, and what the model alone took of it."""
    import torch

    from interp.heads.reductions import AttendedPositions, ReceivedAttention, ReceivedBySentences, SegmentMasses
    from interp.model.streaming import Output, stream
    from interp.model.unembedding import trunk_of
    from interp.text.trace import Segment

    torch.set_num_threads(options.threads)
    lens = load(options)
    trunk, shape = trunk_of(lens), (lens.n_layers, lens.n_heads)

    def one_pass(n: int) -> float:
        trace = make_trace(n, lens.n_tokens)
        if way == "plain":
            with torch.no_grad():
                trunk(torch.tensor([trace.token_ids], device=lens.device), use_cache=False)
            return float("nan")
        reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
        response, keys = range(reasoning.start, answer.end), range(reasoning.start, reasoning.end)
        masses = SegmentMasses(trace, *shape, list(Segment))
        stream(
            lens,
            trace.token_ids,
            masses,
            ReceivedAttention(response, response, *shape, gap=10),
            ReceivedBySentences([(i, min(i + SENTENCE, keys.stop)) for i in keys[::SENTENCE]], *shape),
            AttendedPositions(range(answer.start, answer.end), keys, *shape),
            output=Output(way),
        )
        return float(masses.of(Segment.ANSWER, Segment.REASONING).mean())

    one_pass(512)
    model_alone, start = peak(lens), clock(options.device)
    mass = one_pass(tokens)
    return {"seconds": clock(options.device) - start, "above": peak(lens) - model_alone, "mass": mass}


def layer(tokens: int, heads: int, kv_heads: int, d: int) -> dict[str, float]:
    """Seconds of each way to measure one layer on the CPU, the better of two."""
    import torch
    from torch.nn.functional import pad

    from interp.heads.reductions import ReceivedAttention, SegmentMasses
    from interp.model.attention import LayerAttention
    from interp.model.streaming import BLOCK_BYTES, Output, _Pass
    from interp.text.trace import Segment

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, tokens, d, generator=generator) for n in (heads, kv_heads, kv_heads))
    module: Any = torch.nn.Identity()
    module.num_key_value_groups = heads // kv_heads
    call = LayerAttention(module, 0, query, key, value, None, None)
    trace = make_trace(tokens, 1000)
    repeated = [one.repeat_interleave(heads // kv_heads, 1) for one in (key, value)]
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    columns = torch.zeros(tokens, 8)
    for i, span in enumerate(trace.spans):
        columns[span.start : span.end, i] = 1

    def fused() -> Any:
        return call.output(None)

    def blocks() -> tuple[Any, Any]:
        masses = SegmentMasses(trace, 1, heads, list(Segment))
        received = ReceivedAttention(range(tokens), range(tokens), 1, heads, gap=0)
        _Pass([masses, received], BLOCK_BYTES["cpu"], heads, Output.WEIGHTS).attend(call)
        return masses.mass[0], received.received[0] * received.n_queries

    def with_columns() -> Any:
        beside = columns.expand(1, heads, tokens, 8)
        wide = [pad(one, (0, 8)) for one in (query, repeated[0])]
        weighted = attend(*wide, torch.cat([repeated[1], beside], -1), 0.0, True, scale=d**-0.5)[0]
        means = [weighted[0, :, span.start : span.end, d : d + len(trace.spans)].mean(1) for span in trace.spans]
        return torch.stack(means, 1).double()

    normaliser = attend(query, *repeated, 0.0, True)[1]

    def exchanged() -> Any:
        queries = torch.cat([query, -normaliser[..., None] * d**0.5], -1).flip(2)
        keys = torch.cat([repeated[0], torch.ones(1, heads, tokens, 1)], -1).flip(2)
        return attend(keys, queries, queries, 0.0, True, scale=d**-0.5)[1][0].flip(1).exp().double()

    masses, sums = blocks()
    torch.testing.assert_close(with_columns(), masses, atol=1e-5, rtol=0)
    torch.testing.assert_close(exchanged(), sums, atol=1e-4, rtol=1e-4)
    ways: list[Callable[[], Any]] = [fused, blocks, with_columns, exchanged]
    return {way.__name__: min(_seconds(way) for _ in range(2)) for way in ways}


def _seconds(way: Callable[[], Any]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return
    if options.layer:
        import torch

        torch.set_num_threads(options.threads)
        print(
            "| tokens | fused, s | blocks / fused | with columns / fused | exchanged / fused |\n|---|---|---|---|---|"
        )
        for tokens in options.lengths:
            found = layer(tokens, options.heads, options.kv_heads, (options.hidden or 512) // options.heads)
            ratios = [found[way] / found["fused"] for way in ("blocks", "with_columns", "exchanged")]
            print(f"| {tokens} | {found['fused']:.2f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
        return
    print("| tokens | way | s | / plain | GiB above the model | mean mass |\n|---|---|---|---|---|---|", flush=True)
    above = []
    for tokens in options.lengths:
        results = {way: in_a_process(way, tokens) for way in WAYS}
        if (plain := results["plain"]) is None or None in results.values():
            continue
        for way, found in results.items():
            ratio = found["seconds"] / plain["seconds"]
            cells = f"{found['seconds']:.2f} | {ratio:.2f} | {found['above']:.3f} | {found['mass']:.6f}"
            print(f"| {tokens} | {way} | {cells} |", flush=True)
        above.append(results["weights"]["above"])
    if len(above) > 1:
        power = np.polyfit(np.log(options.lengths), np.log(above), 1)[0]
        print(f"memory of `weights` above the model grows as tokens^{power:.2f}, over {len(above)} lengths")


if __name__ == "__main__":
    main()
