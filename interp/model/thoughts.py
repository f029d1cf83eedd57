"""Thoughts that end: the closing tag is forced where a model that does not write it has thought enough.

Paper A's segments need reasoning between tags. A model that was not trained to write them opens none and closes few;
with worked examples in the prompt, the open tag before its response and this rule they exist for any instruct model.
What was forced is known token by token: the model did not write it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

TAIL = 24
"""The words that end a thought are looked for in so many of its last tokens."""


@dataclass(frozen=True)
class ThoughtRule:
    """When a thought that is still open is closed, and by what text."""

    tokens: int
    """The most tokens of a thought."""
    end: str | None
    """A regular expression: the thought ends where its last tokens match, such as a boxed answer."""
    opened: str
    """A prompt that ends with it opens a thought."""
    closed: str
    """What closes it."""
    text: str
    """What is forced: `closed` and what stands beside it."""


class ThoughtCloser(LogitsProcessor):
    """Forces the closing text, token by token, in each row whose thought is over and not closed.

    `begun`: what a row has of its thought before what is written now; None = it has no open thought. A thought is over
    after `rule.tokens` tokens, where `rule.end` matches, or where the model would end its response.
    While it is open, end tokens are never sampled: they are cut out, or start the closing where they are likeliest.
    """

    def __init__(
        self,
        rule: ThoughtRule,
        tokenizer: PreTrainedTokenizerBase,
        ends: set[int],
        width: int,
        begun: Sequence[Sequence[int] | None],
    ) -> None:
        self.rule, self.tokenizer, self.width, self.begun = rule, tokenizer, width, begun
        self.ends = sorted(ends)
        self.text: list[int] = tokenizer(rule.text, add_special_tokens=False)["input_ids"]
        self.forced: dict[int, int] = {}
        """By row: the place in the response of its first forced token."""
        self._closed = {row for row, thought in enumerate(begun) if thought is None}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row in range(len(input_ids)):
            written = input_ids.shape[1] - self.width
            if row not in self.forced and row not in self._closed:
                self._look(row, input_ids[row, self.width :].tolist(), scores[row])
            if row in self.forced:
                place = written - self.forced[row]
                if place < len(self.text):
                    scores[row] = -torch.inf
                    scores[row, self.text[place]] = 0.0
        return scores

    def _look(self, row: int, written: list[int], scores: torch.Tensor) -> None:
        """Whether the thought of a row is closed, is to be closed now, or goes on."""
        thought = [*(self.begun[row] or ()), *written]
        tail = str(self.tokenizer.decode(thought[-TAIL:], skip_special_tokens=False))
        if self.rule.closed in tail:
            self._closed.add(row)
            return
        over = len(thought) >= self.rule.tokens or (self.rule.end is not None and bool(re.search(self.rule.end, tail)))
        if over or int(scores.argmax()) in self.ends:
            self.forced[row] = len(written)
        else:
            scores[self.ends] = -torch.inf
