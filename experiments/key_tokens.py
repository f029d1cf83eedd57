"""Do changed reasoning tokens alter the final answer, and along which way? (Paper A, abstract and section 5)"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.base.collect import Needs, collect, examples
from experiments.base.options import AtLeastOne, Count, Lax, Layers, Options, Text, distinct, typed
from experiments.base.plan import Plan, measured
from experiments.base.session import Session
from interp.errors import UserError
from interp.key_tokens.corruptions import Corrupted, Corruption, corruptions
from interp.key_tokens.effects import effect_rows, summary_rows, traced, write_answers
from interp.key_tokens.findings import findings
from interp.model.layers import layer_set
from interp.runs.headlines import Findings, reasons, summary
from interp.runs.store import records
from interp.stats import rng_for
from interp.text.trace import Segment, Trace

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""About what the self-check, statistics and figures take."""
NO_ANSWER = "the model gives no answer after its own reasoning"
TOO_LONG = "its answer is longer than experiment.max_answer_tokens"
NOTHING = "nothing in its reasoning can be changed"


def _with_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError("needs {} where the sentence stands")
    try:
        template.format("")
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"must hold no braces but {{}}: {error}") from error
    return template


class KeyTokensOptions(Options):
    """conf/experiment/key_tokens.yaml"""

    name: Text
    kinds: Annotated[list[Annotated[Corruption, Lax]], Field(min_length=1), AfterValidator(distinct)]
    paraphrase: Annotated[Text, AfterValidator(_with_place)]
    each: AtLeastOne | None
    traced: Count
    layers: Layers
    max_answer_tokens: AtLeastOne
    batch: AtLeastOne


OPTIONS = KeyTokensOptions


def run(session: Session) -> Findings:
    """Changes each trace in many ways, one at a time, and watches the answer."""
    options = typed(KeyTokensOptions, session.cfg.experiment, "experiment")
    check(session, options)
    store = session.store
    session.describe_environment()
    golds = session.golds
    for item in session.bar(collect(session), "traces", total=session.n_examples):
        effects: list[dict[str, Any]] = []
        reason = item.reason
        if item.trace is not None:
            effects, reason = corrupt(session, options, item.trace, golds.get(item.example))
        if reason is not None:
            store.skip(item.index, item.example, reason, **item.tables)
        else:
            store.write(item.index, item.example, effects=effects, **item.tables)
    effects_table = store.table("effects")
    if effects_table.empty:
        raise UserError(f"no trace was measured: {reasons(store.skipped())}")
    if not store.has_closing("a-summary"):
        traces = {row["example"]: Trace.from_row(row) for row in records(store.table("traces"))}
        store.write_closing("a-summary", corrupted=summary_rows(effects_table, traces, session.seed))
    headlines, more, lines = findings(store.table, session.seed)
    more |= {"skipped": store.skipped(), "n_layers": session.lens.n_layers}
    facts = summary(headlines, lines=lines, **more)
    session.finish(facts)
    return Findings(headlines, lines)


def corrupt(
    session: Session, options: KeyTokensOptions, trace: Trace, gold: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of one trace, or why there are none."""
    lens = session.lens
    cases = _cases(session, options, trace)
    if not cases:
        return [], NOTHING
    prefixes = [trace.token_ids[: trace[Segment.ANSWER].start], *(case.ids for case in cases)]
    clean, *written = write_answers(lens, prefixes, options.max_answer_tokens, options.batch)
    if not clean.finished:
        return [], TOO_LONG
    if clean.answer is None:
        return [], NO_ANSWER
    rows = effect_rows(trace, cases, clean, written, gold)
    # The first changes that alter the answer, in the order of the kinds.
    told = 0
    for case, new in zip(cases, written, strict=True):
        if told < options.traced and case.aligned and new.finished and new.answer != clean.answer:
            found = traced(lens, trace, case, clean, new, layer_set(options.layers, lens.n_layers))
            told += bool(found)
            rows += found
    return rows, None


def _cases(session: Session, options: KeyTokensOptions, trace: Trace) -> list[Corrupted]:
    rng = rng_for(session.seed, "corruptions", trace.example)
    chosen: list[Corrupted] = []
    for kind in options.kinds:
        found = list(corruptions(trace, session.lens.tokenizer, rng, [kind], options.paraphrase))
        if options.each is not None and len(found) > options.each:
            found = [found[i] for i in sorted(rng.permutation(len(found))[: options.each].tolist())]
        chosen += found
    return chosen


def check(session: Session, options: KeyTokensOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    layer_set(options.layers, session.shape.n_layers)


def plan(session: Session) -> Plan:
    """Makes one batch of traces, changes one of them and scales up."""
    options = typed(KeyTokensOptions, session.cfg.experiment, "experiment")
    check(session, options)
    with measured() as making:
        items = list(islice(examples(session, Needs.REASONING), session.generation.batch))
    traces = sorted((item.trace for item in items if item.trace is not None), key=lambda t: t.n_measured)
    if not traces:
        raise UserError("no trace would be measured: raise data.max_tokens or generation.max_new_tokens")
    middle = traces[len(traces) // 2]
    corrupt(session, options, middle, None)  # pays for what later ones find ready
    with measured() as changing:
        rows, _ = corrupt(session, options, middle, None)
    n_cases = len({(row["intervention"], row["position"], row["forced"]) for row in rows if row.get("layer") is None})
    share = session.n_examples / len(items)
    n = len(traces) * share
    return Plan(
        round(n),
        round(n * 2 * options.traced),
        round(n * (n_cases + 1) * options.max_answer_tokens / 2),
        max(making.peak_bytes, changing.peak_bytes),
        making.seconds * share + changing.seconds * n + CLOSING_SECONDS,
        f"{len(items)} examples, one of them changed",
    )
