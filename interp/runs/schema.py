"""Names, types, units and meaning of null of every column; `python -m interp.runs.schema` prints Markdown."""

from __future__ import annotations

import pyarrow as pa

from interp.runs import schema_credit, schema_rhythm
from interp.runs.columns import (
    BOOL,
    COMMON,
    EXAMPLE,
    FLOAT,
    IDS,
    INT,
    NO_DISTANCE,
    NO_STOP,
    NO_TRAJECTORY,
    NOT_APPLICABLE,
    NOT_MEASURED,
    SPANS,
    TEXT,
    TOO_LITTLE_MASS,
    Column,
)
from interp.text.trace import Segment


def _mass_columns() -> tuple[Column, ...]:
    columns = []
    for i, source in enumerate(Segment):
        for destination in list(Segment)[: i + 1]:
            null = f"the trace has no `{source}` or no `{destination}` token"
            name, paper = f"{source}_{destination}", "(Paper A, section 4.1)"
            mass = f"attention mass from `{source}` to `{destination}`, 0..1 {paper}"
            columns.append(Column(name, FLOAT, mass, null))
            columns.append(
                Column(f"{name}_per_token", FLOAT, f"`{name}` divided by the number of `{destination}` tokens", null)
            )
    return tuple(columns)


TABLES: dict[str, tuple[Column, ...]] = {
    "heads": (
        EXAMPLE,
        Column("layer", INT, "layer, from 0"),
        Column("head", INT, "head, from 0"),
        *_mass_columns(),
        Column(
            "reasoning_first_tokens",
            FLOAT,
            "attention mass from `reasoning` to the first four tokens, 0..1",
            NOT_MEASURED,
        ),
        Column(
            "answer_first_tokens", FLOAT, "attention mass from `answer` to the first four tokens, 0..1", NOT_MEASURED
        ),
        Column("answer_reasoning_even", FLOAT, "`answer_reasoning` of a head that attends evenly, 0..1", NOT_MEASURED),
        Column(
            "distance",
            FLOAT,
            "mean backward distance of attention from `reasoning` and `answer`, in tokens (Paper B, section 4.1)",
            null=NOT_MEASURED,
        ),
        Column(
            "kurtosis",
            FLOAT,
            "excess kurtosis over the response's tokens of the attention that each receives from later ones at a "
            "distance of 10 or more (receiver heads, Bogdan et al. 2025)",
            null="fewer than four tokens with ten such queries, or all receive the same",
        ),
        Column("distance_no_sinks", FLOAT, "`distance` without attention to the first four tokens", null=NO_DISTANCE),
        Column("kurtosis_no_sinks", FLOAT, "`kurtosis` without attention to the first four tokens", null=NOT_MEASURED),
        Column(
            "trajectory",
            FLOAT,
            "Spearman correlation of answer position and attended reasoning position, -1..1 (Paper A, Fig. 4)",
            null=NO_TRAJECTORY,
        ),
        Column(
            "trajectory_slope",
            FLOAT,
            "slope of the attended position, both axes scaled to 0..1; 1 = the whole diagonal",
            null=NO_TRAJECTORY,
        ),
        Column(
            "trajectory_p",
            FLOAT,
            "one-sided p-value of `trajectory` in this trace, circular-shift null; optimistic",
            null=NO_TRAJECTORY,
        ),
        Column(
            "trajectory_p_permutation",
            FLOAT,
            "the same, permutation null; more optimistic",
            null=f"{NO_TRAJECTORY}, or nothing was permuted",
        ),
        Column("stops", INT, "number of forward runs of the most attended reasoning position", null=TOO_LITTLE_MASS),
        Column("stops_at_reflection", INT, "how many of them end within 3 tokens of a reflection word", null=NO_STOP),
        Column("stops_expected", FLOAT, "mean of that over all circular shifts of the reflection words", null=NO_STOP),
        Column("stops_p", FLOAT, "share of the shifts with at least as many", null=NO_STOP),
    ),
    "maps": (
        EXAMPLE,
        Column("layer", INT, "layer, from 0", null="mean over all heads"),
        Column("head", INT, "head, from 0", null="mean over all heads"),
        Column("head_set", TEXT, "the mean over this set of `head_sets`", null="one head, or all heads"),
        Column("position", INT, "position of the query"),
        Column("weights", pa.list_(pa.float32()), "its attention to positions 0, 1, ... up to its own"),
    ),
    "probes": (
        Column("example", TEXT, "name of the probe prompt"),
        Column("kind", TEXT, "`induction` or `retrieval`"),
        Column("layer", INT, "layer, from 0"),
        Column("head", INT, "head, from 0"),
        Column("value", FLOAT, "the head's score on this prompt, 0..1: see interp/heads/probes.py"),
        Column("recalled", FLOAT, "share of the needle's tokens that the model wrote, 0..1", null="`induction`"),
    ),
    "ranking": (
        Column("kind", TEXT, "what heads are ranked by: a score of RFHs, or another kind of head"),
        Column("layer", INT, "layer, from 0"),
        Column("head", INT, "head, from 0"),
        Column("value", FLOAT, "mean over examples", null="no example has a value"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over examples", null="fewer than two examples"),
        Column("high", FLOAT, "upper end of it", null="fewer than two examples"),
        Column("n", INT, "number of examples with a value"),
        Column("rank", INT, "place in the ranking, from 1"),
        Column("top", BOOL, "whether it is one of the top k and above the kind's floor"),
        Column("inclusion", FLOAT, "share of bootstrap resamples with it in the top k", null="fewer than two examples"),
    ),
    "layers": (
        Column("kind", TEXT, "as in `ranking`"),
        Column("measure", TEXT, "`mean` over the layer's heads, or `top_share`: share of the top k that lie in it"),
        Column("layer", INT, "layer, from 0"),
        Column("value", FLOAT, "mean over examples", null="no head has a value"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over examples", null="fewer than two examples"),
        Column("high", FLOAT, "upper end of it", null="fewer than two examples"),
        Column("n", INT, "number of examples"),
    ),
    "overlaps": (
        Column("first", TEXT, "a list of heads: a kind of this run, or run and kind"),
        Column("second", TEXT, "another one"),
        Column("n_first", INT, "heads in the first"),
        Column("n_second", INT, "heads in the second"),
        Column("n_heads", INT, "heads in the model"),
        Column("shared", INT, "heads in both"),
        Column("expected", FLOAT, "the same by chance"),
        Column("p", FLOAT, "hypergeometric probability of so many or more by chance", null="a list is empty"),
        Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the table", null="a list is empty"),
    ),
    "tokens": (
        EXAMPLE,
        Column("position", INT, "position in the whole sequence, from 0"),
        Column("token", TEXT, "the token's text"),
        Column("segment", TEXT, "segment of the token", null="a final end-of-sequence token"),
        Column("waad", FLOAT, "windowed average attention distance, 0..W (Paper B, Def. 4.1)", null="undefined here"),
        Column("fai", FLOAT, "future attention influence, 0..1 (Paper B, Def. 4.2)", null="its window is empty"),
        Column("fai_to_end", FLOAT, "the same, from here to the end of the response", null="the last token"),
        Column("receiver_fai", FLOAT, "`fai_to_end` by receiver heads", null="the last token"),
        Column("waad_peak", BOOL, "whether `waad` has a peak here"),
        Column("fai_peak", BOOL, "whether `fai_to_end` has a peak here"),
        Column("receiver_peak", BOOL, "whether `receiver_fai` has a peak here"),
        Column("type", TEXT, "`word`, `number`, `punctuation`, `line_break` or `other`"),
        Column("sentence", INT, "number of the token's sentence in the response, from 0"),
        Column("sentence_start", BOOL, "whether it begins a sentence"),
        Column("clause_start", BOOL, "whether it begins a sentence or a part of one"),
        Column("step_start", BOOL, "whether it begins a line"),
        Column("entropy", FLOAT, "entropy of the prediction of this token, in nats", null="the first token"),
    ),
    "effects": (
        EXAMPLE,
        Column("intervention", TEXT, "verb_site, such as `patch_resid_pre` or `ablate_head_mean`"),
        Column("layer", INT, "layer, from 0", null=NOT_APPLICABLE),
        Column("head", INT, "head, from 0", null=NOT_APPLICABLE),
        Column("position", INT, "first position in the whole sequence, from 0", null=NOT_APPLICABLE),
        Column("position_end", INT, "position after the last one", null=NOT_APPLICABLE),
        Column("segment", TEXT, "segment of the position", null=NOT_APPLICABLE),
        Column("token", TEXT, "text of the token at the position", null=NOT_APPLICABLE),
        Column("role", TEXT, "what the position is for in a contrast pair: see interp/contrast", null="none of those"),
        Column("heads_kind", TEXT, "which list the heads were taken from", null="not a list of heads"),
        Column("n_heads", INT, "how many heads, from the top of that list", null="not a list of heads"),
        Column("rows", TEXT, "`answer` or `all`: at which queries heads were cut", null=NOT_APPLICABLE),
        Column("layer_end", INT, "layer after the last one", null="one layer, or all"),
        Column("draw", INT, "number of the random draw or of the forced candidate, from 0", null="there is one"),
        Column("forced", TEXT, "text of the forced token", null=NOT_APPLICABLE),
        Column("metric", TEXT, "what was measured, such as `nld`, `ld`, `kl`, `flipped`, `jaccard`"),
        Column("clean", FLOAT, "the metric in the clean run", null=NOT_APPLICABLE),
        Column("corrupted", FLOAT, "the metric in the corrupted run", null=NOT_APPLICABLE),
        Column("patched", FLOAT, "the metric in the run with the intervention", null=NOT_APPLICABLE),
        Column("value", FLOAT, "the effect", null="undefined, such as a normalised effect over a zero difference"),
        Column("control", TEXT, "kind of control", null="the measurement itself"),
    ),
    "corrupted": (
        Column("kind", TEXT, "what was changed: see Corruption in interp/key_tokens/corruptions.py"),
        Column("group", TEXT, "`all`, `third` of the reasoning, or `step_from_end`"),
        Column("value_of_group", TEXT, "which third or step, counted from 1", null="all changes"),
        Column("metric", TEXT, "as in `effects`"),
        Column("value", FLOAT, "mean over traces of the mean over their changes"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column(
            "p", FLOAT, "two-sided sign-flip p-value of the difference from paraphrases, paired", null="n < 2, or none"
        ),
        Column("n", INT, "number of traces"),
        Column("n_cases", INT, "number of changes"),
    ),
    "traces": (
        EXAMPLE,
        Column("text", TEXT, "the whole text"),
        Column("token_ids", IDS, "the whole sequence"),
        Column("offsets", pa.list_(IDS), "for each token the characters of `text` that it stands for, end exclusive"),
        Column("segments", SPANS, "the six segments with their positions, end exclusive"),
        Column("source", TEXT, "where the trace comes from: `generated` or a file"),
    ),
    "pairs": (
        EXAMPLE,
        Column("clean_ids", IDS, "tokens of the clean run"),
        Column("corrupted_ids", IDS, "tokens of the corrupted run, of the same length"),
        Column("clean_mask", IDS, "1 = real token, 0 = pad"),
        Column("corrupted_mask", IDS, "1 = real token, 0 = pad"),
        Column("domain", TEXT, "what the question is about"),
        Column("clean_tokens", pa.list_(TEXT), "text of each clean token; null = pad"),
        Column("corrupted_tokens", pa.list_(TEXT), "text of each corrupted token; null = pad"),
        Column("roles", pa.list_(TEXT), "what each position is for: see interp/contrast; null = none of those"),
        Column("clean_answer_id", INT, "the clean run's answer token"),
        Column("corrupted_answer_id", INT, "the corrupted run's answer token"),
    ),
    "answers": (
        EXAMPLE,
        Column(
            "condition", TEXT, "`with_reasoning`, `without_reasoning`, `no_tags`; behind it `_template`: a given text"
        ),
        Column("sample", INT, "which of several answers to the question under this condition, from 0"),
        Column("writer", TEXT, "the model that wrote the text", null="the file does not say"),
        Column("text", TEXT, "the generated text"),
        Column("extracted", TEXT, "the answer found in it", null="none was found"),
        Column("gold", TEXT, "the right answer, or one of them", null="there is none"),
        Column("outcome", TEXT, "what became of it: see Outcome in interp/grading/outcomes.py"),
        Column(
            "correct", BOOL, "whether it equals the gold answer", null="there is no gold answer, or the text was given"
        ),
        Column("score", FLOAT, "a judge's score, 1..10", null="not judged"),
        Column("kind", TEXT, "the question's subject or kind", null="the data does not say"),
        Column("level", TEXT, "the question's difficulty", null="the data does not say"),
        Column("reasoning_words", INT, "number of words that the model wrote as reasoning"),
        Column("answer_words", INT, "number of words after it"),
        Column("n_tokens", INT, "number of generated tokens", null="the text was given"),
        Column("finished", BOOL, "whether generation ended by itself"),
    ),
    "filters": (
        Column("writer", TEXT, "the model that wrote the texts"),
        Column("condition", TEXT, "as in `answers`"),
        Column("step", TEXT, "the last filter applied (Paper A, Table 2)"),
        Column("questions", INT, "questions with a response left"),
        Column("responses", INT, "responses left"),
    ),
    "accuracy": (
        Column("writer", TEXT, "the model that wrote the texts"),
        Column("condition", TEXT, "as in `answers`"),
        Column("kept", TEXT, "`all` responses, or `paired`: those that passed the filters under all conditions"),
        Column("measure", TEXT, "`accuracy`, `pass@k` or `score`"),
        Column("group", TEXT, "`all`, `kind` or `level`"),
        Column("value_of_group", TEXT, "which kind or level", null="all questions"),
        Column("value", FLOAT, "mean over questions", null="no question"),
        Column("low", FLOAT, "lower end of its 95 % interval", null="n < 2 or not determined"),
        Column("high", FLOAT, "upper end of its 95 % interval", null="n < 2 or not determined"),
        Column("n", INT, "number of questions"),
    ),
    "paired": (
        Column("writer", TEXT, "the model that wrote the texts"),
        Column("first", TEXT, "a condition"),
        Column("second", TEXT, "the condition that it is compared with"),
        Column("kept", TEXT, "as in `accuracy`"),
        Column("measure", TEXT, "`accuracy` or `score`"),
        Column("group", TEXT, "`all`, `kind`, `level`, or `length`: quarter of the questions by words of reasoning"),
        Column("value_of_group", TEXT, "which kind, level or quarter", null="all questions"),
        Column("value", FLOAT, "mean over questions of first minus second", null="no question"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over questions", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("n", INT, "number of questions answered under both conditions"),
        Column("only_first", INT, "questions right in the first only", null="several samples, or scores"),
        Column("only_second", INT, "questions right in the second only", null="several samples, or scores"),
        Column("t", FLOAT, "paired t statistic (Paper A, section 3)", null="n < 2, or all differences are equal"),
        Column("p_t", FLOAT, "its two-sided p-value", null="n < 2, or all differences are equal"),
        Column("p_mcnemar", FLOAT, "exact McNemar test, two-sided", null="several samples, or scores"),
        Column("p_permutation", FLOAT, "sign-flip permutation test of the mean, two-sided", null="n < 2"),
        Column("null_low", FLOAT, "lower end of the middle 95 % of `value` under random signs", null="n < 2"),
        Column("null_high", FLOAT, "upper end of it", null="n < 2"),
        Column("p_adjusted", FLOAT, "p_permutation after Benjamini-Hochberg over the groups", null="n < 2, or `all`"),
    ),
    **schema_rhythm.TABLES,
    **schema_credit.TABLES,
}


def arrow_schema(name: str) -> pa.Schema:
    """The Arrow schema of a table: its own columns, then the common ones."""
    return pa.schema([pa.field(c.name, c.type) for c in (*TABLES[name], *COMMON)])


def markdown() -> str:
    """docs/tables.md."""
    lines = ["# Tables", "", "Every table also has " + ", ".join(f"`{c.name}`" for c in COMMON) + "."]
    for name, columns in TABLES.items():
        lines += ["", f"## {name}.parquet", "", "| column | type | meaning | null means |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.meaning} | {c.null or 'never null'} |" for c in columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
