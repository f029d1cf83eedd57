"""Needles in haystacks: long unrelated text with one sentence in it that a question asks for (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.stats import rng_for
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import ThinkMarkers

SUBJECTS = (
    "The old mill",
    "A quiet library",
    "The harbour market",
    "Her neighbour's garden",
    "The night train",
    "A small bakery",
    "The mountain road",
    "His workshop",
    "The town museum",
    "A travelling circus",
    "The river ferry",
    "An empty theatre",
)
EVENTS = (
    "opens late in winter",
    "has been repaired twice since the flood",
    "draws visitors from the nearby villages",
    "smells of wood and fresh paint",
    "is busiest on the first day of the month",
    "keeps a record of every guest",
    "stands where two streams meet",
    "was closed for most of the spring",
    "belongs to a family of teachers",
    "looks different after the rain",
    "has no clock but always starts on time",
    "is drawn on the oldest map of the district",
)
ENDINGS = (
    "and nobody remembers why",
    "although the signs say otherwise",
    "and the children like it that way",
    "because the owner prefers it",
    "as the newspaper wrote last year",
    "and a new roof is planned",
    "while the rest of the street sleeps",
    "and few people notice",
)
NEEDLES = (
    (
        "The best thing to do in Harwick is to eat a fig sandwich beside the lighthouse on a windy day.",
        "What is the best thing to do in Harwick?",
    ),
    (
        "The secret ingredient of Marta's soup is a spoon of roasted barley with lemon peel.",
        "What is the secret ingredient of Marta's soup?",
    ),
    (
        "The password of the northern gate is seven copper whales under a paper moon.",
        "What is the password of the northern gate?",
    ),
    (
        "The winner of the village race wore yellow boots and carried a violin on his back.",
        "What did the winner of the village race wear and carry?",
    ),
    (
        "The hidden key of the tower lies under the third beehive behind the chapel.",
        "Where does the hidden key of the tower lie?",
    ),
)
REQUEST = "Repeat the sentence of the text that answers this question, and nothing else:"
MAX_UNKNOWN = 0.01
"""A tokenizer with a larger share of unknown tokens on this text cannot read it."""
VOCABULARY_NEEDLE, CUE = 10, 2
"""Tokens of a needle made of random tokens, and how many of them ask for the rest."""


@dataclass(frozen=True)
class Haystack:
    """A prompt with a needle. `ids[needle]` is what is to be copied; `cue` tokens of it already end the prompt."""

    name: str
    ids: tuple[int, ...]
    needle: range
    cue: int = 0


def haystacks(
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    style: PromptStyle,
    lengths: Sequence[int],
    depths: Sequence[float],
    seed: int,
) -> list[Haystack]:
    """One haystack for each length (in tokens, about) and depth (0 = needle first, 1 = needle last).

    In English, in the model's chat format, where the tokenizer knows the words; otherwise of random ordinary tokens,
    with the needle's first CUE tokens in the place of a question.
    """
    if any(not 0 <= depth <= 1 for depth in depths) or any(length < 4 * VOCABULARY_NEEDLE for length in lengths):
        raise UserError(f"haystacks need depths between 0 and 1 and at least {4 * VOCABULARY_NEEDLE} tokens")
    english = reads_english(tokenizer)
    made = []
    for i, (length, depth) in enumerate((length, depth) for length in lengths for depth in depths):
        rng, name = rng_for(seed, "haystack", i), f"needle-{length}-{depth:g}"
        if english:
            made.append(_english(name, tokenizer, markers, style, length, depth, NEEDLES[i % len(NEEDLES)], rng))
        else:
            made.append(_of_vocabulary(name, tokenizer, length, depth, rng))
    return made


def reads_english(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has tokens for ordinary English text."""
    ids = tokenizer(" ".join([*SUBJECTS, *EVENTS, *ENDINGS]), add_special_tokens=False)["input_ids"]
    return tokenizer.unk_token_id is None or np.mean(np.equal(ids, tokenizer.unk_token_id)) <= MAX_UNKNOWN


def ordinary_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The vocabulary without special and added tokens."""
    return sorted(
        set(range(tokenizer.vocab_size)) - set(tokenizer.all_special_ids) - set(tokenizer.added_tokens_decoder)
    )


def _english(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    style: PromptStyle,
    length: int,
    depth: float,
    needle: tuple[str, str],
    rng: np.random.Generator,
) -> Haystack:
    sentences: list[str] = []
    tokens = 0
    while tokens < length:
        subject, event, ending = (str(rng.choice(part)) for part in (SUBJECTS, EVENTS, ENDINGS))
        sentences.append(f"{subject} {event}, {ending}.")
        tokens += len(tokenizer(sentences[-1], add_special_tokens=False)["input_ids"])
    sentences.insert(round(depth * len(sentences)), needle[0])
    question = f"{' '.join(sentences)}\n\n{REQUEST} {needle[1]}"
    text = render(question, tokenizer, markers, replace(style, instruction=""), Condition.NO_TAGS)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = text.index(needle[0])
    end = start + len(needle[0])
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    return Haystack(name, tuple(encoded["input_ids"]), range(inside[0], inside[-1] + 1))


def _of_vocabulary(
    name: str, tokenizer: PreTrainedTokenizerBase, length: int, depth: float, rng: np.random.Generator
) -> Haystack:
    words = ordinary_ids(tokenizer)
    needle = rng.choice(words, VOCABULARY_NEEDLE, replace=len(words) < VOCABULARY_NEEDLE)
    # No word of the needle stands elsewhere, so that there is one place to copy it from.
    others = sorted(set(words) - set(needle.tolist())) or words
    hay = rng.choice(others, length)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    at = round(depth * length)
    ids = [*bos, *hay[:at], *needle, *hay[at:], *needle[:CUE]]
    start = len(bos) + at
    return Haystack(name, tuple(map(int, ids)), range(start, start + VOCABULARY_NEEDLE), CUE)
