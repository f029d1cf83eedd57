"""Probe prompts for known kinds of heads: induction heads and retrieval heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.experiment import Rows
from experiments.base.options import AtLeastOne, Lax, Options, Share, distinct
from experiments.base.plan import measured
from experiments.base.session import Session
from experiments.base.steps import Step
from interp.data.input_check import positions_of
from interp.errors import UserError
from interp.heads.haystack import Haystack, haystacks
from interp.heads.probes import Decoding, induction_scores, probe_rows, retrieval_scores
from interp.heads.ranking import HeadKind
from interp.model.lens import load_config, load_tokenizer


class HaystackOptions(Options):
    """The haystacks for retrieval heads; no lengths = retrieval heads are not measured."""

    lengths: Annotated[list[AtLeastOne], AfterValidator(distinct)]
    depths: Annotated[list[Share], Field(min_length=1), AfterValidator(distinct)]
    decoding: Annotated[Decoding, Lax]
    max_new_tokens: AtLeastOne


def needles_for(session: Session, haystack: HaystackOptions) -> list[Haystack]:
    """The haystacks. Raises UserError for options that do not suit the model."""
    model, tokenizer = session.model_options, load_tokenizer(session.model_spec)
    needles = haystacks(tokenizer, model.markers, session.prompt_style, haystack.lengths, haystack.depths, session.seed)
    longest = max((len(needle.ids) for needle in needles), default=0) + haystack.max_new_tokens
    positions = positions_of(load_config(session.model_spec))
    if needles and positions is not None and longest > positions:
        raise UserError(f"a haystack of {longest} tokens does not fit {model.name}: lower experiment.haystack.lengths")
    return needles


def probes(
    session: Session, induction_prompts: int, settings: HaystackOptions, needles: Sequence[Haystack]
) -> list[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """Every probe prompt with what scores it."""
    lens = session.lens

    def induction(i: int) -> Callable[[], list[dict[str, Any]]]:
        name = f"induction-{i}"
        return lambda: probe_rows(name, HeadKind.INDUCTION, induction_scores(lens, session.seed, i), None)

    def retrieval(needle: Haystack) -> Callable[[], list[dict[str, Any]]]:
        def score() -> list[dict[str, Any]]:
            copied = retrieval_scores(lens, needle, settings.decoding, settings.max_new_tokens)
            return probe_rows(needle.name, HeadKind.RETRIEVAL, copied.scores, copied.recalled)

        return score

    return [(f"induction-{i}", induction(i)) for i in range(induction_prompts)] + [
        (needle.name, retrieval(needle)) for needle in needles
    ]


def probe_steps(session: Session, induction_prompts: int, settings: HaystackOptions) -> list[Step]:
    """The scores of every probe prompt."""

    def step(score: Callable[[], list[dict[str, Any]]]) -> Callable[[object], Rows]:
        return lambda _: {"probes": score()}

    found = probes(session, induction_prompts, settings, needles_for(session, settings))
    return [(f"a-{prompt}", step(score)) for prompt, score in found]


def cost_of_probes(session: Session, induction_prompts: int, settings: HaystackOptions) -> tuple[int, float]:
    """How many probe prompts there are, and about how many seconds they take: one of each kind is measured."""
    needles = needles_for(session, settings)
    found = probes(session, induction_prompts, settings, needles)
    seconds = 0.0
    for n, at in ((induction_prompts, 0), (len(needles), induction_prompts)):
        if n:
            with measured() as meter:
                found[at][1]()
            seconds += n * meter.seconds
    return len(found), seconds
