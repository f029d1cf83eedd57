"""What ends a response: the tokenizer's own tokens, those of chat formats, and those that a model's weights name."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

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
