"""A model with a planted rhythm: exact WAAD, FAI, entropies and peaks, the ground truth for Paper B's measures.

Text comes in chunks, `on0 w . on1 w anchor w . on2 w w .`; one layer has one head of each kind:

- *sawtooth*: every token looks at the one before it (WAAD 1), but the first token of a chunk looks at the first token
  of the chunk before (WAAD = that chunk's length, at most W; the very first looks at <bos>);
- *stripes*: every token looks at all anchors up to itself alike, at <bos> where there is none yet;
- *even*: looks at everything alike;
- *rest*: looks at <bos> alone.

After `.` every word is as likely as any other, after all else `w` is certain: the first token of a chunk is the one
with a high entropy. An ordinary LlamaForCausalLM: slow rotary dimensions match by content, fast ones by position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.organisms.blank import blank_llama
from interp.organisms.word_tokenizer import word_tokenizer

CHUNKS = 12
"""How many chunks a text may have."""
ONSETS = tuple(f"on{i}" for i in range(CHUNKS))
WORD, ANCHOR, STOP = "w", "anchor", "."
SAWTOOTH, STRIPES, EVEN, REST = range(4)
HEAD_DIM = 64
ROPE_BASE = 1e8
FAST = (0, 1, 2, 3)
SLOW = tuple(i + half for half in (0, HEAD_DIM // 2) for i in range(24, 32))
"""Rotary dimensions that turn by less than 1e-5 a token, so that each is a direction of its own."""
MATCH, BOS_SCORE = 40.0, 20.0
CERTAIN = 40.0
"""Logit of `w` after everything but a full stop."""


@dataclass(frozen=True)
class Chunk:
    """`words` after the first token, the anchor among them where `anchor` says so; a full stop ends the chunk."""

    words: int
    anchor: bool = False

    def __len__(self) -> int:
        return 2 + self.words + self.anchor


def text_of(chunks: Sequence[Chunk]) -> list[str]:
    """The tokens of a response."""
    tokens: list[str] = []
    for onset, chunk in zip(ONSETS, chunks, strict=False):
        tokens += [onset, *[WORD] * chunk.words, *[ANCHOR] * chunk.anchor, STOP]
    return tokens


@torch.no_grad()
def build_rhythmic() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer. Everything is exact by construction, but for leaks below exp(-15)."""
    tokenizer = word_tokenizer([*ONSETS, WORD, ANCHOR, STOP])
    ids = tokenizer.get_vocab()
    size = 4 * HEAD_DIM
    shape = {"layers": 1, "heads": 4, "head_dim": HEAD_DIM}
    model = blank_llama(tokenizer, vocab=len(tokenizer), width=size, rotary=ROPE_BASE, **shape)
    gain = math.sqrt(size)  # RMSNorm turns a one-hot embedding into one of this height
    model.model.embed_tokens.weight[:, : len(tokenizer)] = torch.eye(len(tokenizer))
    model.lm_head.weight[ids[WORD], : len(tokenizer)] = CERTAIN / gain
    model.lm_head.weight[ids[WORD], ids[STOP]] = 0
    attention = model.model.layers[0].self_attn
    queries, keys = (w.weight.view(4, HEAD_DIM, size) for w in (attention.q_proj, attention.k_proj))
    words = [i for text, i in ids.items() if text not in ONSETS]
    code = {onset: SLOW[i] for i, onset in enumerate(ONSETS)}
    bos = SLOW[CHUNKS]

    def look(head: int, at: int, dimension: int, whence: Sequence[int], score: float) -> None:
        amplitude = math.sqrt(score * math.sqrt(HEAD_DIM)) / gain
        queries[head, dimension, list(whence)] = amplitude
        keys[head, dimension, at] = amplitude

    for before, onset in zip((None, *ONSETS), ONSETS, strict=False):
        if before is None:
            look(SAWTOOTH, ids["<bos>"], bos, [ids[onset]], MATCH)
        else:
            look(SAWTOOTH, ids[before], code[before], [ids[onset]], MATCH)
    _look_back_one(queries[SAWTOOTH], keys[SAWTOOTH], words, list(ids.values()), gain)
    for head, score in ((STRIPES, MATCH), (REST, 0.0)):
        look(head, ids["<bos>"], bos, list(ids.values()), BOS_SCORE)
        if score:
            look(head, ids[ANCHOR], code[ONSETS[0]], list(ids.values()), score)
    return model.eval(), tokenizer


def _look_back_one(query: Tensor, key: Tensor, whence: list[int], at: list[int], gain: float) -> None:
    """At the token before, by the fast rotary dimensions: the key is turned ahead by one."""
    sharpness = math.sqrt(20 * MATCH * math.sqrt(HEAD_DIM)) / gain
    for i in FAST:
        frequency = ROPE_BASE ** (-2 * i / HEAD_DIM)
        query[i, whence] = sharpness
        key[i, at] = sharpness * math.cos(frequency)
        key[i + HEAD_DIM // 2, at] = sharpness * math.sin(frequency)
