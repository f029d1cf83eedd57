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

It is an ordinary LlamaForCausalLM. Token embeddings have equal norm, so that RMSNorm only rescales them. Heads that
look by content use the slowest rotary dimensions, heads that look by position the fastest (rotary base 1e8).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.organisms.blank import blank_llama
from interp.organisms.word_tokenizer import word_tokenizer

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
DIGITS = tuple("12345678")
CHATTER = ("look", "here", "is", "a", "box", "my", "old", "this")
"""Words of the prompt that carry nothing."""
BEFORE_ANCHOR = (("well", "okay", "hmm"), ("now", "then", "next"))
"""Slots of the reasoning before the number word, each with its synonyms, likeliest first."""
SLOT = "so"
"""The word after which the number word stands."""
AFTER_ANCHOR = (("fine", "sure", "right"), ("good", "great", "nice"), ("done", "ready", "enough"))
ANSWER_WORDS = ("the", "answer", "equals", "!")

LAYERS, HEADS, HEAD_DIM = 4, 4, 16
ROPE_BASE = 1e8
SLOW = 7
"""Index of the slowest of the 8 rotary frequencies."""
FAST = (0, 1, 2, 3)
MATCH, REST = 40.0, 20.0
"""Attention scores of a match and of <bos>; other keys score 0, so leaks are below exp(-20)."""
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
    return [*COLOURS, *NUMBERS, *DIGITS, *CHATTER, *slots, SLOT, *ANSWER_WORDS, ".", ","]


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


class _Space:
    """Named directions of the residual stream: one a token, then one for each of a few features."""

    FEATURES = ("constant", "is_bos", "is_colour", "is_number", "is_prompt", "is_slot", "is_answer", "balance")
    OUTPUTS = (*NUMBERS, *DIGITS)
    """Directions that heads write to and the unembedding reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ids = tokenizer.get_vocab()
        self.vocab = len(tokenizer)
        self.size = 16 * math.ceil((self.vocab + len(self.FEATURES) + len(self.OUTPUTS)) / 16)

    def token(self, word: str) -> int:
        return self.ids[word]

    def feature(self, name: str) -> int:
        return self.vocab + self.FEATURES.index(name)

    def output(self, word: str) -> int:
        return self.vocab + len(self.FEATURES) + self.OUTPUTS.index(word)


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


MAX_FEATURES = 4
"""Squared norm of an embedding, its own direction included; the unread direction `balance` makes up the rest."""


def _embeddings(space: _Space) -> Tensor:
    weight = torch.zeros(space.vocab, space.size, dtype=torch.float64)
    for word, i in space.ids.items():
        features = _features(word)
        weight[i, i] = 1
        for feature in features:
            weight[i, space.feature(feature)] = 1
        weight[i, space.feature("balance")] = math.sqrt(MAX_FEATURES - 1 - len(features))
    return weight


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


def _unembedding(space: _Space, gain: float) -> Tensor:
    """Logits of the next word from the token's own direction (successors) and from what the heads wrote."""
    weight = torch.zeros(space.vocab, space.size, dtype=torch.float64)
    for word, following in _successors().items():
        for rank, after in enumerate(following):
            weight[space.token(after), space.token(word)] = SUCCESSOR - SYNONYM * rank
    weight[space.token(DIGITS[0]), space.token(ANSWER_WORDS[2])] = GUESS
    for word in _Space.OUTPUTS:
        weight[space.token(word), space.output(word)] = WRITE
    return weight / gain


class _Head:
    """The weights of one head; `gain` is what RMSNorm multiplies a plain embedding by."""

    def __init__(self, model: LlamaForCausalLM, space: _Space, place: tuple[int, int], gain: float) -> None:
        layer, head = place
        attention = model.model.layers[layer].self_attn
        rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        self.q, self.k = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
        self.v, self.o = attention.v_proj.weight[rows], attention.o_proj.weight[:, rows]
        self.space, self.gain = space, gain

    def look(self, when: str, at: str, score: float) -> None:
        """From tokens with feature `when` at tokens with feature `at`, by a slow rotary dimension of its own."""
        used = int((self.q.abs().sum(1) > 0).sum())
        assert used < 3, "three slow frequencies for looking by content"
        dimension = SLOW - used
        amplitude = math.sqrt(score * math.sqrt(HEAD_DIM)) / self.gain
        self.q[dimension, self.space.feature(when)] = amplitude
        self.k[dimension, self.space.feature(at)] = amplitude

    def rest_on_bos(self) -> None:
        self.look("constant", "is_bos", REST)

    def look_back(self, distance: int) -> None:
        """At the token `distance` before, by the fast rotary dimensions: the key is turned ahead by that much."""
        sharpness = math.sqrt(20 * MATCH * math.sqrt(HEAD_DIM)) / self.gain
        constant = self.space.feature("constant")
        for i in FAST:
            frequency = ROPE_BASE ** (-2 * i / HEAD_DIM)
            self.q[i, constant] = sharpness
            self.k[i, constant] = sharpness * math.cos(distance * frequency)
            self.k[i + HEAD_DIM // 2, constant] = sharpness * math.sin(distance * frequency)

    def copy(self, words: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Writes the output direction that belongs to the attended word."""
        for i, (word, output) in enumerate(zip(words, outputs, strict=True)):
            self.v[i, self.space.token(word)] = 1 / self.gain
            self.o[self.space.output(output), i] = 1


@torch.no_grad()
def build_planted() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer. Everything is exact by construction; nothing is drawn or trained."""
    tokenizer = word_tokenizer(planted_words())
    space = _Space(tokenizer)
    shape = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM}
    model = blank_llama(tokenizer, vocab=space.vocab, width=space.size, rotary=ROPE_BASE, **shape)
    gain = math.sqrt(space.size / MAX_FEATURES)
    model.model.embed_tokens.weight.copy_(_embeddings(space))
    model.lm_head.weight.copy_(_unembedding(space, gain))
    _plant(model, space, gain)
    return model.eval(), tokenizer


def _plant(model: LlamaForCausalLM, space: _Space, gain: float) -> None:
    def head(place: tuple[int, int]) -> _Head:
        return _Head(model, space, place, gain)

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
