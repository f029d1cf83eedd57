"""The rows of sentences.parquet and sentence_edges.parquet for one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from interp.ablation.effects import answer_position
from interp.model.lens import Lens
from interp.perturb.rollouts import trunk
from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column, Table
from interp.sentences.demands import demanded, lead_to_answer
from interp.sentences.judged import judged_roles
from interp.sentences.published import FIELDS, PublishedSentences
from interp.sentences.resampled import Rollouts, resample, resampled_columns
from interp.sentences.signals import signal_columns
from interp.sentences.suppression import suppressed
from interp.text.sentence_roles import sentence_role
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace

NOT_PUBLISHED = "experiment.published does not have it"
NO_ROLLOUTS = "no rollouts, or the trace gives no answer"
NONE_FINISHED = f"{NO_ROLLOUTS}, or none of them finished"
SENTENCES_TABLE = Table(
    "sentences",
    EXAMPLE,
    Column("sentence", INT, "number in the reasoning, from 0"),
    Column("start", INT, "position of its first token"),
    Column("end", INT, "position behind its last token"),
    Column("text", TEXT, "what it says"),
    Column("role", TEXT, "what it does, by rule: one of thought-anchors' eight"),
    Column(
        "role_by_judge", TEXT, "the same, by `experiment.judge`", null="nobody was asked, or gave none of the eight"
    ),
    Column("suppressed", FLOAT, "what the answer's first token loses in log-probability, nats, where nothing sees it"),
    Column("known", FLOAT, "log-probability of the answer's first token, demanded behind it, nats"),
    Column("demanded", FLOAT, "`known` minus the same before the sentence"),
    Column(
        "same",
        FLOAT,
        "of the rollouts from behind it that finished the share with the trace's answer, 0..1 (docs/sentences.md)",
        null=NONE_FINISHED,
    ),
    Column("resampled", FLOAT, "`same` minus the same before the sentence", null=NONE_FINISHED),
    Column(
        "resampled_low",
        FLOAT,
        "lower end of its 95 % interval, also where rollouts stop early",
        null=NONE_FINISHED,
    ),
    Column("resampled_high", FLOAT, "upper end of it", null=NONE_FINISHED),
    Column("drawn", INT, "number of rollouts from behind it", null=NO_ROLLOUTS),
    Column("written", INT, "tokens that these wrote", null=NO_ROLLOUTS),
    Column("unfinished", FLOAT, "share of rollouts from behind it that the limit cuts off, 0..1", null=NO_ROLLOUTS),
    Column("unfinished_before", FLOAT, "the same of those from before it", null=NO_ROLLOUTS),
    Column("different", FLOAT, "share of rollouts from before it with another sentence in its place", null=NO_ROLLOUTS),
    Column(
        "counterfactual",
        FLOAT,
        "`same` minus that of the rollouts with another sentence in its place",
        null=f"{NONE_FINISHED}, or no other sentence was written",
    ),
    Column(
        "returned",
        FLOAT,
        "share of the latter in which a later sentence says the same as it",
        null=f"{NO_ROLLOUTS}, or no other sentence was written",
    ),
    Column("answer_mass", FLOAT, "attention of the answer's tokens to it, mean over tokens and all heads"),
    Column("rfh_mass", FLOAT, "the same, over the heads that rank first on this trace by RFH score alone"),
    Column(
        "received",
        FLOAT,
        "attention to a token of it from one of a sentence at least four later, mean over those and all heads",
        null="no such sentence",
    ),
    Column("receiver_heads", FLOAT, "the same, over the heads of highest kurtosis alone", null="no such sentence"),
    Column("fai", FLOAT, "FAI of a token of it, mean over global heads", null="no token of it has one"),
    Column(
        "relevance",
        FLOAT,
        "what the logit of the answer's first token over the likeliest other owes to it: input times gradient",
        null="the text is too long for a backward pass, or a layer passes no gradients on",
    ),
    Column("entropy", FLOAT, "of the prediction of its first token, nats"),
    Column("tokens", INT, "its length"),
    Column("published_resampled", FLOAT, "its published resampling importance (KL)", null=NOT_PUBLISHED),
    Column("published_counterfactual", FLOAT, "its published counterfactual importance (KL)", null=NOT_PUBLISHED),
    Column("published_role", TEXT, "what it does, as published (`function_tags`)", null=NOT_PUBLISHED),
)
SENTENCE_EDGES_TABLE = Table(
    "sentence_edges",
    EXAMPLE,
    Column("sentence", INT, "that nothing sees"),
    Column("later", INT, "a later one"),
    Column("value", FLOAT, "what a token of it loses in log-probability, mean, nats"),
)
CAUSAL = ("suppressed", "demanded", "resampled", "counterfactual", *FIELDS)
"""Ways in which a sentence may matter to the answer, measured here or published."""


def sentence_rows(
    lens: Lens,
    trace: Trace,
    settings: Rollouts,
    seed: int,
    batch: int,
    published: PublishedSentences | None = None,
    ask: Callable[[str], str] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """Both tables' rows; None where there is no reasoning or no answer. Sentences as they were `published`, else by
    our rule. `ask` puts a request to a language model, which then says what each does."""
    lead, position = lead_to_answer(trace), answer_position(trace)
    sentences = reasoning_sentences(trace) if published is None else published.spans
    if lead is None or position is None or not sentences:
        return None
    texts = [trace.text[trace.offsets[start][0] : trace.offsets[end - 1][1]].strip() for start, end in sentences]
    judged: Sequence[str | None] = [None] * len(texts)
    if ask is not None:  # first: who does not answer costs no rollouts
        judged = judged_roles(ask, trace.segment_text(Segment.PROMPT), texts)
    ids = trace.measured_ids
    shared = trunk(lens, ids)
    cut = suppressed(lens, ids, sentences, batch, shared.prefix)
    borders = [sentences[0][0], *(end for _, end in sentences)]
    known = demanded(lens, shared, borders, *lead, batch)
    reasoning = trace[Segment.REASONING].positions
    drawn = resample(lens, shared, borders, settings, lens.markers.close, seed, trace.example, batch, reasoning)
    signals = signal_columns(lens, trace, sentences, position)
    rows = []
    for k, ((start, end), text) in enumerate(zip(sentences, texts, strict=True)):
        rows.append(
            {
                "example": trace.example,
                "sentence": k,
                "start": start,
                "end": end,
                "text": text,
                "role": sentence_role(text, 1.0 if k == len(sentences) - 1 else k / len(sentences)).value,
                "role_by_judge": judged[k],
                "suppressed": float(-cut.change[k, position]),
                "known": float(known[k + 1]),
                "demanded": float(known[k + 1] - known[k]),
                **resampled_columns(drawn[k], drawn[k + 1], text, stopped=settings.within is not None),
                **signals[k],
                **({} if published is None else published.columns[k]),
            }
        )
    edges = [
        {"example": trace.example, "sentence": k, "later": m, "value": -cut.of_span(k, *sentences[m])}
        for k in range(len(sentences))
        for m in range(k + 1, len(sentences))
    ]
    return rows, edges
