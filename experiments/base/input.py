"""A look at what a run is to measure, before its model is loaded (see interp/data/input_check.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from experiments.base.data import CONTRAST, ResponseFrom
from experiments.base.experiment import experiment
from experiments.base.pairs import pair_maker
from experiments.base.session import Session
from interp.data.input_check import InputNotes, Reader, look_at_prompts, look_at_traces, positions_of
from interp.model.lens import load_config, load_tokenizer
from interp.text.prompts import Condition, render

SAMPLES = (
    "{} of {} traces are further samples of questions that others answer: each counts as one of its own, so that "
    "intervals are too narrow and p-values too small; data.samples=1 takes the first of each writer and condition"
)
SCRAMBLED = "the tokens of prompt, reasoning and answer are in random order within each (data.scrambled)"


def input_digest(session: Session) -> str | None:
    """SHA-256 of the questions or traces that a run is given; None for experiments without data."""
    if not experiment(session.cfg.experiment.name).needs_data:
        return None
    if session.cfg.data.kind == CONTRAST:
        given: Sequence[Any] = pair_maker(session).questions
    else:
        given = session.questions if session.given is None else session.given
    digest = hashlib.sha256()
    for one in given:
        known = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "task"}  # code
        digest.update(json.dumps(known, default=str).encode() + b"\n")
    return digest.hexdigest()


def look_at_input(session: Session) -> InputNotes | None:
    """What is odd about the run's traces or prompts; None for experiments without data. Raises UserError for what
    cannot be measured."""
    if not experiment(session.cfg.experiment.name).needs_data:
        return None
    model = session.model_options
    positions = positions_of(load_config(session.model_spec))
    reader = Reader(model.label, load_tokenizer(session.model_spec), model.markers, positions)
    if session.cfg.data.kind == CONTRAST:
        pairs = pair_maker(session)
        texts: list[tuple[str, tuple[str, ...]]] = [
            (text, ()) for question in pairs.questions for text in (question.clean, question.corrupted)
        ]
        style, generates = pairs.prompt_style, pairs.response == ResponseFrom.GENERATE
    elif session.given is not None:
        notes = look_at_traces(reader, session.given)
        more = [] if session.data_options.scrambled is None else [SCRAMBLED]
        again = len(session.given) - len({trace.question or trace.id for trace in session.given})
        if again and session.cfg.experiment.name != "evaluate":
            more.append(SAMPLES.format(again, len(session.given)))
        return replace(notes, warnings=(*notes.warnings, *more))
    else:
        texts = [(question.text, question.earlier) for question in session.questions]
        style, generates = session.prompt_style, True
    prompts = [
        render(text, reader.tokenizer, model.markers, style, Condition.WITH_REASONING, earlier)
        for text, earlier in texts
    ]
    return look_at_prompts(reader, prompts, session.generation.max_new_tokens if generates else 0)
