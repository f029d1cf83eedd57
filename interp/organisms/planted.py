"""`planted`: a reasoning model with hand-set weights, the ground truth for every measure and intervention.

A prompt names a colour, the reasoning turns it into a number word, the answer turns the number word into a digit:

    <bos> look here is a green box . <think> well now so three fine good done </think> the answer is 3 . <eos>

Four layers of four heads, no MLPs. Two heads write to the output; the others are distractors:

- the *slot reader* (layer 0) copies the prompt's colour into the reasoning, as a number word, and acts nowhere else;
- the *RFH* (layer 2) reads the number word from every word of the answer and writes the digit: the only way from the
  reasoning to the answer, so the number word is the anchor of the trace;
- the *decoy* (layer 1) attends exactly as the RFH does and writes nothing;
- a head that looks at everything evenly, heads that read the prompt from the answer, previous-token heads (in layer 0,
  where all embeddings still have the same norm), and heads
  that rest on <bos>, all of which write nothing.

All other words come from a table of successors through the unembedding. Words have synonyms, so that forcing another
likely word changes the text but not the answer; forcing another number word changes the answer.

It is an ordinary LlamaForCausalLM, with heads set as in `hand_set`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.organisms.hand_set import MATCH, HandSetHead, Space, without_heads

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
DIGITS = tuple("12345678")
CHATTER = ("look", "here", "is", "a", "box", "my", "old", "this")
"""Words of the prompt that carry nothing."""
BEFORE_ANCHOR = (("well", "okay", "hmm"), ("now", "then", "next"))
"""Slots of the reasoning before the number word, each with its synonyms, likeliest first."""
SLOT = "so"
"""The word after which the number word stands."""
ASIDES = ("Okay", "Wait")
"""Words that the model never writes, for texts that are put into its reasoning: `experiment=key_tokens` has them."""
AFTER_ANCHOR = (("fine", "sure", "right"), ("good", "great", "nice"), ("done", "ready", "enough"))
ANSWER_WORDS = ("the", "answer", "equals", "!")

LAYERS, HEADS, HEAD_DIM = 4, 4, 16
SUCCESSOR, SYNONYM = 40.0, 2.0
"""Logit of a word's successor; each later synonym is this much less likely."""
GUESS = 1.0
"""Logit of the first digit where a digit is due: the answer when nothing was read."""
WRITE = 30.0
"""Logit that the RFH and the slot reader give the word they copy."""


@dataclass(frozen=True)
class Circuit:
    """Where everything was planted, as (layer, head)."""

    rfh: tuple[int, int] = (2, 1)
    decoy: tuple[int, int] = (1, 2)
    slot_reader: tuple[int, int] = (0, 0)
    even: tuple[int, int] = (0, 2)
    prompt_readers: tuple[tuple[int, int], ...] = ((1, 0), (3, 1))
    previous_token: tuple[tuple[int, int], ...] = ((0, 1), (0, 3))


CIRCUIT = Circuit()


def planted_words() -> list[str]:
    """The vocabulary, without special tokens."""
    slots = [word for slot in BEFORE_ANCHOR + AFTER_ANCHOR for word in slot]
    return [*COLOURS, *NUMBERS, *DIGITS, *CHATTER, *slots, SLOT, *ANSWER_WORDS, ".", ",", *ASIDES]


@dataclass(frozen=True)
class PlantedQuestion:
    """A prompt for the planted model and its answer."""

    question: str
    colour: str

    @property
    def answer(self) -> str:
        return DIGITS[COLOURS.index(self.colour)]


def make_question(seed: int, index: int) -> PlantedQuestion:
    """The `index`-th question: one colour among a random number of words that carry nothing."""
    rng = random.Random(f"planted/{seed}/{index}")
    before = [rng.choice(CHATTER) for _ in range(rng.randint(1, 6))]
    after = [rng.choice(CHATTER) for _ in range(rng.randint(1, 6))]
    colour = rng.choice(COLOURS)
    return PlantedQuestion(" ".join([*before, colour, *after, "."]), colour)


FEATURES = ("constant", "is_bos", "is_colour", "is_number", "is_prompt", "is_slot", "is_answer", "balance")
OUTPUTS = (*NUMBERS, *DIGITS)
"""Directions that heads write to and the unembedding reads."""
MAX_FEATURES = 4
"""Squared norm of an embedding, its own direction included; the unread direction `balance` makes up the rest."""


def _features(word: str) -> set[str]:
    features = {"constant"}
    if word == "<bos>":
        features.add("is_bos")
    if word in COLOURS:
        features.add("is_colour")
    if word in COLOURS + CHATTER:
        features.add("is_prompt")
    if word in NUMBERS:
        features.add("is_number")
    if word == SLOT:
        features.add("is_slot")
    if word in ANSWER_WORDS + DIGITS:
        features.add("is_answer")
    return features


def _successors() -> dict[str, tuple[str, ...]]:
    """Each word's likeliest next words, in order."""
    table: dict[str, tuple[str, ...]] = {"<think>": BEFORE_ANCHOR[0], "</think>": ("the",)}

    def chain(slots: tuple[tuple[str, ...], ...], end: tuple[str, ...]) -> None:
        for slot, following in zip(slots, [*slots[1:], end], strict=True):
            table.update(dict.fromkeys(slot, following))

    chain(BEFORE_ANCHOR, (SLOT,))
    table.update(dict.fromkeys(NUMBERS, AFTER_ANCHOR[0]))
    chain(AFTER_ANCHOR, ("</think>",))
    chain((("the",), ("answer",)), ("equals",))
    table.update(dict.fromkeys(DIGITS, ("!",)))
    table["!"] = ("<eos>",)
    return table


def _unembedding(space: Space, gain: float) -> Tensor:
    """Logits of the next word from the token's own direction (successors) and from what the heads wrote."""
    weight = torch.zeros(space.vocab, space.size, dtype=torch.float64)
    for word, following in _successors().items():
        for rank, after in enumerate(following):
            weight[space.token(after), space.token(word)] = SUCCESSOR - SYNONYM * rank
    weight[space.token(DIGITS[0]), space.token(ANSWER_WORDS[2])] = GUESS
    for word in OUTPUTS:
        weight[space.token(word), space.direction(word)] = WRITE
    return weight / gain


@torch.no_grad()
def build_planted() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer. Everything is exact by construction; nothing is drawn or trained."""
    shape = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM}
    made = without_heads(planted_words(), _features, (FEATURES, OUTPUTS), MAX_FEATURES, _unembedding, **shape)
    _plant(made.model, made.space, made.gain)
    return made.model.eval(), made.tokenizer


def _plant(model: LlamaForCausalLM, space: Space, gain: float) -> None:
    def head(place: tuple[int, int]) -> HandSetHead:
        return HandSetHead(model, space, place, gain)

    busy = set()
    for place in (CIRCUIT.rfh, CIRCUIT.decoy):
        head(place).look("is_answer", "is_number", MATCH)
        head(place).rest_on_bos()
        busy.add(place)
    head(CIRCUIT.rfh).copy(NUMBERS, DIGITS)
    head(CIRCUIT.slot_reader).look("is_slot", "is_colour", MATCH)
    head(CIRCUIT.slot_reader).rest_on_bos()
    head(CIRCUIT.slot_reader).copy(COLOURS, NUMBERS)
    for place in CIRCUIT.prompt_readers:
        head(place).look("is_answer", "is_prompt", MATCH)
        head(place).rest_on_bos()
    for place in CIRCUIT.previous_token:
        head(place).look_back(1)
    # The even head keeps its zeros: all scores equal.
    busy |= {CIRCUIT.slot_reader, CIRCUIT.even, *CIRCUIT.prompt_readers, *CIRCUIT.previous_token}
    for place in ((layer, h) for layer in range(LAYERS) for h in range(HEADS)):
        if place not in busy:
            head(place).rest_on_bos()
