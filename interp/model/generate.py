"""Batched generation with Hugging Face, reproducible batch by batch: decoding is what the options say, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import torch
from transformers import Cache, GenerationConfig, LogitsProcessor

from interp.data.input_check import positions_of
from interp.grading.outcomes import extract_answer
from interp.model.decoding import OwnDraws, decoded
from interp.model.lens import Lens
from interp.model.prefixes import batches_are_right, prompt_piece, what_they_share
from interp.model.thoughts import ThoughtCloser, ThoughtRule
from interp.stats import seed_for
from interp.text.ends import end_ids
from interp.text.trace import decode_response


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt. Temperature 0 is greedy; above 0 it samples from the whole distribution."""

    temperature: float = 0.0
    max_new_tokens: int = 256
    top_p: float = 1.0
    thought: ThoughtRule | None = None
    """When a thought that the prompt opens is closed by force; None = never."""


@dataclass(frozen=True)
class Response:
    """Prompt and continuation as token ids. `finished`: it ended with an end-of-sequence token, kept in `ids`."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    finished: bool
    forced: range = range(0)
    """The places in `ids` of tokens that the model did not choose: what closed its thought."""

    @property
    def forced_positions(self) -> range:
        """The same in the whole sequence, the prompt included."""
        return range(self.forced.start + len(self.prompt_ids), self.forced.stop + len(self.prompt_ids))


class Backend(StrEnum):
    """What runs the generation."""

    HUGGING_FACE = "huggingface"
    """transformers, on the very model that is measured."""
    VLLM = "vllm"
    """vLLM, where it is installed: faster on GPUs; its samples are not those of transformers."""


class Generator(Protocol):
    """Continues a batch of prompt texts; the random stream depends on (seed, labels) alone."""

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]: ...

    def continued(
        self, rows: Sequence[Sequence[int]], sampling: Sampling, seed: int, *labels: object
    ) -> list[Continuation]:
        """The same for token sequences."""
        ...


@dataclass(frozen=True)
class HuggingFaceGenerator:
    """`generate` with its model."""

    lens: Lens

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
        return generate(self.lens, prompts, sampling, seed, *labels)

    def continued(
        self, rows: Sequence[Sequence[int]], sampling: Sampling, seed: int, *labels: object
    ) -> list[Continuation]:
        return continue_ids(self.lens, rows, sampling, seed, *labels)


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after some tokens. `finished`: it ended with an end token, the last one of `ids`."""

    ids: tuple[int, ...]
    finished: bool
    forced: range = range(0)
    """The places in `ids` of tokens that were forced."""


@dataclass(frozen=True)
class Written:
    """The answer that a model writes after some reasoning, without an end token."""

    ids: tuple[int, ...]
    text: str
    finished: bool

    @classmethod
    def of(cls, lens: Lens, continuation: Continuation) -> Written:
        ids = continuation.ids[:-1] if continuation.finished else continuation.ids
        return cls(ids, decode_response(lens.tokenizer, ids), continuation.finished)

    @property
    def answer(self) -> str | None:
        found = extract_answer(self.text)
        return None if found is None else found.strip()


def generate(lens: Lens, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
    """Continues a batch of prompt texts, which contain their special tokens.

    The random stream depends on (seed, labels) alone.
    """
    rows = [lens.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if sampling.thought is not None and not all(p.rstrip().endswith(sampling.thought.opened) for p in prompts):
        sampling = replace(sampling, thought=None)  # no thought is opened: there is none to close
    found = continue_ids(lens, rows, sampling, seed, *labels)
    return [Response(tuple(row), new.ids, new.finished, new.forced) for row, new in zip(rows, found, strict=True)]


@torch.no_grad()
def continue_ids(
    lens: Lens,
    rows: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int = 0,
    *labels: object,
    past_key_values: Cache | None = None,
    plain: bool = False,
    begun: Sequence[Sequence[int] | None] | None = None,
    draws: Sequence[int] | None = None,
) -> list[Continuation]:
    """Continues token sequences side by side, padded on the left and masked; the random stream depends on (seed,
    labels) alone. Models that padding disturbs continue one at a time.

    Nothing is written beyond the positions that the model is made for: what is cut off there is not finished, and rows
    that come near them go apart from the others. `past_key_values` holds what comes before the last token of the padded
    rows, which then have as much room (`by_room`). `begun`, with a thought rule: what each row has of its open thought,
    None for a row without one; not given, all begin one. `draws`, where it is sampled: a seed for each row, on which
    alone its draws depend, whatever is beside it; not given, all draw from one stream. `plain`, for passes that
    something acts on: all rows are computed whole and side by side, whatever their room, and nothing is compared.
    What `generation_config.json` of the weights asks for (penalties, beams, lengths, sampling) is not done.
    """
    if len(rows) > 1 and past_key_values is None and not plain:
        parts = [[i] for i in range(len(rows))]
        if batches_are_right(lens):
            parts = by_room(lens, [len(row) for row in rows], sampling.max_new_tokens)
        if len(parts) > 1:
            found_of: dict[int, Continuation] = {}
            for part in parts:
                mine, theirs = [rows[i] for i in part], None if begun is None else [begun[i] for i in part]
                own = None if draws is None else [draws[i] for i in part]
                new = continue_ids(lens, mine, sampling, seed, *labels, "row", part[0], begun=theirs, draws=own)
                found_of |= dict(zip(part, new, strict=True))
            return [found_of[i] for i in range(len(rows))]
        past_key_values = what_they_share(lens, rows)
    done = 0 if past_key_values is None else past_key_values.get_seq_length()
    piece = None if plain else prompt_piece(lens, rows, done)
    ends, positions = ends_of(lens), positions_of(lens.hf.config)
    room = sampling.max_new_tokens if positions is None else positions - max(map(len, rows))
    if room < 1:
        return [Continuation((), finished=False) for _ in rows]
    one_stream = sampling.temperature > 0 and draws is None
    config = GenerationConfig(
        max_new_tokens=min(sampling.max_new_tokens, room),
        do_sample=one_stream,
        eos_token_id=sorted(ends),
        pad_token_id=lens.tokenizer.pad_token_id,
        prefill_chunk_size=piece,
        **({"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if one_stream else {}),
    )
    width = max(map(len, rows))
    processors: list[LogitsProcessor] = []
    closer = None
    if sampling.thought is not None:
        closer = ThoughtCloser(sampling.thought, lens.tokenizer, ends, width, begun or [()] * len(rows))
        processors.append(closer)
    if draws is not None and sampling.temperature > 0:
        steps = sampling.max_new_tokens
        processors.append(OwnDraws(draws, sampling.temperature, sampling.top_p, width, steps))
    with torch.random.fork_rng(devices=[lens.device] if lens.device.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, *labels))
        out = decoded(lens, rows, config, past_key_values, processors)
    found = []
    for i, row in enumerate(out[:, width:].tolist()):
        stop = next((place + 1 for place, token in enumerate(row) if token in ends), None)
        ids, forced = tuple(row[:stop]), range(0)
        if closer is not None and i in closer.forced:
            forced = range(closer.forced[i], min(closer.forced[i] + len(closer.text), len(ids)))
        found.append(Continuation(ids, stop is not None, forced))
    return found


def by_room(lens: Lens, lengths: Sequence[int], new_tokens: int) -> list[list[int]]:
    """Rows that may go side by side: all that have room for `new_tokens` within the model's positions, and those that
    have not by their length, since the longest row of a batch decides how much is written in it."""
    positions = positions_of(lens.hf.config)
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        room = new_tokens if positions is None else min(new_tokens, positions - length)
        groups.setdefault(room, []).append(row)
    return [groups[room] for room in sorted(groups, reverse=True)]


def ends_of(lens: Lens) -> set[int]:
    """The tokens that end a response: the tokenizer's, and those that the weights say they end with."""
    configured = lens.hf.generation_config.eos_token_id if lens.hf.generation_config else None
    own = configured if isinstance(configured, list) else [configured]
    return end_ids(lens.tokenizer) | {i for i in own if i is not None}
