"""Which sentences of the reasoning carry the answer, and which cheap signal foretells it?"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from experiments.base.collect import answer_of, traces
from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.judging import AskedSettings, judge_of
from experiments.base.options import AtLeastOne, By, Count, Options, Text
from experiments.base.plan import Plan
from experiments.base.sample import sampled
from experiments.base.session import Session
from interp.errors import UserError
from interp.figures import sentences as figures
from interp.figures.drawing import Drawings, Tables
from interp.grading.judge import Judge, JudgeOptions
from interp.model.generate import Sampling
from interp.runs.about import About
from interp.sentences.findings import SentencesFacts, findings, signal_rows
from interp.sentences.measure import sentence_rows
from interp.sentences.prediction import prediction_rows
from interp.sentences.published import labelled_files, published_sentences
from interp.sentences.resampled import ROUND, Rollouts
from interp.text.trace import Trace

NOT_PUBLISHED = "experiment.published has no sentences that stand in the reasoning one behind the other"
NO_ANSWER = "there is no reasoning, or the response gives no answer"


class SentencesOptions(Options):
    """conf/experiment/sentences.yaml"""

    name: Text
    draws: Count
    within: Annotated[float, Field(gt=0, lt=0.5)] | None
    temperature: Annotated[float, Field(gt=0, le=1000)]
    max_new_tokens: AtLeastOne | None
    batch: AtLeastOne
    published: Text | None
    judge: Annotated[JudgeOptions, By(AskedSettings)]


def measure(session: Session, options: SentencesOptions, example: Example) -> Rows | LeftOut:
    """The rows of one trace."""
    trace: Trace = example.subject
    longest = options.max_new_tokens or session.generation.max_new_tokens
    settings = Rollouts(
        options.draws,
        Sampling(options.temperature, longest, thought=session.generation.thought),
        partial(answer_of, session, trace),
        options.within,
        session.engine,
    )
    published = None
    if options.published is not None:
        if "published" not in session.memo:
            session.memo["published"] = labelled_files(options.published)
        published = published_sentences(trace, session.memo["published"])
        if published is None:
            return LeftOut(NOT_PUBLISHED)
    if "judge" not in session.memo:
        session.memo["judge"] = None if session.run_options.dry_run else judge_of(options.judge)
    judge: Judge | None = session.memo["judge"]
    ask = None if judge is None else judge.ask
    found = sentence_rows(session.lens, trace, settings, session.seed, options.batch, published, ask)
    return LeftOut(NO_ANSWER) if found is None else {"sentences": found[0], "sentence_edges": found[1]}


def check(session: Session, options: SentencesOptions) -> None:
    """What can be wrong is said before the model is there."""
    judge_of(options.judge)
    if options.within is not None and options.draws <= ROUND:
        raise UserError(
            f"experiment.within stops after rounds of {ROUND} rollouts, so experiment.draws, the most of them, must be "
            f"more than {options.draws}, such as 100"
        )
    if options.published is not None:
        labelled_files(options.published)


def summarise(session: Session, options: SentencesOptions) -> None:
    """The measures' rank correlations over all traces."""
    if not session.store.has_closing("a-signals"):
        sentences = session.store.table("sentences")
        found = {
            "sentence_signals": signal_rows(sentences, session.seed),
            "sentence_prediction": prediction_rows(sentences, session.seed),
        }
        session.store.write_closing("a-signals", **found)


def plan(session: Session, options: SentencesOptions) -> Plan:
    """Makes one batch of traces, measures one of them and scales up."""
    sample = sampled(session, options, measure)
    n = len(sample.rows.get("sentences", []))
    longest = options.max_new_tokens or session.generation.max_new_tokens
    return sample.plan(passes=4 + n, generated=(n + 1) * options.draws * min(longest, sample.middle) / 2)


def draw(table: Tables, facts: SentencesFacts) -> Drawings:
    """The sentences of one trace, which needs which, and what foretells their effect."""
    sentences, edges = table("sentences"), table("sentence_edges")
    model, first = str(sentences["model"].iloc[0]), sentences["example"].iloc[0]
    one = sentences[sentences["example"] == first]
    yield "sentences_text", partial(figures.along_the_text, one, model)
    yield "sentences_matrix", partial(figures.matrix, one, edges[edges["example"] == first], model)
    yield "sentences_signals", partial(figures.signals, table("sentence_signals"), model)


EXPERIMENT = Experiment(
    options=SentencesOptions,
    about=About(
        title="Which sentences carry the answer?",
        question="Each sentence of the reasoning is hidden from what follows, or what follows is written anew, or the "
        "answer is demanded behind it.",
        source="thought-anchors (Bogdan et al. 2025); both papers leave it open",
        figures={
            "sentences_text": "One trace: what each sentence does to the answer, three ways.",
            "sentences_matrix": "The same trace: what hiding a sentence (row) takes from each later one (column).",
            "sentences_signals": "How far what is cheap to see goes with what a sentence does, in rank correlations.",
        },
    ),
    examples=lambda session, _: traces(session),
    check=check,
    measure=measure,
    analyse=summarise,
    findings=lambda session, _: findings(
        session.store.table("sentences"),
        session.store.table("sentence_signals"),
        session.store.table("sentence_prediction"),
    ),
    facts=SentencesFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(shared_traces=True),
    smallest=("data.limit=2", "experiment.draws=1"),
)
