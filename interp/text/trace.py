"""Traces: one token sequence, its text, and the segments that the think markers cut it into (Paper A, segments)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from interp.errors import TraceError
from interp.text.ends import EOS_TEXTS, end_ids, leading, measured, strip_ends


class Segment(StrEnum):
    """The six segments of a trace, in order. A final end-of-sequence token belongs to none."""

    BOS = "bos"
    PROMPT = "prompt"
    THINK = "think"
    REASONING = "reasoning"
    END_THINK = "end_think"
    ANSWER = "answer"


@dataclass(frozen=True)
class Span:
    """Positions start..end-1 of the whole sequence."""

    segment: Segment
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def positions(self) -> range:
        return range(self.start, self.end)


@dataclass(frozen=True)
class ThinkMarkers:
    """The texts that open and close the reasoning; each may be one token or several."""

    open: str = "<think>"
    close: str = "</think>"


DEFAULT_MARKERS = ThinkMarkers()

ASSISTANT_TEXTS = (
    "<｜Assistant｜>",
    "<|Assistant|>",
    "<|assistant|>",
    "<|im_start|>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|start_of_role|>assistant<|end_of_role|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "<start_of_turn>model",
    "[/INST]",
    "\nAssistant:",
)
"""What begins the assistant's turn in the model families' chat formats; the last in ordinary words."""
_TURN = re.compile("|".join(map(re.escape, ASSISTANT_TEXTS)))


_COLOURS = dict(zip(Segment, ("#eeeeee", "#dce9f5", "#d9d9d9", "#fff3cf", "#d9d9d9", "#dff0d8"), strict=True))
"""Of segments, in notebooks."""


@dataclass(frozen=True)
class Trace:
    """A prompt and everything generated after it.

    `offsets[i]` are the characters of `text` that token i stands for (end exclusive; empty for a token that completes
    no character, and for a beginning-of-sequence token that the text does not spell). `spans` holds the six segments
    in order, empty ones included; together they cover every position but a final end-of-sequence token.
    """

    example: str
    text: str
    token_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    spans: tuple[Span, ...]
    source: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Trace:
        """A trace from a row of traces.parquet."""
        offsets = tuple((int(start), int(end)) for start, end in row["offsets"])
        spans = tuple(Span(Segment(s["segment"]), int(s["start"]), int(s["end"])) for s in row["segments"])
        return cls(row["example"], row["text"], tuple(map(int, row["token_ids"])), offsets, spans, row["source"])

    def __len__(self) -> int:
        """Number of tokens, a final end-of-sequence token included."""
        return len(self.token_ids)

    @property
    def tokens(self) -> list[str]:
        """The text of every token."""
        return [self.token_text(position) for position in range(len(self))]

    def _repr_html_(self) -> str:
        """The text with its segments in colours, for notebooks."""
        parts = []
        for span in self.spans:
            if len(span):
                style = f"background:{_COLOURS[span.segment]};color:#000;white-space:pre-wrap"
                title = f"{span.segment}: {len(span)} tokens"
                text = html.escape(self.segment_text(span.segment))
                parts.append(f'<span title="{title}" style="{style}">{text}</span>')
        return f'<div style="line-height:1.5">{"".join(parts)}</div>'

    def __getitem__(self, segment: Segment) -> Span:
        return self.spans[list(Segment).index(segment)]

    @property
    def n_measured(self) -> int:
        """Number of tokens that belong to a segment: all but a final end-of-sequence token."""
        return self.spans[-1].end

    @property
    def measured_ids(self) -> tuple[int, ...]:
        """The tokens that belong to a segment. A final end-of-sequence token is neither query nor key."""
        return self.token_ids[: self.n_measured]

    def segment_at(self, position: int) -> Segment | None:
        """The segment of a position; None for a final end-of-sequence token."""
        return next((span.segment for span in self.spans if span.start <= position < span.end), None)

    def token_text(self, position: int) -> str:
        start, end = self.offsets[position]
        return self.text[start:end]

    def spaced_text(self, position: int) -> str:
        """A token's text with what stands between it and the token before, where no token holds the spaces."""
        before = self.offsets[position - 1][1] if position else self.offsets[position][0]
        return self.text[min(before, self.offsets[position][0]) : self.offsets[position][1]]

    def segment_text(self, segment: Segment) -> str:
        span = self[segment]
        return self.text[self.offsets[span.start][0] : self.offsets[span.end - 1][1]] if len(span) else ""

    def require(self, *segments: Segment) -> None:
        """Raises TraceError if one of these segments has no token."""
        for segment in segments:
            if not len(self[segment]):
                raise TraceError(self.example, f"the {segment} segment is empty")


def parse_text(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers = DEFAULT_MARKERS,
    *,
    example: str = "text",
    source: str = "text",
) -> Trace:
    """A trace from its whole text, special tokens included.

    Beginning-of-sequence texts of any known family at the start are replaced by the tokenizer's own token (dropped
    if it has none), be they one or, as chat templates and tokenizers both write one, two; those at the end of the
    sequence likewise. The first markers of the last assistant turn count: a system prompt may speak of them. Raises
    TraceError where there is no closed think tag, nothing after it, or another turn.
    """
    body, has_eos = strip_ends(text, tokenizer)
    start = response_start(body, markers)
    _find_markers(body, markers, example, start)
    encoded = tokenizer(body, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), _without_overlap(encoded["offset_mapping"])
    if tokenizer.bos_token_id is not None:
        ids, offsets = [tokenizer.bos_token_id, *ids], [(0, 0), *offsets]
    if has_eos and tokenizer.eos_token_id is not None:
        ids, offsets = [*ids, tokenizer.eos_token_id], [*offsets, (len(body), len(body))]
    return _assemble(body, ids, offsets, tokenizer, markers, example, source, start)


def parse_ids(
    token_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers = DEFAULT_MARKERS,
    *,
    example: str = "ids",
    source: str = "ids",
    n_prompt: int | None = None,
) -> Trace:
    """A trace from token ids, exactly these: nothing is added, removed or tokenized again.

    The first `n_prompt` of them are the prompt, whose own words about the markers do not count: the reasoning begins at
    its end, where it opens the tag, or behind it. Not known (None) = the last assistant turn, as `parse_text`, and
    errors likewise. All beginning-of-sequence tokens at the start are `bos`, and what ends the sequence, padding
    included, belongs to no segment.
    """
    text, offsets = decode_with_offsets(tokenizer, token_ids)
    if n_prompt is None:
        start = response_start(text, markers)
    else:
        prompt = text[: offsets[n_prompt - 1][1] if n_prompt else 0]
        opened = prompt.rstrip().endswith(markers.open)
        start = prompt.rindex(markers.open) if opened else len(prompt)
    _find_markers(text, markers, example, start)
    return _assemble(text, list(token_ids), offsets, tokenizer, markers, example, source, start)


def parse_response(
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers = DEFAULT_MARKERS,
    *,
    example: str = "ids",
    source: str = "ids",
) -> Trace:
    """A trace from a prompt and what the model wrote, with or without think tags.

    With closed tags as `parse_ids`. Without, the whole response is `answer`, and the segments between are empty: enough
    for measures that need prompt and response alone. Raises TraceError for a response without tokens.
    """
    ids = [*prompt_ids, *response_ids]
    try:
        return parse_ids(ids, tokenizer, markers, example=example, source=source, n_prompt=len(prompt_ids))
    except TraceError:
        text, offsets = decode_with_offsets(tokenizer, ids)
    start = len(prompt_ids)
    bos, end = min(start, leading(ids, tokenizer)), max(start, measured(ids, text, offsets, tokenizer))
    borders = (0, bos, start, start, start, start, end)
    spans = tuple(Span(s, a, b) for s, (a, b) in zip(Segment, pairwise(borders), strict=True))
    trace = Trace(example, text, tuple(ids), tuple(offsets), spans, source)
    trace.require(Segment.ANSWER)
    return trace


def writes(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], text: str) -> bool:
    """Whether these tokens are this text, but for whitespace between them and what begins and ends a sequence: false
    for those of another vocabulary."""
    if max(token_ids) >= len(tokenizer) or min(token_ids) < 0:
        return False
    shown = [strip_ends(one, tokenizer)[0] for one in (str(tokenizer.decode(list(token_ids))), text)]
    return len({"".join(one.split()) for one in shown}) == 1


def decode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], context: int = 8
) -> tuple[str, list[tuple[int, int]]]:
    """The text of the ids and, for each id, the characters it adds.

    Each token is decoded behind the `context` tokens before it, so the work is linear in length. A token that ends
    within a character (bytes of an emoji, say) gets an empty range; the one that completes it gets the character.
    """
    ids = list(token_ids)
    text, offsets = "", []
    start = 0  # where the window of decoded context begins
    shown = 0  # tokens before this one have all their characters in `text`
    for i in range(len(ids)):
        before = str(tokenizer.decode(ids[start:shown], skip_special_tokens=False))
        now = str(tokenizer.decode(ids[start : i + 1], skip_special_tokens=False))
        last = i + 1 == len(ids)
        piece = now[len(before) :] if last or not now.endswith("\ufffd") else ""
        offsets.append((len(text), len(text) + len(piece)))
        text += piece
        if piece or now == before:
            shown = i + 1
            start = max(start, shown - context)
    return text, offsets


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text that a model wrote: without beginning, end and padding tokens, all other special tokens kept.

    Think tags are special tokens in some vocabularies, and without them reasoning and answer cannot be told apart.
    """
    ends = end_ids(tokenizer) | {tokenizer.bos_token_id, tokenizer.pad_token_id}
    return str(tokenizer.decode([i for i in token_ids if i not in ends], skip_special_tokens=False))


def response_start(text: str, markers: ThinkMarkers) -> int:
    """Where the last assistant turn with a close marker begins in a whole text; 0 where no turns are marked."""
    return last_turn(text, markers, max(0, text.rfind(markers.close)))


def last_turn(text: str, markers: ThinkMarkers, end: int | None = None) -> int:
    """Where the last assistant turn in `text[:end]` begins; 0 where no turns are marked. Ordinary words inside of an
    open thought begin none."""
    start = 0
    for turn in _TURN.finditer(text, 0, len(text) if end is None else end):
        opened, closed = (text.rfind(marker, start, turn.start()) for marker in (markers.open, markers.close))
        if not (start and turn.group() == ASSISTANT_TEXTS[-1] and opened > closed):
            start = turn.end()
    return start


def split_text(text: str, markers: ThinkMarkers) -> tuple[str, str]:
    """Prompt and response of a whole text: the last assistant turn, or else all from the first open marker on."""
    start = response_start(text, markers)
    if not start:
        at = text.find(markers.open)
        start = at if at >= 0 else 0
    return text[:start], text[start:]


@dataclass(frozen=True)
class ResponseParts:
    """What a model wrote, cut at its think tags. `closed`: no reasoning is left open at the end."""

    reasoning: str
    answer: str
    closed: bool


def split_response(text: str, markers: ThinkMarkers) -> ResponseParts:
    """Reasoning and answer of a response, whose prompt may have opened the tag.

    The first close marker counts. Whole blocks of reasoning after it belong to neither; one that is left open leaves
    the response without an answer. Without markers all is reasoning that is not closed.
    """
    reasoning, closed, answer = text.partition(markers.close)
    before, opened, inside = reasoning.partition(markers.open)
    reasoning = inside if opened else before
    if not closed:
        return ResponseParts(reasoning, "", closed=False)
    block = f"{re.escape(markers.open)}.*?{re.escape(markers.close)}"
    answer = re.sub(block, "", answer, flags=re.DOTALL)
    if markers.open in answer:
        return ResponseParts(reasoning, "", closed=False)
    return ResponseParts(reasoning, answer, closed=True)


def after_reasoning(text: str, markers: ThinkMarkers) -> str:
    """The answer of a response; the whole text if no reasoning is closed in it."""
    parts = split_response(text, markers)
    return parts.answer if parts.closed else text


def _without_overlap(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tokenizers give a character of several tokens to each of them; here the last one gets it."""
    nexts = [start for start, _ in offsets[1:]] + [max((end for _, end in offsets), default=0)]
    return [(start, min(end, after)) for (start, end), after in zip(offsets, nexts, strict=True)]


def _find_markers(text: str, markers: ThinkMarkers, example: str, start: int) -> tuple[int, int]:
    """Where the first open and the first close marker stand from `start` on."""
    opened, closed = text.find(markers.open, start), text.find(markers.close, start)
    if opened < 0 and closed >= 0:
        raise TraceError(example, f"{markers.close} without {markers.open} before it")
    if opened < 0:
        raise TraceError(example, f"no {markers.open} in it, so it has no reasoning segment")
    if closed < 0:
        raise TraceError(example, f"{markers.open} is never closed by {markers.close} (cut off while reasoning?)")
    if closed < opened:
        raise TraceError(example, f"{markers.close} comes before the first {markers.open}")
    return opened, closed


def _require_one_turn(trace: Trace, start: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises TraceError where the answer goes on into other turns: those whose format the prompt, `start` characters
    long, has, or whatever stands behind an end."""
    answer = trace.segment_text(Segment.ANSWER)
    turns = {turn.group() for turn in _TURN.finditer(trace.text, 0, start)}
    ends = set(EOS_TEXTS) - {"</s>"} | {str(tokenizer.eos_token or EOS_TEXTS[0])}  # HTML has </s>
    if any(text in answer for text in turns | ends):
        raise TraceError(trace.example, "another turn, without think tags, is behind the answer")


def _assemble(
    text: str,
    ids: list[int],
    offsets: Sequence[tuple[int, ...]],
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    example: str,
    source: str,
    start: int,
) -> Trace:
    bos, end = leading(ids, tokenizer), measured(ids, text, offsets, tokenizer)
    opened, closed = _find_markers(text, markers, example, start)
    # A token that shares a character with a marker belongs to the marker.
    think = _overlapping(offsets, bos, end, opened, opened + len(markers.open))
    close = _overlapping(offsets, think[1], end, closed, closed + len(markers.close))
    borders = (0, bos, think[0], think[1], close[0], close[1], end)
    spans = tuple(Span(s, a, b) for s, (a, b) in zip(Segment, pairwise(borders), strict=True))
    trace = Trace(example, text, tuple(ids), tuple((o[0], o[1]) for o in offsets), spans, source)
    trace.require(Segment.ANSWER)
    _require_one_turn(trace, start, tokenizer)
    return trace


def _overlapping(offsets: Sequence[tuple[int, ...]], first: int, end: int, start: int, stop: int) -> tuple[int, int]:
    """The tokens first..end-1 that share a character with text[start:stop], as a range."""
    hits = [i for i in range(first, end) if offsets[i][0] < stop and offsets[i][1] > start]
    return hits[0], hits[-1] + 1
