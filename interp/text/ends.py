"""What begins and ends a sequence: the tokenizer's own tokens, those of chat formats, and those that weights name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

BOS_TEXTS = ("<｜begin▁of▁sentence｜>", "<|begin_of_text|>", "<bos>", "<s>")
"""Beginning-of-sequence texts of the model families, so that a trace of one can be read by another."""
EOS_TEXTS = ("<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<eos>", "</s>")
_ENDS = "ends_of_responses"
"""Where `note_ends` puts them."""


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end-of-sequence token and its end-of-turn tokens, with which chat models stop, and those that
    its model's weights name besides (`note_ends`)."""
    vocabulary = tokenizer.get_vocab()
    known = {vocabulary[text] for text in EOS_TEXTS if text in vocabulary} | set(getattr(tokenizer, _ENDS, ()))
    return known | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def note_ends(tokenizer: PreTrainedTokenizerBase, named: int | Sequence[int] | None) -> None:
    """Tokens that end a response by the `eos_token_id` of generation_config.json, which the tokenizer does not know."""
    setattr(tokenizer, _ENDS, frozenset([named] if isinstance(named, int) else named or ()))


def strip_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """The text without known beginning-of-sequence texts at its start and without what ends or pads it; whether
    anything ended it."""
    begins = {*BOS_TEXTS, str(tokenizer.bos_token)} if tokenizer.bos_token else BOS_TEXTS
    text = re.sub(rf"^(?:\s*(?:{_any_of(begins)}))+", "", text)
    return without_ends(text, *(str(token) for token in (tokenizer.eos_token, tokenizer.pad_token) if token))


def without_ends(text: str, *more: str) -> tuple[str, bool]:
    """The text without what ends it in any known family's format, or by `more` texts; whether anything did."""
    body = re.sub(rf"(?:(?:{_any_of({*EOS_TEXTS, *more})})\s*)+$", "", text)
    return body, body != text


def _any_of(texts: Iterable[str]) -> str:
    """A pattern; of texts that begin alike the longest."""
    return "|".join(re.escape(one) for one in sorted(texts, key=len, reverse=True))


def leading(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many beginning-of-sequence tokens stand at the start."""
    return next((i for i, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))


def measured(
    ids: Sequence[int], text: str, offsets: Sequence[tuple[int, ...]], tokenizer: PreTrainedTokenizerBase
) -> int:
    """How many tokens stand before those that end or pad the sequence, and the whitespace among these."""
    ends, end = end_ids(tokenizer) | {tokenizer.pad_token_id}, len(ids)
    for i in reversed(range(len(ids))):
        if ids[i] in ends:
            end = i
        elif text[offsets[i][0] : offsets[i][1]].strip() or offsets[i][0] == offsets[i][1]:
            break
    return end
