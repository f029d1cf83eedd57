"""Contrast pairs for an experiment: questions, responses of the model or a template, aligned pairs, drops."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from experiments.base.data import CONTRAST, ContrastOptions, ResponseFrom
from experiments.base.experiment import Example
from experiments.base.options import typed
from experiments.base.session import Session
from experiments.base.share import Batches
from interp.data.examples import Question
from interp.errors import TraceError, UserError
from interp.grading.outcomes import Outcome
from interp.grading.responses import graded
from interp.model.generate import Response
from interp.model.lens import Lens
from interp.patching.align import (
    ContrastPair,
    PairError,
    PairStyle,
    Side,
    align,
    build_side,
)
from interp.patching.questions import ContrastQuestion
from interp.patching.sources import PairSource, questions_from, style_of
from interp.text.prompts import Condition, PromptStyle, render
from interp.text.trace import Segment, parse_ids

log = logging.getLogger(__name__)


class PairMaker:
    """Makes the pairs of a session's data, in order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        if session.cfg.data.kind != CONTRAST:
            raise UserError(
                f"data={session.cfg.data.name} has no contrast pairs: use data=contrast or object_comparison"
            )
        self.options = typed(ContrastOptions, session.cfg.data, "data")
        self.source = self._source()
        self.style: PairStyle = replace(
            style_of(self.source, self.options.phrase), scenario=self.options.scenario, answers=self.options.answers
        )
        self.response = self._response()
        self.prompt_style: PromptStyle = session.prompt_style
        if self.options.instruction is not None:
            self.prompt_style = replace(self.prompt_style, instruction=self.options.instruction)
        self.questions = questions_from(self.source, self.options.path, self.options.seed, self.options.limit)
        if not self.questions:
            raise UserError("there is no contrast question: raise data.limit or give another data.path")

    @property
    def lens(self) -> Lens:
        """Loaded when first asked for: the questions are checked before."""
        return self.session.lens

    def _source(self) -> PairSource:
        if self.options.path is not None and self.options.source in ("auto", PairSource.OBJECT_COMPARISON):
            return PairSource.FILE
        if self.options.source != "auto":
            return PairSource(self.options.source)
        return self.session.model_options.pairs

    def _response(self) -> ResponseFrom:
        if self.options.response != "auto":
            return ResponseFrom(self.options.response)
        return ResponseFrom.GENERATE if self.session.cfg.model.reasons else ResponseFrom.TEMPLATE

    @property
    def batches(self) -> Batches:
        """How many questions there are; both sides of a question are asked side by side."""
        return Batches(len(self.questions), max(1, self.session.generation.batch // 2), len(self.questions))

    def drafts(self, done: Any = lambda _: False) -> Iterator[Example]:
        """Every question that is not `done`; responses are made in whole batches, so that resuming changes nothing."""
        size = self.batches.size
        for first in range(0, len(self.questions), size):
            batch = self.questions[first : first + size]
            if not self.session.owns(first // size) or all(done(first + i) for i in range(len(batch))):
                continue
            texts = self._responses(batch, first)
            for i, question in enumerate(batch):
                if not done(first + i):
                    draft = self._draft(first + i, question, texts[2 * i : 2 * i + 2])
                    yield draft

    def _prompt(self, question: str, condition: Condition) -> str:
        return render(question, self.lens.tokenizer, self.lens.markers, self.prompt_style, condition)

    def _responses(self, batch: list[ContrastQuestion], first: int) -> list[tuple[str, str, bool]]:
        """(reasoning, answer, finished) of the clean and the corrupted side of each question."""
        if self.response == ResponseFrom.TEMPLATE:
            return [self._templated(question, clean) for question in batch for clean in (True, False)]
        sides = [text for question in batch for text in (question.clean, question.corrupted)]
        prompts = [self._prompt(text, Condition.WITH_REASONING) for text in sides]
        session = self.session
        responses = session.generator(prompts, session.generation, session.seed, "pairs", first)
        return [self._split(response) for response in responses]

    def _templated(self, question: ContrastQuestion, clean: bool) -> tuple[str, str, bool]:
        """The template's reasoning and answer, with whitespace round the tags where it has none of its own."""
        separator, (reasoning, answer) = self.style.separator, self.options.template.fill(question, clean)
        lead, tail = ("" if text[:1].isspace() else separator for text in (reasoning, reasoning[::-1]))
        return f"{lead}{reasoning}{tail}", answer if answer[:1].isspace() else f"{separator}{answer}", True

    def _split(self, response: Response) -> tuple[str, str, bool]:
        """Reasoning and answer of a response with their whitespace; not finished counts as no answer, and so does a
        missing close tag."""
        markers = self.lens.markers
        try:
            ids, n_prompt = [*response.prompt_ids, *response.ids], len(response.prompt_ids)
            trace = parse_ids(ids, self.lens.tokenizer, markers, n_prompt=n_prompt)
        except TraceError:
            return "", "", False
        begun = trace.text.index(markers.open, trace.offsets[trace[Segment.THINK].start][0]) + len(markers.open)
        reasoning, _, answer = trace.text[begun : trace.offsets[trace.n_measured - 1][1]].partition(markers.close)
        return reasoning, answer, response.finished

    def _draft(self, index: int, question: ContrastQuestion, texts: list[tuple[str, str, bool]]) -> Example:
        rows = []
        for name, gold, (reasoning, answer, finished) in zip(
            ("clean", "corrupted"), (question.clean_answer, question.corrupted_answer), texts, strict=True
        ):
            given = self.response == ResponseFrom.TEMPLATE
            text = f"{reasoning}{self.lens.markers.close}{answer}"
            row = graded(
                Question(f"{question.id}/{name}", "", gold, question.domain),
                Condition.WITH_REASONING,
                text,
                self.session.grading,
                finished=finished,
                n_tokens=len(self.lens.tokenizer(reasoning + answer, add_special_tokens=False)["input_ids"]),
                writer=None if given else self.lens.name,
            )
            if given:
                row |= {"condition": f"{row['condition']}_template", "correct": None, "outcome": Outcome.UNGRADED}
            rows.append(row)
        reason, pair, detail = None, None, ""
        if not all(row["finished"] for row in rows):
            reason = "a response is not finished or has no closed think tag"
        elif any(row["correct"] is False for row in rows):
            reason = "a response gives a wrong answer"
        else:
            try:
                pair = self._pair(question, texts)
            except PairError as error:
                reason, detail = error.reason, f" ({error.detail})" if error.detail else ""
            except TraceError:
                reason = "a response has no reasoning or no answer"
        if reason is not None:
            log.info("left out: %s: %s%s", question.id, reason, detail)
        return Example(index, question.id, pair, reason, {"answers": rows})

    def _pair(self, question: ContrastQuestion, texts: list[tuple[str, str, bool]]) -> ContrastPair:
        asked = ((question.clean, question.clean_answer), (question.corrupted, question.corrupted_answer))
        sides: list[Side] = []
        for (text, x), (_, other), (reasoning, answer, _) in zip(asked, asked[::-1], texts, strict=True):
            prompt = self._prompt(text, Condition.NO_TAGS)
            words = (reasoning, answer, x, question.comparator)
            lens = self.lens
            sides.append(build_side(prompt, *words, self.style, lens.tokenizer, lens.markers, question.id, other))
        return align(question, sides[0], sides[1])


def pair_maker(session: Session) -> PairMaker:
    """The session's maker of pairs."""
    if "pairs" not in session.memo:
        session.memo["pairs"] = PairMaker(session)
    found: PairMaker = session.memo["pairs"]
    return found
