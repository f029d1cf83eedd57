"""`decider`: a model that writes known decisions among free filler, to test whether credit that finds them helps.

A prompt has three cues. The reasoning is filler, each token one of eight words alike (2.08 nats), but for three
decisions; the answer restates their words:

    <bos> in this order please match a1 f2 c3 . <think> fig ash ... plan1 oak yew ... guess2 fir elm ... plan3 elm ...
    </think> the answer is first oak second fir third elm ! <eos>

A decision has two tokens, both drawn. The *opening* is `plan`, which looks the cue up, or `guess`, which does not; the
*word* behind it is more often than not the cue's behind `plan` and any of the eight behind `guess`. The answer is right
if all three words are those of their cues: filler has no part in it, though it is made of the same words. Where the
decisions lie is known: the tokens `plan`, `guess` and those behind them, six of 47.

What is built in is what Paper B's rules look for. The head of shortest range looks one token back, but from an opening
at the prompt (WAAD peaks there: it reads the cue); the two of longest range look at the words of the decisions so far
from everywhere (their FAI is the highest). So this tests credit where its rule is right, and says nothing of whether
rules are right elsewhere. What is not built in is whether credit then helps.

Four heads in each of two layers, no MLPs (see `hand_set`). The weights are turned by a random rotation of the residual
stream, which changes no output: as in trained models no single weight serves one token alone, so that the noise that
filler brings into the gradient reaches the weights that the decisions need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp.organisms.hand_set import MATCH, REST, HandSetHead, Space, without_heads

WORDS = ("oak", "ash", "elm", "fir", "yew", "fig", "bay", "lime")
"""Filler, and what is decided between."""
LETTERS = tuple("abcdefgh")
"""Of cues: the word of the same place is right."""
SLOTS = (1, 2, 3)
ORDINALS = ("first", "second", "third")
BEFORE, AFTER = ("in", "this", "order", "please", "match"), (".",)
"""Of the prompt: long enough that looking PERIOD tokens back never leaves it, and no cue is among the first tokens,
which measures may leave out as sinks."""
PERIOD = 8
"""An opening is written PERIOD + 1 tokens after the one before, the first after the think tag."""
OPENINGS = tuple(f"{kind}{slot}" for slot in SLOTS for kind in ("plan", "guess"))

LAYERS, HEADS, HEAD_DIM = 2, 4, 32
MAX_FEATURES = 4
"""Squared norm of an embedding."""
EVERYWHERE, CERTAIN = 20.0, 40.0
"""Logits of the eight words, and of what is written with certainty."""
PLAN, RIGHT = 0.85, 3.0
"""Log-odds of `plan` against `guess`, and of the cue's word against each other one behind `plan`."""
FEATURES = (
    *("constant", "is_bos", "is_stop", "is_opening", "looks_back", "balance"),
    *(f"{kind}{slot}" for kind in ("is_cue", "is_plan", "is_ordinal") for slot in SLOTS),
)
OUTPUTS = (
    *(f"cue {letter}" for letter in LETTERS),
    *(f"say {word}" for word in WORDS),
    *(f"open {slot}" for slot in (*SLOTS, "answer")),
    *(f"decided {slot}" for slot in SLOTS),
    *(f"then {word}" for word in (*ORDINALS[1:], "!")),
)


@dataclass(frozen=True)
class DeciderCircuit:
    """Where everything was planted, as (layer, head)."""

    cue_reader: tuple[int, int] = (0, 0)
    """Local: one token back, but from an opening at the prompt: at the cue from `plan`, else at the full stop."""
    clock: tuple[int, int] = (0, 1)
    """PERIOD tokens back: says when the next opening is due."""
    answer_reader: tuple[int, int] = (1, 0)
    """From the answer at the word of the decision that it restates; at <bos> from elsewhere."""
    watchers: tuple[tuple[int, int], ...] = ((1, 1), (1, 2))
    """At the words of all decisions so far alike; they write nothing."""


DECIDER = DeciderCircuit()


@dataclass(frozen=True)
class CueQuestion:
    """Three cues, by the places of their letters."""

    cues: tuple[int, int, int]

    @property
    def text(self) -> str:
        named = [f"{LETTERS[cue]}{slot}" for cue, slot in zip(self.cues, SLOTS, strict=True)]
        return " ".join([*BEFORE, *named, *AFTER])

    @property
    def answer(self) -> str:
        """As the answer has it: `first oak second ash third elm`."""
        return " ".join(f"{nth} {WORDS[cue]}" for nth, cue in zip(ORDINALS, self.cues, strict=True))


def make_question(seed: int, index: int) -> CueQuestion:
    """The `index`-th question: three cues, each drawn alike."""
    rng = random.Random(f"decisions/{seed}/{index}")
    a, b, c = (rng.randrange(len(LETTERS)) for _ in SLOTS)
    return CueQuestion((a, b, c))


def decision_mask(ids: Int[Tensor, "batch token"], tokenizer: PreTrainedTokenizerBase) -> Bool[Tensor, "batch token"]:
    """Which tokens of responses are decisions: the openings, and the words behind them."""
    known = tokenizer.get_vocab()
    missing = [word for word in OPENINGS if word not in known]
    if missing:
        raise ValueError(f"a tokenizer without {missing[0]} knows no decisions")
    opening = torch.isin(ids, torch.tensor([known[word] for word in OPENINGS], device=ids.device))
    return opening | torch.nn.functional.pad(opening[:, :-1], (1, 0), value=False)


def vocabulary() -> Iterator[str]:
    """Every word of prompts and responses, each once."""
    yield from (*BEFORE, *AFTER, *WORDS, *OPENINGS, *ORDINALS, "the", "answer", "is", "!")
    yield from (f"{letter}{slot}" for slot in SLOTS for letter in LETTERS)


def _features(word: str) -> set[str]:
    found = {"constant"}
    if word == "<bos>":
        found.add("is_bos")
    if word == ".":
        found.add("is_stop")
    found.add("is_opening" if word in OPENINGS else "looks_back")
    for slot, ordinal in zip(SLOTS, ORDINALS, strict=True):
        if word in [f"{letter}{slot}" for letter in LETTERS]:
            found.add(f"is_cue{slot}")
        if word == f"plan{slot}":
            found.add(f"is_plan{slot}")
        if word == ordinal:
            found.add(f"is_ordinal{slot}")
    return found


def _unembedding(space: Space, gain: float) -> Tensor:
    """Logits of the next word; those that follow what a head wrote are scaled by the norm with that in it."""
    weight = torch.zeros(space.vocab, space.size, dtype=torch.float64)
    written = math.sqrt((MAX_FEATURES + 1) / MAX_FEATURES)

    def follows(word: str, source: int, logit: float) -> None:
        weight[space.token(word), source] = logit

    for word, letter in zip(WORDS, LETTERS, strict=True):
        follows(word, space.direction("constant"), EVERYWHERE)
        follows(word, space.direction(f"cue {letter}"), RIGHT * written)
        follows(word, space.direction(f"say {word}"), CERTAIN)
    for slot in SLOTS:
        follows(f"plan{slot}", space.direction(f"open {slot}"), 2 * CERTAIN + PLAN * written)
        follows(f"guess{slot}", space.direction(f"open {slot}"), 2 * CERTAIN)
    follows("</think>", space.direction("open answer"), 2 * CERTAIN)
    for before, word in zip(("</think>", "the", "answer", "is"), ("the", "answer", "is", ORDINALS[0]), strict=True):
        follows(word, space.token(before), 2 * CERTAIN)
    for word in (*ORDINALS[1:], "!"):
        follows(word, space.direction(f"then {word}"), 2 * CERTAIN)
    follows("<eos>", space.token("!"), 2 * CERTAIN)
    return weight / gain


@torch.no_grad()
def build_decider(rotation: int | None = 0) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer. `rotation` is the seed of the rotation of the residual stream; None = none."""
    shape = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM}
    made = without_heads(vocabulary(), _features, (FEATURES, OUTPUTS), MAX_FEATURES, _unembedding, **shape)
    _plant(made.model, made.space, made.gain)
    if rotation is not None:
        _rotate(made.model, rotation)
    return made.model.eval(), made.tokenizer


def _plant(model: LlamaForCausalLM, space: Space, gain: float) -> None:
    def head(place: tuple[int, int]) -> HandSetHead:
        return HandSetHead(model, space, place, gain)

    reader = head(DECIDER.cue_reader)
    reader.look_back(1, when="looks_back")
    for slot in SLOTS:
        reader.look(f"is_plan{slot}", f"is_cue{slot}", MATCH)
    reader.look("is_opening", "is_stop", REST)
    reader.copy([[f"{letter}{slot}" for slot in SLOTS] for letter in LETTERS], [f"cue {letter}" for letter in LETTERS])
    reader.copy([[f"plan{slot}", f"guess{slot}"] for slot in SLOTS], [f"decided {slot}" for slot in SLOTS])
    reader.copy(ORDINALS, [f"then {word}" for word in (*ORDINALS[1:], "!")])
    head(DECIDER.clock).look_back(PERIOD)
    head(DECIDER.clock).copy(["<think>"], ["open 1"])
    for slot, due in zip(SLOTS, (2, 3, "answer"), strict=True):
        head(DECIDER.clock).copy([[f"plan{slot}", f"guess{slot}"]], [f"open {due}"])
    for slot in SLOTS:
        head(DECIDER.answer_reader).look(f"is_ordinal{slot}", f"decided {slot}", MATCH)
    head(DECIDER.answer_reader).rest_on_bos()
    head(DECIDER.answer_reader).copy(WORDS, [f"say {word}" for word in WORDS])
    for place in DECIDER.watchers:
        for slot in SLOTS:
            head(place).look("constant", f"decided {slot}", MATCH)
        head(place).rest_on_bos()
    for place in ((0, 2), (0, 3), (1, 3)):
        head(place).rest_on_bos()


def _rotate(model: LlamaForCausalLM, seed: int) -> None:
    """Turns the residual stream: RMSNorm with equal weights does not see it."""
    size = model.config.hidden_size
    numbers = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(size, size, generator=numbers, dtype=torch.float64))
    attention = [layer.self_attn for layer in model.model.layers]
    reads = [getattr(one, name) for one in attention for name in ("q_proj", "k_proj", "v_proj")]
    for module in (model.model.embed_tokens, model.lm_head, *reads):
        module.weight.copy_(module.weight.double() @ turned)
    for one in attention:
        one.o_proj.weight.copy_(turned.T @ one.o_proj.weight.double())
