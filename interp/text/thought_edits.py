"""A model's own thought, cut short or replaced: does the answer need what it says, or that something stands there?

Early answers and filler after Lanham et al. 2023 (arXiv 2307.13702); a thought on another question of like length is
the control that is still a thought.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace


def first_half(trace: Trace) -> str:
    """The first half of the reasoning's sentences, the middle one of an odd number left out."""
    sentences = reasoning_sentences(trace)
    if not sentences:
        return ""
    return _text(trace, sentences[0][0], sentences[len(sentences) // 2][0])


def filler(trace: Trace, tokenizer: PreTrainedTokenizerBase, unit: str) -> str:
    """A text without content of about as many tokens as the reasoning. Raises UserError for one that the vocabulary
    does not know."""
    ids = tokenizer(unit, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise UserError(f"the model's vocabulary does not know experiment.filler={unit!r}: set another one")
    return " ".join([unit] * max(1, round(len(trace[Segment.REASONING]) / len(ids))))


def of_another(trace: Trace, others: Sequence[Trace]) -> str:
    """The reasoning of the next of some traces whose text differs, cut where it is longer than the trace's own; empty
    where there is none."""
    own = trace[Segment.REASONING]
    for other in others:
        theirs = other[Segment.REASONING]
        if len(theirs) and other.segment_text(Segment.REASONING) != trace.segment_text(Segment.REASONING):
            return _text(other, theirs.start, min(theirs.end, theirs.start + len(own)))
    return ""


def _text(trace: Trace, start: int, stop: int) -> str:
    return trace.text[trace.offsets[start][0] : trace.offsets[stop - 1][1]].strip() if stop > start else ""
