"""Aligned contrast pairs (Paper A, section 5): same parts, same ending, positions that correspond.

Each side reads: prompt, open tag, reasoning, probing phrase, close tag, answer up to its result, ending. The
ending is cut so that the next token is the answer. Parts are aligned at their right ends, as if the shorter side were
padded on the left, and so are the pieces of the phrase before, at and behind the answer, so that answer stands beside
answer; the runs themselves are made without pads, which is the same as masked pads with right positions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.patching.closing import before_answer, before_closing
from interp.patching.questions import ContrastQuestion
from interp.text.trace import Segment, ThinkMarkers, Trace, parse_text


class Scenario(StrEnum):
    """What stands between the think tags."""

    KEPT = "kept"
    """The reasoning, then the probing phrase."""
    PHRASE_ONLY = "phrase_only"
    """The probing phrase alone."""


class Pads(StrEnum):
    """What happens where one side is shorter."""

    MASKED = "masked"
    """Nothing is inserted: pads would be seen by nobody, and positions count real tokens only."""
    ATTENDED = "attended"
    """As the paper describes the authors' runs: pad tokens stand in where one side's part is shorter, are attended to,
    and count for the rotary positions. For comparison; which parts are padded is ours (`Part`): numbers may differ."""


class Part(StrEnum):
    """What is aligned with what, in order."""

    BOS = "bos"
    PROMPT = "prompt"
    THINK = "think"
    BODY = "body"
    """The reasoning without the probing phrase."""
    PHRASE = "phrase"
    END_THINK = "end_think"
    ANSWER = "answer"


class AnswerTokens(StrEnum):
    """Which token of an answer is predicted."""

    SINGLE = "single"
    """Its only one: other pairs are left out, as in Paper A."""
    FIRST_DIFFERING = "first_differing"
    """The first in which the two answers differ; what they share before it stands in both runs, behind the ending."""


class Role(StrEnum):
    """What a position of a pair is for; Figs. 7 and 8 are drawn by it."""

    PHRASE = "phrase"
    PHRASE_ANSWER = "phrase_answer"
    """The answer named in the probing phrase."""
    END_THINK = "end_think"
    ANSWER = "answer"
    PREDICTING = "predicting"
    """The last position, whose next token is the answer."""


@dataclass(frozen=True)
class PairStyle:
    """How both sides are written; {x} is the side's own answer, {comparator} the question's."""

    phrase: str | None = "Final answer is {x}."
    ending: str = "Thus, the {comparator} one is \\boxed{"
    answer_prefix: str = ""
    """What stands between the ending and the answer, such as a space."""
    separator: str = "\n"
    """Before the probing phrase and before the ending, where the text has no whitespace of its own there."""
    scenario: Scenario = Scenario.KEPT
    answers: AnswerTokens = AnswerTokens.SINGLE


@dataclass(frozen=True)
class Side:
    """One question's run up to the answer: its trace, where its parts lie, and the token that answers it."""

    trace: Trace
    parts: dict[Part, range]
    phrase_answer: int | None
    """Position of the answer in the probing phrase; None without a phrase."""
    answer_id: int


@dataclass(frozen=True)
class ContrastPair:
    """A clean and a corrupted side. `aligned` are the positions that correspond, None where a side has no token."""

    id: str
    domain: str
    clean: Side
    corrupted: Side
    aligned: tuple[tuple[int | None, int | None], ...]


class PairError(UserError):
    """Why a pair cannot be used; `reason` is the same for all with the same fault, `detail` is of this one."""

    def __init__(self, pair: str, reason: str, detail: str = "") -> None:
        super().__init__(f"pair {pair}: {reason}{f' ({detail})' if detail else ''}")
        self.reason, self.detail = reason, detail


def fill(text: str, **words: str) -> str:
    """A text with each {name} replaced by its word; other braces are the text's own."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in words), lambda found: words[found.group()[1:-1]], text)


def reasoning_body(text: str, style: PairStyle) -> str:
    """The reasoning without a closing sentence that already names the answer in a box or in the phrase's words."""
    opening = style.phrase.partition("{x}")[0].removesuffix("\\boxed{").strip() if style.phrase else ""
    return before_closing(text, opening or None)


def build_side(
    prompt: str,
    reasoning: str,
    answer: str,
    x: str,
    comparator: str,
    style: PairStyle,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    name: str,
    other: str = "",
) -> Side:
    """One side of a pair. `prompt` is the rendered prompt up to where the think tag opens, special tokens included.

    `reasoning` and `answer` are what the model wrote between the tags and after them. The whitespace that it put after
    the open tag, round the close tag and before its own closing sentences stays; `style.separator` stands where there
    was none to keep. `other` is the other side's answer, which tells where the two differ. Raises PairError where the
    answer is not a single token after the ending, or in the phrase, unless the style takes the first that differs.
    """
    lead, tail = _whitespace(reasoning)
    body = reasoning_body(reasoning, style).lstrip() if style.scenario == Scenario.KEPT else ""
    cut = reasoning.strip().removeprefix(body) if body else ""
    between = _whitespace(cut)[0] or style.separator
    phrase = fill(style.phrase, x=x) if style.phrase else ""
    ending = fill(style.ending, comparator=comparator)
    _known(f"{phrase} {ending}{style.answer_prefix}{x}", tokenizer, name)
    inside = between.join(part for part in (body, phrase) if part)
    opened = f"{prompt}{markers.open}{lead}"
    kept = before_answer(answer)
    before = _whitespace(answer[len(kept) :])[0] or style.separator
    if "\n" in before:
        before = before[: before.rindex("\n") + 1]  # what follows indents the block that is gone
    text = f"{opened}{inside}{tail}{markers.close}{kept}{before}{ending}"
    several = style.answers == AnswerTokens.FIRST_DIFFERING
    shared = _shared(text, style.answer_prefix, x, other, tokenizer, markers, name) if several else ""
    prefix = style.answer_prefix
    if shared:
        text, prefix = f"{text}{prefix}{shared}", ""
    trace = parse_text(text, tokenizer, markers, example=name, source="contrast pair")
    whole = parse_text(f"{text}{prefix}{x[len(shared) :]}", tokenizer, markers, example=name)
    n = len(trace.token_ids)
    if whole.token_ids[:n] != trace.token_ids or len(whole.token_ids) <= n:
        raise PairError(name, "the answer melts into the ending's last token")
    if len(whole.token_ids) > n + 1 and not several:
        raise PairError(name, "an answer is not a single token", f"{x!r} has {len(whole.token_ids) - n} tokens here")
    # parse_text drops a leading special token from its text, so places are found from the end.
    end_of_inside = len(trace.text) - (len(text) - len(opened) - len(inside))
    start_of_phrase = end_of_inside - len(phrase)
    at = None
    if phrase:
        within = start_of_phrase + (style.phrase or "").index("{x}")
        begin = within + len(x) - len(x[len(shared) :].lstrip())
        hits = _tokens_in(trace, begin, begin + 1 if several else within + len(x))
        if len(hits) != 1:
            raise PairError(name, "an answer is not a single token in the probing phrase", f"{x!r} has {len(hits)}")
        at = hits[0]
    return Side(trace, _parts(trace, start_of_phrase if phrase else None), at, whole.token_ids[n])


def _known(words: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises PairError where what stands in every text of the style has words that the vocabulary does not know."""
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in tokenizer(words, add_special_tokens=False)["input_ids"]:
        raise PairError(
            name, "the model's vocabulary does not know all of the phrase, the ending and the answer", repr(words)
        )


def _shared(
    text: str,
    prefix: str,
    x: str,
    other: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    name: str,
) -> str:
    """What both answers begin with behind a text, as far as their tokens are the same. Raises PairError where one
    answer begins the other."""
    start = len(parse_text(text, tokenizer, markers, example=name).token_ids)
    own, theirs = (parse_text(f"{text}{prefix}{one}", tokenizer, markers, example=name) for one in (x, other))
    pairs = zip(own.token_ids[start:], theirs.token_ids[start:], strict=False)
    first = next((i for i, (a, b) in enumerate(pairs, start=start) if a != b), None)
    if first is None:
        raise PairError(name, "one answer begins the other")
    begun = len(own.text) - len(x)
    return x[: max(0, own.offsets[first - 1][1] - begun)] if first > start else ""


def _whitespace(text: str) -> tuple[str, str]:
    """What stands before and behind a text's first and last visible character."""
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if text.strip() else ""


def _tokens_in(trace: Trace, start: int, stop: int) -> list[int]:
    return [i for i, (a, b) in enumerate(trace.offsets) if a < stop and b > start]


def _parts(trace: Trace, start_of_phrase: int | None) -> dict[Part, range]:
    spans = {Part(s.segment): s.positions for s in trace.spans if s.segment != Segment.REASONING}
    reasoning = trace[Segment.REASONING]
    border = reasoning.end
    if start_of_phrase is not None:
        inside = [i for i in reasoning.positions if trace.offsets[i][1] > start_of_phrase]
        border = inside[0] if inside else reasoning.end
    return {**spans, Part.BODY: range(reasoning.start, border), Part.PHRASE: range(border, reasoning.end)}


def align(question: ContrastQuestion, clean: Side, corrupted: Side) -> ContrastPair:
    """Puts the parts side by side from their right ends. Raises PairError for equal answer tokens."""
    if clean.answer_id == corrupted.answer_id:
        raise PairError(question.id, "both answers are the same token")
    aligned: list[tuple[int | None, int | None]] = []
    for a, b in zip(_pieces(clean), _pieces(corrupted), strict=True):
        length = max(len(a), len(b))
        left = [None] * (length - len(a)) + list(a)
        right = [None] * (length - len(b)) + list(b)
        aligned += zip(left, right, strict=True)
    return ContrastPair(question.id, question.domain, clean, corrupted, tuple(aligned))


def _pieces(side: Side) -> list[range]:
    """A side's parts in order, the phrase in three: before, at and behind its answer token. Answers may have several
    tokens, so that neither end of the phrase tells where the answer stands."""
    pieces = []
    for part in Part:
        whole, at = side.parts[part], side.phrase_answer
        cuts = [whole.start, at, at + 1, whole.stop] if at is not None and at in whole else [whole.start, whole.stop]
        pieces += [range(start, stop) for start, stop in pairwise(cuts)]
    return pieces


@dataclass(frozen=True)
class KeyPosition:
    """A place of a pair that is patched, in both runs."""

    role: Role | None
    clean: int
    corrupted: int
    token: str
    """Its text in the corrupted run."""


def key_positions(pair: ContrastPair, answer_tokens: int = 3) -> list[KeyPosition]:
    """Every token of the probing phrase and of the close tag, the last answer tokens, and the predicting token."""
    places = both(pair, (Part.PHRASE, Part.END_THINK))
    places += both(pair, (Part.ANSWER,))[-answer_tokens - 1 :]
    return places


def both(pair: ContrastPair, parts: Sequence[Part]) -> list[KeyPosition]:
    """The positions of these parts that both sides have, in order."""
    wanted = {p: part for part in parts for p in pair.corrupted.parts[part]}
    last = pair.corrupted.trace.n_measured - 1
    found = []
    for a, b in pair.aligned:
        if a is None or b is None or b not in wanted:
            continue
        role: Role | None = None
        if b == last:
            role = Role.PREDICTING
        elif wanted[b] == Part.PHRASE:
            role = Role.PHRASE_ANSWER if b == pair.corrupted.phrase_answer else Role.PHRASE
        elif wanted[b] in (Part.END_THINK, Part.ANSWER):
            role = Role(wanted[b])
        found.append(KeyPosition(role, a, b, pair.corrupted.trace.token_text(b)))
    return found


def padded(pair: ContrastPair, pad_id: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """(clean ids, corrupted ids, clean mask, corrupted mask) of the same length, pads where a side has no token."""
    sides = ((pair.clean.trace.token_ids, 0), (pair.corrupted.trace.token_ids, 1))
    ids = [[pad_id if (at := place[i]) is None else tokens[at] for place in pair.aligned] for tokens, i in sides]
    masks = [[int(place[i] is not None) for place in pair.aligned] for _, i in sides]
    return ids[0], ids[1], masks[0], masks[1]
