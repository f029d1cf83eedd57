"""Single changes of a trace's reasoning: another number, another name, a step gone, shuffled, or said once more.

The rest of the reasoning stays as it was. Changed words keep the number of tokens, so that the two runs are aligned and
activations can be patched between them; changed steps do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from transformers import PreTrainedTokenizerBase

from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace

_NUMBER = re.compile(r"\d+")
_NAME = re.compile(r"[A-Z][a-z]+")
OTHER_NUMBERS = (1, -1, 2, -2, 3, -3, 5, 7, 10)
"""By how much another number differs, nearest first."""


class Corruption(StrEnum):
    """What is changed."""

    NUMBER = "change_number"
    """A number becomes another one."""
    NAME = "swap_name"
    """A name of the prompt becomes another name of the prompt."""
    DELETE = "delete_step"
    """A sentence is left out."""
    SHUFFLE = "shuffle_step"
    """The words of a sentence change places."""
    PARAPHRASE = "paraphrase_step"
    """A sentence is put into a template. `Wait, {}` keeps the words and announces a correction all the same."""
    REWORD = "reword_step"
    """Words of a sentence give way to others that say the same."""
    INERT = "insert_inert"
    """A sentence that says nothing is put before one: the control."""


CONTROLS = (Corruption.INERT, Corruption.REWORD, Corruption.PARAPHRASE)
"""Changes that leave the meaning as it was, the better control first."""


@dataclass(frozen=True)
class Wordings:
    """The texts that changes of steps put in: all are the user's, in his language."""

    template: str
    """With {} for the sentence."""
    inert: str
    """A sentence that says nothing."""
    others: Mapping[str, str]
    """For words and phrases, in lower case, others that say the same."""


@dataclass(frozen=True)
class Corrupted:
    """A trace up to the end of its close tag, with one change."""

    kind: Corruption
    ids: tuple[int, ...]
    position: int
    """Where the change begins and ends in the original trace."""
    position_end: int
    old: str
    new: str
    """What stood there and what stands there now."""
    aligned: bool
    """Whether both runs have the same number of tokens."""

    def may_follow(self, answer: str) -> bool:
        """Whether an answer could become the new word: both are numbers, or both names, and it is not that already."""
        kinds = {Corruption.NUMBER: _NUMBER, Corruption.NAME: _NAME}
        return self.kind in kinds and answer != self.new and kinds[self.kind].fullmatch(answer) is not None


def corruptions(
    trace: Trace,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    kinds: Sequence[Corruption],
    wordings: Wordings,
) -> Iterator[Corrupted]:
    """Every change of these kinds that the trace allows, in order of position: one that leaves its tokens as they were,
    or brings in a word that the vocabulary does not know, is none."""
    for kind in kinds:
        if kind in (Corruption.NUMBER, Corruption.NAME):
            yield from _words(trace, tokenizer, rng, kind)
        else:
            yield from _steps(trace, tokenizer, rng, kind, wordings)


def _words(
    trace: Trace, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, kind: Corruption
) -> Iterator[Corrupted]:
    reasoning = trace[Segment.REASONING]
    start, stop = trace.offsets[reasoning.start][0], trace.offsets[reasoning.end - 1][1]
    names = sorted(set(_NAME.findall(trace.segment_text(Segment.PROMPT))))
    names = [name for name in names if len(re.findall(rf"\b{name}\b", trace.text[:stop])) > 1]
    pattern = _NUMBER if kind == Corruption.NUMBER else _NAME
    for found in pattern.finditer(trace.text, start, stop):
        old = found.group()
        if kind == Corruption.NUMBER:
            shifts = [OTHER_NUMBERS[i] for i in rng.permutation(4)] + list(OTHER_NUMBERS[4:])
            others = [str(int(old) + shift) for shift in shifts if int(old) + shift >= 0]
        elif old in names:
            others = [name for name in rng.permutation(names).tolist() if name != old]
        else:
            continue
        for new in others:
            ids = _replaced(trace, tokenizer, found.start(), found.end(), new)
            if ids is not None:
                changed = [i for i, (a, b) in enumerate(zip(trace.token_ids, ids, strict=False)) if a != b]
                where = (changed[0], changed[-1] + 1)
                yield Corrupted(kind, ids, *where, old, new, aligned=True)
                break


def _replaced(
    trace: Trace, tokenizer: PreTrainedTokenizerBase, start: int, stop: int, new: str
) -> tuple[int, ...] | None:
    """The tokens up to the end of the close tag with other characters at start..stop-1; None unless exactly the tokens
    that hold these characters change, one for one."""
    first = next((i for i, (a, b) in enumerate(trace.offsets) if a <= start < b), None)
    last = next((i for i, (a, b) in enumerate(trace.offsets) if a < stop <= b), None)
    if first is None or last is None:  # some tokenizers leave characters out
        return None
    begin, end = trace.offsets[first][0], trace.offsets[last][1]
    text = trace.text[begin:start] + new + trace.text[stop:end]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(trace.text[begin:end], add_special_tokens=False)["input_ids"]
    if whole != list(trace.token_ids[first : last + 1]) or len(ids) != last + 1 - first:
        return None
    if ids == whole or _unknown(tokenizer, ids) > _unknown(tokenizer, whole):
        return None
    close = trace[Segment.ANSWER].start
    return (*trace.token_ids[:first], *ids, *trace.token_ids[last + 1 : close])


def _steps(
    trace: Trace, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, kind: Corruption, wordings: Wordings
) -> Iterator[Corrupted]:
    close = trace[Segment.ANSWER].start
    for start, stop in reasoning_sentences(trace):
        old = trace.text[trace.offsets[start][0] : trace.offsets[stop - 1][1]]
        lead, tail = old[: len(old) - len(old.lstrip())], old[len(old.rstrip()) :]
        body = old.strip()
        if kind == Corruption.DELETE:
            new = ""
        elif kind == Corruption.SHUFFLE:
            words = body.rstrip(".!?").split()
            if len(set(words)) < 2:
                continue
            order = rng.permutation(len(words))
            while [words[i] for i in order] == words:
                order = rng.permutation(len(words))
            new = lead + " ".join(words[i] for i in order) + body[len(body.rstrip(".!?")) :] + tail
        elif kind == Corruption.REWORD:
            new = lead + reworded(body, wordings.others) + tail
        else:
            template = f"{wordings.inert} {{}}" if kind == Corruption.INERT else wordings.template
            new = lead + template.replace("{}", body) + tail
        ids = tokenizer(new, add_special_tokens=False)["input_ids"] if new else []
        before = trace.token_ids[start:stop]
        if tuple(ids) == tuple(before) or _unknown(tokenizer, ids) > _unknown(tokenizer, before):
            continue
        changed = (*trace.token_ids[:start], *ids, *trace.token_ids[stop:close])
        aligned = len(changed) == close
        yield Corrupted(kind, changed, start, stop, old, new, aligned)


def _unknown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """How many of some tokens stand for words that the vocabulary does not have."""
    return list(ids).count(tokenizer.unk_token_id)


def reworded(text: str, others: Mapping[str, str]) -> str:
    """The text with whole words and phrases replaced, the longest first; a capital stays a capital."""
    if not others:
        return text
    words = sorted(others, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

    def other(found: re.Match[str]) -> str:
        new = others[found.group().lower()]
        return new[:1].upper() + new[1:] if found.group()[0].isupper() else new

    return pattern.sub(other, text)
