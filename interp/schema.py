"""Names, types, units and null meaning of every column of every table; `python -m interp.schema` prints Markdown."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from interp.trace import Segment

TEXT, INT, FLOAT, BOOL = pa.string(), pa.int32(), pa.float64(), pa.bool_()
IDS = pa.list_(pa.int32())
SPANS = pa.list_(pa.struct([("segment", TEXT), ("start", INT), ("end", INT)]))


@dataclass(frozen=True)
class Column:
    """`null` says what null means; a column without it is never null."""

    name: str
    type: pa.DataType
    meaning: str
    null: str = ""


COMMON = (
    Column("experiment", TEXT, "name of the experiment"),
    Column("model", TEXT, "name of the model's configuration"),
    Column("data", TEXT, "name of the data's configuration"),
    Column("seed", pa.int64(), "seed of the run"),
)
EXAMPLE = Column("example", TEXT, "id of the example in its data set")


def _mass_columns() -> tuple[Column, ...]:
    pairs = [(Segment.ANSWER, destination) for destination in Segment]
    pairs += [(Segment.REASONING, Segment.REASONING), (Segment.REASONING, Segment.PROMPT)]
    return tuple(
        Column(
            f"{source}_{destination}",
            FLOAT,
            f"attention mass from `{source}` to `{destination}`, 0..1 (Paper A, section 4.1)",
            null=f"the trace has no `{source if source is not Segment.ANSWER else destination}` token",
        )
        for source, destination in pairs
    )


NOT_APPLICABLE = "not applicable to this measurement"

TABLES: dict[str, tuple[Column, ...]] = {
    "heads": (
        EXAMPLE,
        Column("layer", INT, "layer, from 0"),
        Column("head", INT, "head, from 0"),
        *_mass_columns(),
        Column(
            "answer_reasoning_per_token",
            FLOAT,
            "`answer_reasoning` divided by the number of reasoning tokens",
            null="the trace has no `reasoning` token",
        ),
        Column("answer_reasoning_even", FLOAT, "`answer_reasoning` of a head that attends evenly, 0..1"),
        Column(
            "distance",
            FLOAT,
            "mean backward distance of attention from `reasoning` and `answer`, in tokens (Paper B, section 4.1)",
            null="not measured in this experiment",
        ),
        Column(
            "kurtosis",
            FLOAT,
            "excess kurtosis over tokens of the attention that each receives (Bogdan et al. 2025)",
            null="not measured in this experiment",
        ),
    ),
    "tokens": (
        EXAMPLE,
        Column("position", INT, "position in the whole sequence, from 0"),
        Column("token", TEXT, "the token's text"),
        Column("segment", TEXT, "segment of the token", null="a final end-of-sequence token"),
        Column("waad", FLOAT, "windowed average attention distance, 0..W (Paper B, Def. 4.1)", null="undefined here"),
        Column("fai", FLOAT, "future attention influence, 0..1 (Paper B, Def. 4.2)", null="its window is empty"),
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
        Column("metric", TEXT, "what was measured, such as `nld`, `ld`, `kl`, `flipped`, `jaccard`"),
        Column("clean", FLOAT, "the metric in the clean run", null=NOT_APPLICABLE),
        Column("corrupted", FLOAT, "the metric in the corrupted run", null=NOT_APPLICABLE),
        Column("patched", FLOAT, "the metric in the run with the intervention", null=NOT_APPLICABLE),
        Column("value", FLOAT, "the effect", null="undefined, such as a normalised effect over a zero difference"),
        Column("control", TEXT, "kind of control", null="the measurement itself"),
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
        Column("clean_answer_id", INT, "the clean run's answer token"),
        Column("corrupted_answer_id", INT, "the corrupted run's answer token"),
    ),
    "training": (
        Column("step", INT, "optimizer steps done"),
        Column("measure", TEXT, "what was measured, such as `accuracy_sampled`"),
        Column("value", FLOAT, "its value"),
        Column("n", INT, "number of problems behind it"),
        Column("low", FLOAT, "lower end of the 95 % interval", null="n < 2"),
        Column("high", FLOAT, "upper end of the 95 % interval", null="n < 2"),
    ),
    "answers": (
        EXAMPLE,
        Column("condition", TEXT, "`with_reasoning`, `without_reasoning` or `no_tags`"),
        Column("text", TEXT, "the generated text"),
        Column("extracted", TEXT, "the answer found in it", null="none was found"),
        Column("correct", BOOL, "whether it equals the gold answer", null="there is no gold answer"),
        Column("n_tokens", INT, "number of generated tokens"),
        Column("finished", BOOL, "whether generation ended by itself"),
    ),
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
