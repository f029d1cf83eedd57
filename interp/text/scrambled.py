"""The tokens of a trace in random order: what attention looks at when the text says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from interp.text.trace import Segment, Trace, decode_with_offsets

SCRAMBLED = (Segment.PROMPT, Segment.REASONING, Segment.ANSWER)


def scrambled(trace: Trace, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> Trace:
    """The tokens of the prompt, the reasoning and the answer in random order within each; tags and special tokens stay
    where they are, and so does every segment."""
    ids, special = np.array(trace.token_ids), np.array(sorted(set(tokenizer.all_special_ids)))
    for segment in SCRAMBLED:
        span = trace[segment]
        places = np.arange(span.start, span.end)
        places = places[~np.isin(ids[places], special)]
        ids[places] = ids[rng.permutation(places)]
    text, offsets = decode_with_offsets(tokenizer, ids.tolist())
    return replace(trace, token_ids=tuple(ids.tolist()), text=text, offsets=tuple(offsets))
