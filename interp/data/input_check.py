"""What the input looks like to a model, before its weights are loaded: what cannot be measured is refused.

A vocabulary that does not know the text, sequences beyond the model's positions, conditions measured together: each
gives numbers that look like any others. What is merely odd is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from interp.data.examples import TraceText
from interp.errors import TraceError, UserError
from interp.text.ends import EOS_TEXTS
from interp.text.trace import ThinkMarkers, parse_text

MAX_UNKNOWN = 0.01
"""Share of unknown tokens above which a text is not the model's to read."""
LOOKED_AT = 256
"""So many of the first texts are tokenized for a look; lengths are checked again as each trace is measured."""
_CHAT_TOKEN = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>")


@dataclass(frozen=True)
class Reader:
    """Who is to read the input: its name, vocabulary, think markers and number of positions (None = no limit known)."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    markers: ThinkMarkers
    positions: int | None


@dataclass(frozen=True)
class InputNotes:
    """What was seen. `facts` go into environment.json, `warnings` are also shown first and in the report."""

    facts: dict[str, Any]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {**self.facts, "warnings": list(self.warnings)}


def positions_of(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model is made for; None where its configuration names no limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def look_at_traces(reader: Reader, traces: Sequence[TraceText]) -> InputNotes:
    """What is odd about given traces. Raises UserError for texts that the vocabulary does not know, traces that are all
    too long, and traces with and without reasoning in one measurement."""
    conditions = Counter(trace.condition for trace in traces if trace.condition is not None)
    if len(conditions) > 1:
        shown = ", ".join(f"{name} ({n})" for name, n in sorted(conditions.items()))
        raise UserError(
            f"the traces mix conditions, {shown}: choose one with +data.where.condition={min(conditions)}, "
            "or compare them with experiment=evaluate"
        )
    parsed = []
    for trace in traces[:LOOKED_AT]:
        with suppress(TraceError):  # a broken one is left out, counted and named when its turn comes
            parsed.append(parse_text(trace.text, reader.tokenizer, reader.markers, example=trace.id))
    unknown = _unknown_share(reader, (trace.measured_ids for trace in parsed))
    lengths = [trace.n_measured for trace in parsed]
    too_long = sum(reader.positions is not None and n > reader.positions for n in lengths)
    if lengths and too_long == len(lengths):
        raise UserError(
            f"every trace is longer than the {reader.positions} positions of {reader.name} (the shortest has "
            f"{min(lengths)} tokens): take shorter traces or a model with more positions"
        )
    writers = sorted({trace.writer for trace in traces if trace.writer is not None})
    warnings = [
        *_about_unknown(reader, unknown),
        *_about_chat_tokens(reader, (trace.text for trace in parsed)),
    ]
    if too_long:
        warnings.append(
            f"{too_long} of {len(lengths)} traces are longer than the {reader.positions} positions of {reader.name}: "
            "they are left out"
        )
    silent = sum(trace.finished is None for trace in traces)
    if silent == len(traces) and not any(trace.text.rstrip().endswith(EOS_TEXTS) for trace in traces):
        warnings.append("nothing says whether the traces were finished: some may have been cut off (finish_reason)")
    if len(writers) > 1:
        warnings.append(
            f"traces of {len(writers)} writers are measured together ({', '.join(writers)}): "
            "+data.where.model=NAME chooses one"
        )
    if others := [writer for writer in writers if writer != reader.name]:
        warnings.append(f"the traces were written by {', '.join(others)} and are read by {reader.name}")
    facts = {
        "looked_at": len(parsed),
        "unknown_share": unknown,
        "longest": max(lengths, default=None),
        "too_long": too_long,
        "positions": reader.positions,
        "conditions": dict(sorted(conditions.items())),
        "writers": writers,
    }
    return InputNotes(facts, tuple(warnings))


def look_at_prompts(reader: Reader, prompts: Sequence[str], max_new_tokens: int) -> InputNotes:
    """What is odd about prompts that the model is to continue. Raises UserError for texts that the vocabulary does not
    know, and where prompt and response do not fit into the model's positions."""
    ids: list[list[int]] = reader.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    unknown = _unknown_share(reader, ids)
    longest = max(map(len, ids), default=0)
    if reader.positions is not None and longest + max_new_tokens > reader.positions:
        room = reader.positions - longest
        remedy = f"set generation.max_new_tokens={room} or less" if room > 0 else "leave out the long questions"
        raise UserError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} do not fit into the {reader.positions} "
            f"positions of {reader.name}: {remedy}"
        )
    facts = {"looked_at": len(ids), "unknown_share": unknown, "longest": longest, "positions": reader.positions}
    return InputNotes(facts, tuple(_about_unknown(reader, unknown)))


def _unknown_share(reader: Reader, sequences: Iterable[Sequence[int]]) -> float:
    """Share of unknown tokens. Raises UserError above MAX_UNKNOWN."""
    tokenizer = reader.tokenizer
    unknown = tokenizer.unk_token_id
    # Where the unknown token also ends or pads texts, the vocabulary is of bytes and knows every text.
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return 0.0
    found: Counter[bool] = Counter()
    for ids in sequences:
        found.update(token == unknown for token in ids)
    total = found.total()
    share = found[True] / total if total else 0.0
    if share > MAX_UNKNOWN:
        raise UserError(
            f"the vocabulary of {reader.name} does not know {share:.0%} of the tokens of this input: "
            "choose data of its own kind or another model"
        )
    return share


def _about_unknown(reader: Reader, share: float) -> list[str]:
    return [f"the vocabulary of {reader.name} does not know {share:.2%} of the tokens of this input"] if share else []


def _about_chat_tokens(reader: Reader, texts: Iterable[str]) -> list[str]:
    """Signs of a chat format, and think tags, that are no single tokens of this model."""
    found = {sign for text in texts for sign in _CHAT_TOKEN.findall(text)} | {reader.markers.open, reader.markers.close}
    split = [sign for sign in sorted(found) if len(reader.tokenizer(sign, add_special_tokens=False)["input_ids"]) != 1]
    if not split:
        return []
    return [f"{', '.join(split)}: no single tokens of {reader.name}, which reads them as ordinary text"]
