"""Batched generation with Hugging Face, reproducible batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch

from interp.lens import Lens
from interp.stats import seed_for
from interp.trace import end_ids


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt. Temperature 0 is greedy; above 0 it samples from the whole distribution."""

    temperature: float = 0.0
    max_new_tokens: int = 256
    top_p: float = 1.0


@dataclass(frozen=True)
class Response:
    """Prompt and continuation as token ids. `finished`: it ended with an end-of-sequence token, kept in `ids`."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    finished: bool


class Backend(StrEnum):
    """What runs the generation."""

    HUGGING_FACE = "huggingface"
    """transformers, on the very model that is measured."""
    VLLM = "vllm"
    """vLLM, where it is installed: faster on GPUs; its samples are not those of transformers."""


class Generator(Protocol):
    """Continues a batch of prompt texts; the random stream depends on (seed, labels) alone."""

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]: ...


@dataclass(frozen=True)
class HuggingFaceGenerator:
    """`generate` with its model."""

    lens: Lens

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
        return generate(self.lens, prompts, sampling, seed, *labels)


@torch.no_grad()
def generate(lens: Lens, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
    """Continues a batch of prompt texts, which contain their special tokens.

    The random stream depends on (seed, labels) alone. Padding is on the left and masked out.
    """
    batch = lens.tokenizer(list(prompts), add_special_tokens=False, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"].to(lens.device), batch["attention_mask"].to(lens.device)
    ends = end_ids(lens.tokenizer) | _configured_ends(lens)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    chosen: dict[str, bool | float | None] = {**greedy}
    if sampling.temperature > 0:
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    with torch.random.fork_rng(devices=[lens.device] if lens.device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, *labels))
        out = lens.hf.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=lens.tokenizer.pad_token_id,
            **chosen,
        )
    responses = []
    for row, prompt, real in zip(out[:, ids.shape[1] :].tolist(), ids.tolist(), mask.tolist(), strict=True):
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), None)
        prompt_ids = tuple(token for token, keep in zip(prompt, real, strict=True) if keep)
        responses.append(Response(prompt_ids, tuple(row[:stop]), finished=stop is not None))
    return responses


def _configured_ends(lens: Lens) -> set[int]:
    configured = lens.hf.generation_config.eos_token_id
    return {i for i in (configured if isinstance(configured, list) else [configured]) if i is not None}
