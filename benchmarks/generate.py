"""Responses to questions behind worked examples: as the suite generates them, against plain `model.generate`.

    python -m benchmarks.generate --model qwen2.5-coder-0.5b --questions 16 --new 64

Both sides take the same prompts in one batch, greedily, in one process; the suite computes what the prompts begin with
once and checks itself on two of them. Prints how many tokens agree (where the likeliest two lie within rounding of
each other the sides may part) and the ratio of the times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from transformers import GenerationConfig

from experiments.base.collect import Needs, condition_for
from experiments.base.session import Session
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import Lens
from interp.text.prompts import render

CONF = Path(__file__).resolve().parents[1] / "conf"


def plain(lens: Lens, prompts: list[str], new: int) -> list[list[int]]:
    """Transformers alone."""
    batch = lens.tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=lens.tokenizer.pad_token_id)
    with torch.no_grad():
        out = lens.hf.generate(**batch, generation_config=config)  # type: ignore[operator]
    return [row[batch["input_ids"].shape[1] :] for row in out.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--data", default="gsm_symbolic")
    for name, default in (("questions", 16), ("new", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["experiment=heads", f"model={options.model}", f"data={options.data}"])
    session = Session(cfg, Path(tempfile.mkdtemp()))
    lens, style = session.lens, session.prompt_style
    condition = condition_for(session, Needs.REASONING)
    questions = session.questions[: options.questions]
    prompts = [render(q.text, lens.tokenizer, lens.markers, style, condition, q.earlier) for q in questions]
    rows = [lens.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    sampling = Sampling(max_new_tokens=options.new)
    plain(lens, prompts[:2], 2)  # warm
    started = time.perf_counter()
    ours = continue_ids(lens, rows, sampling)
    between = time.perf_counter()
    theirs = plain(lens, prompts, options.new)
    slow, fast = time.perf_counter() - between, between - started
    same = sum(a == b for one, other in zip(ours, theirs, strict=True) for a, b in zip(one.ids, other, strict=False))
    n = sum(len(one.ids) for one in ours)
    lengths = sorted(map(len, rows))
    print(
        f"{options.model}, {len(rows)} prompts of {lengths[0]} to {lengths[-1]} tokens, {options.new} new tokens each"
    )
    print(f"same tokens {same / n:.3f}; suite {fast:.1f} s, plain generate {slow:.1f} s, ratio {slow / fast:.2f}")


if __name__ == "__main__":
    main()
