"""Do changed reasoning tokens alter the final answer, and along which way? (Paper A, abstract and section 5)"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from experiments.base.collect import traces
from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.options import AtLeastOne, Count, Lax, Layers, Options, Text, Words, distinct, with_words
from experiments.base.plan import Plan
from experiments.base.sample import sampled
from experiments.base.session import Session
from experiments.base.vocabulary import require_known
from interp.figures import key_tokens as figures
from interp.figures.drawing import Drawings, Tables
from interp.key_tokens.corruptions import Corrupted, Corruption, Wordings, corruptions
from interp.key_tokens.effects import effect_rows, summary_rows, traced, write_answers
from interp.key_tokens.findings import KeyTokensFacts, findings
from interp.model.layers import layer_set
from interp.runs.about import About
from interp.runs.store import records
from interp.stats import rng_for
from interp.text.trace import Segment, Trace

NO_ANSWER = "the model gives no answer after its own reasoning"
TOO_LONG = "its answer is longer than experiment.max_answer_tokens"
NOTHING = "nothing in its reasoning can be changed"


def _in_lower_case(words: str) -> str:
    if words != words.lower():
        raise ValueError("must be in lower case: capitals are found and kept")
    return words


class KeyTokensOptions(Options):
    """conf/experiment/key_tokens.yaml"""

    name: Text
    kinds: Annotated[list[Annotated[Corruption, Lax]], Field(min_length=1), AfterValidator(distinct)]
    paraphrase: Annotated[Text, AfterValidator(with_words)]
    inert: Words
    rewordings: dict[Annotated[Words, AfterValidator(_in_lower_case)], Text]
    each: AtLeastOne | None
    traced: Count
    layers: Layers
    max_answer_tokens: AtLeastOne
    batch: AtLeastOne


def corrupt(session: Session, options: KeyTokensOptions, example: Example) -> Rows | LeftOut:
    """The rows of one trace, changed in many ways, one at a time."""
    trace: Trace = example.subject
    lens = session.lens
    cases = _cases(session, options, trace)
    if not cases:
        return LeftOut(NOTHING)
    prefixes = [trace.token_ids[: trace[Segment.ANSWER].start], *(case.ids for case in cases)]
    clean, *written = write_answers(lens, prefixes, options.max_answer_tokens, options.batch)
    if not clean.finished:
        return LeftOut(TOO_LONG)
    if clean.answer is None:
        return LeftOut(NO_ANSWER)
    rows = effect_rows(trace, cases, clean, written, session.golds.get(trace.example))
    # The first changes that alter the answer, in the order of the kinds.
    told = 0
    for case, new in zip(cases, written, strict=True):
        if told < options.traced and case.aligned and new.finished and new.answer != clean.answer:
            found = traced(lens, trace, case, clean, new, layer_set(options.layers, lens.n_layers))
            told += bool(found)
            rows += found
    return {"effects": rows}


def _cases(session: Session, options: KeyTokensOptions, trace: Trace) -> list[Corrupted]:
    rng = rng_for(session.seed, "corruptions", trace.example)
    wordings = Wordings(options.paraphrase, options.inert, options.rewordings)
    chosen: list[Corrupted] = []
    for kind in options.kinds:
        found = list(corruptions(trace, session.lens.tokenizer, rng, [kind], wordings))
        if options.each is not None and len(found) > options.each:
            found = [found[i] for i in sorted(rng.permutation(len(found))[: options.each].tolist())]
        chosen += found
    return chosen


def summarise(session: Session, options: KeyTokensOptions) -> None:
    """What became of the answers by kind and place of the change, over all traces."""
    store = session.store
    if not store.has_closing("a-summary"):
        traces = {row["example"]: Trace.from_row(row) for row in records(store.table("traces"))}
        store.write_closing("a-summary", corrupted=summary_rows(store.table("effects"), traces, session.seed))


def check(session: Session, options: KeyTokensOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    layer_set(options.layers, session.shape.n_layers)
    texts = {
        Corruption.PARAPHRASE: ("paraphrase", options.paraphrase),
        Corruption.INERT: ("inert", options.inert),
    }
    for kind, (option, text) in texts.items():
        if kind in options.kinds:
            remedy = f"set another one, or leave {kind} out of experiment.kinds"
            require_known(session, {option: text}, remedy)


def plan(session: Session, options: KeyTokensOptions) -> Plan:
    """Makes one batch of traces, changes one of them and scales up."""
    sample = sampled(session, options, corrupt)
    rows = sample.rows.get("effects", [])
    n_cases = len({(row["intervention"], row["position"], row["forced"]) for row in rows if row.get("layer") is None})
    return sample.plan(
        passes=2 * options.traced,
        generated=(n_cases + 1) * options.max_answer_tokens / 2,
    )


def draw(table: Tables, facts: KeyTokensFacts) -> Drawings:
    """What becomes of the answer, by kind and place, and along which way."""
    effects, corrupted = table("effects"), table("corrupted")
    model = str(effects["model"].iloc[0])
    yield "key_kinds", partial(figures.kinds, corrupted, model)
    yield "key_places", partial(figures.by_place, corrupted, model)
    yield "key_way", partial(figures.way, effects, model)


EXPERIMENT = Experiment(
    options=KeyTokensOptions,
    about=About(
        title="Do changed reasoning tokens alter the answer?",
        question="Numbers, names and steps of the reasoning are changed, and the answer is written anew.",
        source="Paper A, section 5, and its abstract",
        published="Paper A patches such changes in single cases (section 5) and gives no rates.",
        figures={
            "key_kinds": "What becomes of the answer, by kind of change.",
            "key_places": "The share of answers that change, by where in the reasoning the change lies.",
            "key_way": "The way of a change: NLD of patching clean activations back, by layer and part of the text.",
        },
    ),
    check=check,
    examples=lambda session, _: traces(session),
    measure=corrupt,
    analyse=summarise,
    findings=lambda session, _: findings(session.store.table),
    facts=KeyTokensFacts,
    draw=draw,
    plan=plan,
    in_paper=InPaper(
        shared_traces=True, quick={"kinds": ["change_number", "reword_step", "insert_inert"], "each": 4, "traced": 0}
    ),
    smallest=("data.limit=2", "experiment.each=2", "experiment.traced=1"),
)
