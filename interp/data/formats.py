"""The formats in which people keep reasoning traces: each is known by the fields of its rows, or named by an option.

A row becomes one or several samples: the text as it stands, or the turns of a conversation and the response, which the
measured model's own chat template is put around later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from interp.errors import UserError
from interp.text.trace import ThinkMarkers

Turns = tuple[tuple[str, str], ...]


class TraceFormat(StrEnum):
    """How a row holds a trace."""

    AUTO = "auto"
    """The first of the others whose fields the row has."""
    CHOICES = "choices"
    """A response of an OpenAI-compatible server such as vLLM: `choices`, beside the `messages` or `prompt` sent."""
    MESSAGES = "messages"
    """Chat messages, the last the assistant's, perhaps with `reasoning_content`."""
    CONVERSATIONS = "conversations"
    """ShareGPT: `conversations` of {from, value}."""
    LM_EVAL = "lm_eval"
    """A sample log of lm-evaluation-harness: `arguments`, `resps`, `target`."""
    MATH_ROLLOUTS = "math_rollouts"
    """A base solution of thought-anchors' data: `full_cot`, or `prompt` and `solution`."""
    TEXT = "text"
    """The whole `text`, special tokens included; perhaps a `prompt` to be put before it."""
    COMPLETION = "completion"
    """A `prompt` as the model saw it, and what it wrote."""
    QUESTION = "question"
    """A question and the response to it; the chat template is the measured model's."""


RESPONSES = ("completion", "response", "output", "generation", "generated_text", "model_output", "answer_text")
QUESTIONS = ("question", "problem", "instruction", "query")
ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""ShareGPT's names of roles."""


@dataclass(frozen=True)
class Sample:
    """One response of a row: its whole text, or the turns before it and itself."""

    text: str
    turns: Turns = ()
    response: str = ""
    finished: bool | None = None
    gold: Any = None
    """As this format holds it; None where it has no place of its own for it."""
    prompt: str | None = None
    """What stands before the response; None where nothing parts the two."""

    @classmethod
    def apart(cls, prompt: str, response: str, finished: bool | None = None, gold: Any = None) -> Sample:
        """A response behind the prompt as its model saw it."""
        return cls(prompt + response, (), response, finished, gold, prompt)


@dataclass(frozen=True)
class Columns:
    """What the columns are called, where they have other names; None = those of the format."""

    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None


def samples_of(
    row: Mapping[str, Any],
    markers: ThinkMarkers,
    where: str,
    kind: TraceFormat = TraceFormat.AUTO,
    columns: Columns = Columns(),
) -> list[Sample]:
    """The samples of a row. `where` names it in errors. Raises UserError for what is not in the format."""
    named = {
        "text": columns.text,
        "prompt": columns.prompt,
        "completion": columns.response,
        "messages": columns.messages,
    }
    row = {**row, **{name: row.get(column) for name, column in named.items() if column is not None}}
    if kind == TraceFormat.AUTO:
        kind = recognised(row, where)
    try:
        return _READ[kind](row, markers)
    except _WrongShapeError as error:
        raise UserError(f"{where}: read as data.format={kind}: {error}") from error


ENDED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed"})
CUT_OFF = frozenset({
    *("length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length", "token_limit"),
    *("incomplete", "truncated", "abort", "aborted", "cancelled", "error", "content_filter"),
})  # fmt: skip
"""Reasons why generation stopped, as servers and libraries name them: by itself, or not."""


def ended_by(reason: Any) -> bool | None:
    """Whether a response ended by itself, by its `finish_reason`; None where that says nothing that is known."""
    said = str(reason).lower()
    return True if said in ENDED else False if said in CUT_OFF else None


class _WrongShapeError(ValueError):
    """What a row lacks."""


def recognised(row: Mapping[str, Any], where: str = "the row") -> TraceFormat:
    """The format that a row's fields show."""
    for kind, fields in _SIGNS.items():
        if all(any(row.get(name) is not None for name in names) for names in fields):
            return kind
    shapes = {kind: " + ".join("|".join(names) for names in fields) for kind, fields in _SIGNS.items()}
    looked_for = "; ".join(f"{kind}: {shape}" for kind, shape in shapes.items())
    raise UserError(
        f"{where}: no format that is known has the fields {', '.join(row) or '(none)'} (looked for {looked_for}): "
        "name the columns by data.fields, or the format by data.format"
    )


_SIGNS: dict[TraceFormat, tuple[tuple[str, ...], ...]] = {
    TraceFormat.TEXT: (("text",),),
    TraceFormat.MATH_ROLLOUTS: (("full_cot",),),
    TraceFormat.CHOICES: (("choices",),),
    TraceFormat.COMPLETION: (("prompt",), RESPONSES),
    TraceFormat.MESSAGES: (("messages",),),
    TraceFormat.CONVERSATIONS: (("conversations",),),
    TraceFormat.LM_EVAL: (("arguments",), ("resps",)),
    TraceFormat.QUESTION: (QUESTIONS, RESPONSES),
}


def _text(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    """The whole text, cut behind the `prompt` where the row has that too; put behind it where it does not hold it."""
    text, prompt = _string(row, ("text",)), row.get("prompt")
    if not isinstance(prompt, str) or not (asked := prompt.strip()):
        return [Sample(text)]
    place = text.find(asked)
    if place < 0 or markers.open in text[:place]:  # a thought that restates the question is not the prompt
        return [Sample.apart(prompt, text)]
    return [Sample.apart(text[: place + len(asked)], text[place + len(asked) :])]


def _completion(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    prompt = row.get("prompt")
    if isinstance(prompt, list):  # chat messages sent, plain text back
        return [_sample(_turns(prompt), one, markers) for one in _strings(row, RESPONSES)]
    return [Sample.apart(_string(row, ("prompt",)), one) for one in _strings(row, RESPONSES)]


def _question(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    turns = (("user", _string(row, QUESTIONS)),)
    return [_sample(turns, one, markers) for one in _strings(row, RESPONSES)]


def _messages(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    messages = row["messages"]
    turns = _turns(messages)
    if not turns or turns[-1][0] != "assistant":
        raise _WrongShapeError("'messages' is not a list of turns with `role` and `content`, the last the assistant's")
    return [_sample(turns[:-1], _with_reasoning(messages[-1], markers), markers)]


def _conversations(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(
        isinstance(one, dict) and "from" in one and "value" in one for one in turns
    ):
        raise _WrongShapeError("'conversations' is not a list of {from, value}")
    named = [(ROLES.get(str(one["from"]), str(one["from"])), str(one["value"])) for one in turns]
    if isinstance(row.get("system"), str):
        named.insert(0, ("system", row["system"]))
    if not named or named[-1][0] != "assistant":
        raise _WrongShapeError("the last of 'conversations' is not the assistant's")
    return [_sample(tuple(named[:-1]), named[-1][1], markers)]


def _choices(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:
    request: Mapping[str, Any] = row["request"] if isinstance(row.get("request"), Mapping) else {}
    sent = row.get("messages") or request.get("messages") or row.get("prompt") or request.get("prompt")
    if not isinstance(row["choices"], list) or not row["choices"]:
        raise _WrongShapeError("'choices' is not a list of choices")
    found = []
    for choice in row["choices"]:
        reason = choice.get("finish_reason") if isinstance(choice, Mapping) else None
        finished = ended_by(reason)
        if isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping):
            response = _with_reasoning(choice["message"], markers)
        elif isinstance(choice, Mapping) and isinstance(choice.get("text"), str):
            response = choice["text"]
        else:
            raise _WrongShapeError("a choice has neither `message` nor `text`")
        if isinstance(sent, str):
            found.append(Sample.apart(sent, response, finished))
        else:
            found.append(_sample(_turns(sent or []), response, markers, finished))
    return found


def _lm_eval(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:  # noqa: ARG001 - all read alike
    arguments = row["arguments"]
    if isinstance(arguments, Mapping):
        first = next(iter(arguments.values()), None)
        prompt = first.get("arg_0") if isinstance(first, Mapping) else first
    else:
        prompt = arguments[0][0] if arguments and isinstance(arguments[0], Sequence) else None
    responses = [one for part in row["resps"] for one in (part if isinstance(part, list) else [part])]
    if not isinstance(prompt, str) or not responses or not all(isinstance(one, str) for one in responses):
        raise _WrongShapeError("'arguments' and 'resps' hold no prompt and generated text: log with --log_samples")
    return [Sample.apart(prompt, one, gold=row.get("target")) for one in responses]


def _math_rollouts(row: Mapping[str, Any], markers: ThinkMarkers) -> list[Sample]:  # noqa: ARG001 - all read alike
    whole, gold = row.get("full_cot"), row.get("gt_answer")
    if not isinstance(whole, str):
        return [Sample.apart(_string(row, ("prompt",)), _string(row, ("solution",)), gold=gold)]
    prompt = row.get("prompt")
    if isinstance(prompt, str) and whole.startswith(prompt):
        return [Sample.apart(prompt, whole[len(prompt) :], gold=gold)]
    return [Sample(whole, gold=gold)]


def _sample(turns: Turns, response: str, markers: ThinkMarkers, finished: bool | None = None) -> Sample:
    if markers.close in response and markers.open not in response:  # the chat template had opened the tag
        response = f"{markers.open}\n{response.lstrip()}"
    prompt = "".join(f"{content}\n" for _, content in turns)
    return Sample(prompt + response, turns, response, finished, prompt=prompt)


def _with_reasoning(message: Mapping[str, Any], markers: ThinkMarkers) -> str:
    """A message's content, with its reasoning between think tags before it where a server has parted the two."""
    response, reasoning = _content(message), message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and markers.open not in response:
        return f"{markers.open}\n{reasoning.strip()}\n{markers.close}\n\n{response.lstrip()}"
    return response


def _turns(messages: Any) -> Turns:
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages
    ):
        raise _WrongShapeError("'messages' is not a list of turns with `role` and `content`, the last the assistant's")
    return tuple((str(one["role"]), _content(one)) for one in messages)


def _content(turn: Mapping[str, Any]) -> str:
    """The text of a turn, which may be cut into parts."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _string(row: Mapping[str, Any], names: Iterable[str]) -> str:
    found = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(found, str):
        raise _WrongShapeError(f"no text field {'|'.join(names)!r}; it has {', '.join(row) or 'no fields'}")
    return found


def _strings(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """One text, or several: samples of one question."""
    found = next((row[name] for name in names if row.get(name) is not None), None)
    several = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]
    if not several or (isinstance(found, list) and len(several) < len(found)):
        raise _WrongShapeError(f"no text field {'|'.join(names)!r}; it has {', '.join(row) or 'no fields'}")
    return several


_READ = {
    TraceFormat.TEXT: _text,
    TraceFormat.COMPLETION: _completion,
    TraceFormat.QUESTION: _question,
    TraceFormat.MESSAGES: _messages,
    TraceFormat.CONVERSATIONS: _conversations,
    TraceFormat.CHOICES: _choices,
    TraceFormat.LM_EVAL: _lm_eval,
    TraceFormat.MATH_ROLLOUTS: _math_rollouts,
}
