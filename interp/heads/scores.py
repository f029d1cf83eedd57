"""Scores and rankings of attention heads."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from interp.errors import UserError
from interp.runs.columns import (
    EXAMPLE,
    FLOAT,
    INT,
    NO_DISTANCE,
    NO_STOP,
    NO_TRAJECTORY,
    NOT_MEASURED,
    TEXT,
    TOO_LITTLE_MASS,
    Column,
    Table,
)
from interp.text.trace import Segment


def _columns_of_masses() -> tuple[Column, ...]:
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


HEADS_TABLE = Table(
    "heads",
    EXAMPLE,
    Column("layer", INT, "layer, from 0"),
    Column("head", INT, "head, from 0"),
    *_columns_of_masses(),
    Column(
        "reasoning_first_tokens",
        FLOAT,
        "attention mass from `reasoning` to the first four tokens, 0..1",
        NOT_MEASURED,
    ),
    Column("answer_first_tokens", FLOAT, "attention mass from `answer` to the first four tokens, 0..1", NOT_MEASURED),
    Column("answer_reasoning_even", FLOAT, "`answer_reasoning` of a head that attends evenly, 0..1", NOT_MEASURED),
    Column(
        "answer_focus",
        FLOAT,
        "1 minus the entropy of `answer` tokens' attention within the reasoning as a share of an even head's, 0..1",
        NOT_MEASURED,
    ),
    Column(
        "distance",
        FLOAT,
        "mean backward distance of attention from `reasoning` and `answer`, in tokens (Paper B, section 4.1); in "
        "`rhythm` from the close tag between them too",
        null=NOT_MEASURED,
    ),
    Column(
        "kurtosis",
        FLOAT,
        "excess kurtosis over the response's tokens of the attention that each receives from later ones at a "
        "distance of 10 or more (receiver heads, Bogdan et al. 2025); the close tag is one of the response's tokens",
        null="fewer than four tokens with ten such queries, or all receive the same",
    ),
    Column(
        "kurtosis_sentences",
        FLOAT,
        "excess kurtosis over the reasoning's sentences of the mean attention that each receives from those at least "
        "four later (thought-anchors, Bogdan et al. 2025)",
        null="fewer than eight sentences, or all receive the same",
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
        "trajectory_weighted",
        FLOAT,
        "the same, each answer token counting by the attention that it gives the reasoning, -1..1",
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
    Column(
        "trajectory_content",
        FLOAT,
        "`trajectory` on the reasoning with its sentences in another order, by where each token stood before",
        null=f"{NO_TRAJECTORY}, fewer than two sentences, or not measured",
    ),
    Column(
        "trajectory_place",
        FLOAT,
        "the same by where each token stands now",
        null=f"{NO_TRAJECTORY}, fewer than two sentences, or not measured",
    ),
    Column("stops", INT, "number of forward runs of the most attended reasoning position", null=TOO_LITTLE_MASS),
    Column("stops_at_reflection", INT, "how many of them end within 3 tokens of a reflection word", null=NO_STOP),
    Column("stops_expected", FLOAT, "mean of that over all circular shifts of the reflection words", null=NO_STOP),
    Column("stops_p", FLOAT, "share of the shifts with at least as many", null=NO_STOP),
    Column(
        "stops_shifted",
        pa.list_(pa.int32()),
        "the same after each of 64 shifts, evenly spaced from half a step on",
        null=NO_STOP,
    ),
)
MAPS_TABLE = Table(
    "maps",
    EXAMPLE,
    Column("layer", INT, "layer, from 0", null="mean over all heads"),
    Column("head", INT, "head, from 0", null="mean over all heads"),
    Column("head_set", TEXT, "the mean over this set of `head_sets`", null="one head, or all heads"),
    Column("position", INT, "position of the query"),
    Column("weights", pa.list_(pa.float32()), "its attention to positions 0, 1, ... up to its own"),
)


class Head(NamedTuple):
    """Layer and head, both from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"({self.layer},{self.head})"


class HeadScore(StrEnum):
    """By what Reasoning-Focus Heads are ranked (Paper A, section 4.2)."""

    MASS = "mass"
    """answer->reasoning, as the paper's text and the boxes of its Fig. 3."""
    DIFFERENCE = "difference"
    """answer->reasoning minus answer->answer, as the authors' published list of RFHs."""
    EXCESS = "excess"
    """answer->reasoning minus what a head that spreads evenly over the same keys would give: controls for length."""
    PER_TOKEN = "per_token"
    """answer->reasoning divided by the number of reasoning tokens."""
    LOG_RATIO = "log_ratio"
    """Logarithm of the attention a token of the reasoning gets over that of a token of the prompt: an even head has 0
    whatever the lengths."""
    FOCUS = "focus"
    """How far the attention within the reasoning is from an even head's (1 minus the share of its entropy), whatever
    the length."""
    CONTENT = "content"
    """answer->reasoning minus the same of another trace's answer in the answer's place: what depends on what it says.
    Only where that was measured (`experiment.unrelated` of heads)."""


def usual_count(n_heads: int) -> int:
    """How many heads a list of special ones has unless told otherwise: 10 as in Paper A, or a tenth of the model's (at
    least 2) if it has fewer than 100."""
    return 10 if n_heads >= 100 else max(2, n_heads // 10)


def score_values(heads: pd.DataFrame, score: HeadScore) -> pd.Series:
    """One value for each row of heads.parquet. Masses to segments that a trace lacks count as 0."""
    reasoning = heads["answer_reasoning"]
    match score:
        case HeadScore.MASS:
            return reasoning
        case HeadScore.DIFFERENCE:
            return reasoning - heads["answer_answer"].fillna(0.0)
        case HeadScore.EXCESS:
            return reasoning - heads["answer_reasoning_even"]
        case HeadScore.PER_TOKEN:
            return heads["answer_reasoning_per_token"]
        case HeadScore.LOG_RATIO:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log((heads["answer_reasoning_per_token"] / heads["answer_prompt_per_token"]).astype(float))
            return ratio.where(np.isfinite(ratio))
        case HeadScore.FOCUS:
            return heads["answer_focus"]
        case HeadScore.CONTENT:
            return reasoning - heads["answer_reasoning_unrelated"]


def head_array(heads: pd.DataFrame, values: pd.Series) -> Float[np.ndarray, "example layer head"]:
    """Values of heads.parquet as an array; examples in order of appearance, NaN where a row is missing."""
    examples = pd.Categorical(heads["example"], categories=heads["example"].unique())
    shape = (len(examples.categories), int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    array = np.full(shape, np.nan)
    array[examples.codes, heads["layer"], heads["head"]] = values
    return array


def rank_heads(scores: Float[np.ndarray, "layer head"], k: int) -> list[Head]:
    """The k heads with the highest score, best first; ties by layer, then head. NaN ranks last."""
    n_heads = scores.shape[1]
    if not 1 <= k <= scores.size:
        raise UserError(
            f"cannot take the top {k} of {scores.size} heads: set experiment.top_k between 1 and {scores.size}"
        )
    order = np.argsort(-np.nan_to_num(scores.ravel(), nan=-np.inf), kind="stable")[:k]
    return [Head(int(i) // n_heads, int(i) % n_heads) for i in order]


def overlap(first: list[Head], second: list[Head]) -> int:
    """Number of heads in both lists."""
    return len(set(first) & set(second))


def mean_over(array: Float[np.ndarray, "example layer head"], heads: list[Head]) -> Float[np.ndarray, " example"]:
    """Each example's mean over a set of heads."""
    layers, numbers = zip(*heads, strict=True)
    return array[:, list(layers), list(numbers)].mean(axis=1)


def masses_by_segment(heads: pd.DataFrame) -> pd.DataFrame:
    """One row a trace: its answer->segment masses averaged over all layers and heads (Paper A, Fig. 2).

    A segment that a trace lacks has NaN.
    """
    columns = [f"{Segment.ANSWER}_{destination}" for destination in Segment]
    return heads.groupby("example", sort=False)[columns].mean().astype(float)
