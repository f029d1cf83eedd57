"""How heads are set by hand: named directions of the residual stream, looking by content or position, copying.

Token embeddings have equal norm, so that RMSNorm only rescales them. Heads that look by content use the slowest rotary
dimensions, heads that look by position the fastest ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.organisms.blank import blank_llama
from interp.organisms.word_tokenizer import word_tokenizer

ROPE_BASE = 1e8
FAST = (0, 1, 2, 3)
"""Rotary frequencies for looking by position; looking by content uses those from the slowest up."""
MATCH, REST = 40.0, 20.0
"""Attention scores of a match and of <bos>; other keys score 0, so leaks are below exp(-20)."""


class Space:
    """Named directions of the residual stream: one a token, then one for each feature, and for each output, which heads
    write to and the unembedding reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, features: Sequence[str], outputs: Sequence[str]) -> None:
        self.ids = tokenizer.get_vocab()
        self.vocab = len(tokenizer)
        self._names = {name: self.vocab + i for i, name in enumerate([*features, *outputs])}
        self.size = 16 * math.ceil((self.vocab + len(self._names)) / 16)

    def token(self, word: str) -> int:
        return self.ids[word]

    def direction(self, name: str) -> int:
        """Of a feature or an output."""
        return self._names[name]

    def embeddings(self, features: Callable[[str], Iterable[str]], most: int) -> Tensor:
        """Embeddings of squared norm `most`: a token's own direction, its features, and what is missing to that in the
        feature `balance`, which nothing reads."""
        weight = torch.zeros(self.vocab, self.size, dtype=torch.float64)
        for word, i in self.ids.items():
            own = set(features(word))
            weight[i, i] = 1
            for feature in own:
                weight[i, self.direction(feature)] = 1
            weight[i, self.direction("balance")] = math.sqrt(most - 1 - len(own))
        return weight


@dataclass(frozen=True)
class HandSet:
    """A model whose heads are still to be set; `gain` is what RMSNorm multiplies a plain embedding by."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    space: Space
    gain: float


def without_heads(
    words: Iterable[str],
    features: Callable[[str], Iterable[str]],
    names: tuple[Sequence[str], Sequence[str]],
    most: int,
    unembedding: Callable[[Space, float], Tensor],
    **shape: int,
) -> HandSet:
    """A model of these words with its embeddings and unembedding. `names`: of the features and of the outputs; `most`:
    squared norm of an embedding; `shape`: layers, heads, head_dim."""
    tokenizer = word_tokenizer(words)
    space = Space(tokenizer, *names)
    model = blank_llama(tokenizer, vocab=space.vocab, width=space.size, rotary=ROPE_BASE, **shape)
    gain = math.sqrt(space.size / most)
    model.model.embed_tokens.weight.copy_(space.embeddings(features, most))
    model.lm_head.weight.copy_(unembedding(space, gain))
    return HandSet(model, tokenizer, space, gain)


class HandSetHead:
    """The weights of one head; `gain` is what RMSNorm multiplies a plain embedding by."""

    def __init__(self, model: LlamaForCausalLM, space: Space, place: tuple[int, int], gain: float) -> None:
        layer, head = place
        attention = model.model.layers[layer].self_attn
        self._size = attention.head_dim
        rows = slice(head * self._size, (head + 1) * self._size)
        self.q, self.k = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
        self.v, self.o = attention.v_proj.weight[rows], attention.o_proj.weight[:, rows]
        self.space, self.gain = space, gain

    def look(self, when: str, at: str, score: float) -> None:
        """From tokens with feature `when` at tokens with feature `at`, by a slow rotary dimension of its own."""
        slowest = self._size // 2 - 1
        used = int((self.q[len(FAST) : slowest + 1].abs().sum(1) > 0).sum())
        assert slowest - used >= len(FAST), "no slow frequency is left for looking by content"
        dimension = slowest - used
        amplitude = math.sqrt(score * math.sqrt(self._size)) / self.gain
        self.q[dimension, self.space.direction(when)] = amplitude
        self.k[dimension, self.space.direction(at)] = amplitude

    def rest_on_bos(self) -> None:
        self.look("constant", "is_bos", REST)

    def look_back(self, distance: int, when: str = "constant") -> None:
        """At the token `distance` before, by the fast rotary dimensions: the key is turned ahead by that much. From
        tokens with feature `when`; keys must have the same norm."""
        sharpness = math.sqrt(20 * MATCH * math.sqrt(self._size)) / self.gain
        here, constant = self.space.direction(when), self.space.direction("constant")
        for i in FAST:
            frequency = ROPE_BASE ** (-2 * i / self._size)
            self.q[i, here] = sharpness
            self.k[i, constant] = sharpness * math.cos(distance * frequency)
            self.k[i + self._size // 2, constant] = sharpness * math.sin(distance * frequency)

    def copy(self, words: Sequence[str | Sequence[str]], outputs: Sequence[str]) -> None:
        """Writes the output direction that belongs to the attended word, or to any of several."""
        first = int((self.v.abs().sum(1) > 0).sum())
        for i, (alike, output) in enumerate(zip(words, outputs, strict=True), start=first):
            for word in [alike] if isinstance(alike, str) else alike:
                self.v[i, self.space.token(word)] = 1 / self.gain
            self.o[self.space.direction(output), i] = 1
