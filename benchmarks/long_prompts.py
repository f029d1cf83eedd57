"""Long prompts and traces in pieces against whole: seconds and peak memory, both sides in one run.

    python -m benchmarks.long_prompts                                       # qwen2.5-coder-0.5b, 8,192 tokens
    python -m benchmarks.long_prompts --lengths 16384 32752 --threads 1     # minutes to hours on a CPU
    python -m benchmarks.long_prompts --layers 2 --lengths 8192 32752       # its widths, two layers, random weights
    python -m benchmarks.long_prompts --dtype bfloat16 --tasks generate --rows 4

A text that is repeated, three tasks on it, each in a process of its own, so that its peak memory is its own:

- generate: the prompt is continued by 8 tokens
- probability: the log-probabilities of the next token behind it
- measure: all measures of experiment=heads on it as one trace

*Pieces* is what the suite does: MLPs on 2,048 tokens at a time, and in generation the prompt's tokens 1,024 at a time.
*Whole* is the same code with pieces as long as the text. Peak memory is the process's highest resident size after the
model was loaded (the system's counter is reset then), weights included; the results of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import in_a_process, peak_resident

TASKS = ("generate", "probability", "measure")
WAYS = ("whole", "pieces")
TEXT = (
    "A train leaves the station at nine with 84 people. At the second stop 17 get off and 31 get on; at the third, "
    "half of them leave. So 84 - 17 = 67, and 67 + 31 = 98, and 98 / 2 = 49. Wait, let me check this once more.\n"
)
NEW = 8


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen2.5-Coder-0.5B-Instruct", help="hub name or directory")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--layers", type=int, default=None, help="random weights in so many layers of its widths")
    parser.add_argument("--rows", type=int, default=1, help="prompts side by side, each 16 tokens shorter")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "WAY", "TOKENS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(task: str, way: str, tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, GiB before and at the peak, and numbers that both ways should agree on."""
    import torch

    from interp.model import pieces, prefixes
    from interp.model.lens import ModelSource, ModelSpec, load_lens
    from interp.model.unembedding import last_logits, trunk_of

    torch.set_num_threads(options.threads)
    if way == "whole":
        pieces.PIECE_TOKENS = prefixes.WHOLE_TOKENS = sys.maxsize
    spec = ModelSpec("model", ModelSource.PRETRAINED, options.model, dtype=options.dtype)
    lens = load_lens(spec) if options.layers is None else shallow(spec, options.layers)
    trunk_of(lens)
    ids = lens.tokenizer(TEXT * (tokens // 40 + 1), add_special_tokens=False)["input_ids"][:tokens]
    assert len(ids) == tokens
    before = resident()
    reset_peak()
    started = time.perf_counter()
    if task == "generate":
        found = generated(lens, ids, options.rows)
    elif task == "probability":
        logits = last_logits(lens, torch.tensor([ids], device=lens.device))[0]
        found = logits.log_softmax(-1).topk(8).values.tolist()
    else:
        found = measured(lens, ids)
    return {"seconds": time.perf_counter() - started, "before": before, "peak": peak_resident(), "found": found}


def shallow(spec: Any, layers: int) -> Any:
    """Random weights of the model's widths in a few layers: they hold as much at a time, but for keys and values."""
    import torch
    from transformers import AutoModelForCausalLM

    from interp.model.lens import from_memory, load_config, load_tokenizer

    config: Any = load_config(spec)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec.dtype))
    return from_memory(spec.name, model, load_tokenizer(spec))


def generated(lens: Any, ids: list[int], rows: int) -> list[float]:
    from interp.model.generate import Sampling, continue_ids

    prompts = [ids[16 * row :] for row in range(rows)]
    return [float(token) for one in continue_ids(lens, prompts, Sampling(max_new_tokens=NEW)) for token in one.ids]


def measured(lens: Any, ids: list[int]) -> list[float]:
    from interp.heads.measure import HeadMeasures, measure_heads
    from interp.text.trace import Segment, Span, Trace

    lengths = [1, 80, 1, len(ids) - 384, 1, 301]
    ends = np.cumsum(lengths)
    spans = tuple(Span(s, int(end - n), int(end)) for s, n, end in zip(Segment, lengths, ends, strict=True))
    offsets = tuple((i, i + 1) for i in range(len(ids)))
    trace = Trace("made", "." * len(ids), tuple(ids), offsets, spans, "made")
    rows = measure_heads(lens, trace, HeadMeasures(), 0)
    return [row["answer_reasoning"] for row in rows]


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def reset_peak() -> None:
    """Linux forgets the highest resident size so far."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], int(options.one[2]), options)))
        return
    depth = "" if options.layers is None else f", random weights in {options.layers} layers"
    about = f"{options.dtype}, {options.threads} threads, {options.rows} rows in generate, one run each"
    print(f"{options.model}{depth}, {about}")
    print("| tokens | task | way | s | peak GiB | of it above the weights | whole / this | largest difference |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for tokens in options.lengths:
        for task in options.tasks:
            results = {way: in_a_process(task, way, tokens) for way in options.ways}
            whole = results.get("whole")
            for way, result in results.items():
                if result is None:
                    continue
                extra, ratio, difference = result["peak"] - result["before"], "", ""
                if whole is not None:
                    ratio = f"{(whole['peak'] - whole['before']) / max(extra, 1e-9):.2f}"
                    apart = np.abs(np.array(whole["found"]) - np.array(result["found"])).max()
                    difference = f"{apart:.2g}"
                print(
                    f"| {tokens} | {task} | {way} | {result['seconds']:.1f} | {result['peak']:.2f} | {extra:.2f} "
                    f"| {ratio} | {difference} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
