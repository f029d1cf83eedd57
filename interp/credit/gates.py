"""Gates: whether a study of credit on a task could find anything, to be passed before its arms are looked at.

On a task that knows which tokens decide: (a) the rule credits these tokens, (b) credit changes the gradient, (c) credit
on these tokens alone (`oracle`) makes learning better than plain GRPO. Where (a) or (b) fails no arm is a test of the
rule; where (c) fails there is nothing to gain, and the task has to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.credit.contrasts import Outcome, Spread, detectable
from interp.credit.gamma import Strategy
from interp.credit.study import REFERENCE, Training, by_arm, over_both, over_seeds
from interp.runs.columns import BOOL, FLOAT, INT, TEXT, Column, Table
from interp.stats import Estimate, or_null
from interp.text.numbers import with_interval

LEAST_RECALL, MOST_COSINE, PAIRS = 0.6, 0.9, 8
"""What passes the gates (a), (b), and over how many seeds the interval of (c) must lie above 0."""
RULE = Strategy.COUPLED
"""The rule that gates are for: the paper's own."""
BESIDE = (Strategy.GLOBAL_ANCHOR, Strategy.MATCHED_RANDOM, Strategy.ORACLE)
"""Rules that are measured alike, to stand beside it."""
RECALL, PRECISION, CHANCE, COSINE = "recall", "precision", "chance", "gradient_cosine"
TREATMENT_TABLE = Table(
    "treatment",
    Column("strategy", TEXT, "the rule, on the model before training"),
    Column(
        "measure",
        TEXT,
        "`recall` (share of the deciding tokens that get more credit), `precision` (share of deciding tokens among "
        "those that do), `chance` (share of all tokens that do: the recall of tokens at random), `gradient_cosine` "
        "(of the credited gradient to plain GRPO's, one step's batch)",
    ),
    Column("value", FLOAT, "mean"),
    Column("n", INT, "number of responses, or of steps, behind it"),
)
GATES_TABLE = Table(
    "gates",
    Column(
        "gate", TEXT, "`finds` (the rule finds what decides), `treats` (the gradient changes), `pays` (oracle gains)"
    ),
    Column("measure", TEXT, "what decides it, or stands beside it"),
    Column("strategy", TEXT, "the rule"),
    Column("value", FLOAT, "mean over trainings", null="not measured"),
    Column("low", FLOAT, "lower end of the 95 % t interval over trainings", null="fewer than two trainings"),
    Column("high", FLOAT, "upper end of it", null="fewer than two trainings"),
    Column("n", INT, "number of trainings"),
    Column("bound", FLOAT, "at which it passes", null="it decides nothing"),
    Column("passed", BOOL, "whether it does", null="it decides nothing"),
)


def treatment_rows(
    gamma: Mapping[Strategy, Sequence[Float[np.ndarray, " token"]]],
    decides: Sequence[Bool[np.ndarray, " token"]],
    cosines: Mapping[Strategy, Sequence[float]],
) -> Iterator[dict[str, Any]]:
    """The rows of treatment.parquet, from each rule's gamma on some responses, which tokens decide, and cosines.

    Each response counts alike; those without a deciding token do not count, those without a credited one have found
    nothing (recall 0) and have no precision.
    """
    for strategy, responses in gamma.items():
        shares: dict[str, list[float]] = {RECALL: [], PRECISION: [], CHANCE: []}
        for values, wanted in zip(responses, decides, strict=True):
            credited = values > values.min() + 1e-6
            if wanted.any():
                both = float((credited & wanted).sum())
                shares[RECALL].append(both / wanted.sum())
                shares[CHANCE].append(float(credited.mean()))
                if credited.any():
                    shares[PRECISION].append(both / credited.sum())
        for measure, found in {**shares, COSINE: list(cosines.get(strategy, []))}.items():
            if found:
                yield {"strategy": str(strategy), "measure": measure, "value": float(np.mean(found)), "n": len(found)}


@dataclass(frozen=True)
class Gate:
    """A measure over trainings, and whether it passes; no bound = it stands beside one that decides."""

    gate: str
    measure: str
    strategy: str
    found: Estimate
    bound: float | None = None
    passed: bool | None = None

    @property
    def row(self) -> dict[str, Any]:
        """Of gates.parquet."""
        about = {"gate": self.gate, "measure": self.measure, "strategy": self.strategy}
        of = self.found
        return about | {
            **{"value": or_null(of.value), "low": of.low, "high": of.high, "n": of.n},
            **{"bound": self.bound, "passed": self.passed},
        }

    @property
    def line(self) -> str:
        """For the screen."""
        said = {True: ": passed", False: ": FAILED", None: ""}[self.passed]
        value = (
            f"{self.measure} {with_interval(self.found.value, self.found.low, self.found.high)} (n = {self.found.n})"
        )
        return f"gate {self.gate}, {self.strategy}, {value}{said}"


def gates(treatments: Sequence[pd.DataFrame], trainings: Sequence[Training]) -> list[Gate]:
    """The gates of a study, out of the treatment tables of its trainings and the trainings themselves.

    (a) and (b) go by the mean over trainings, (c) by the interval of oracle minus plain GRPO, paired by seed, in mean
    reward over training: it must lie above 0, over at least PAIRS seeds. What was not measured has not passed.
    """
    found: list[Gate] = []
    table = pd.concat(treatments) if treatments else TREATMENT_TABLE.schema.empty_table().to_pandas()
    decided: tuple[tuple[str, str, float, Callable[[float], bool]], ...] = (
        ("finds", RECALL, LEAST_RECALL, lambda value: value >= LEAST_RECALL),
        ("treats", COSINE, MOST_COSINE, lambda value: value <= MOST_COSINE),
    )
    for gate, measure, bound, passes in decided:
        values = _values(table, RULE, measure)
        estimate = over_seeds(values) if values else Estimate(float("nan"), 0)
        found.append(Gate(gate, measure, RULE, estimate, bound, bool(values) and passes(estimate.value)))
        also = [(RULE, name) for name in (PRECISION, CHANCE) if gate == "finds"]
        for strategy, beside in [*also, *((other, measure) for other in BESIDE)]:
            if values := _values(table, strategy, beside):
                found.append(Gate(gate, beside, strategy, over_seeds(values)))
    return [*found, *_pays(trainings)]


def _values(table: pd.DataFrame, strategy: str, measure: str) -> list[float]:
    here = table[(table["strategy"] == str(strategy)) & (table["measure"] == measure)]
    return [float(value) for value in here["value"]]


def _by_seed(trainings: Sequence[Training], arm: str, outcome: Outcome) -> dict[int, float]:
    return {one.seed: outcome.of(one) for one in by_arm(trainings).get(arm, [])}


def _pays(trainings: Sequence[Training]) -> Iterator[Gate]:
    for outcome in Outcome:
        ours, theirs = (_by_seed(trainings, arm, outcome) for arm in (Strategy.ORACLE, REFERENCE))
        compared = over_both(ours, theirs)
        gap = Estimate(float("nan"), 0) if compared is None else compared.difference
        name = f"{outcome} minus {REFERENCE}"
        if outcome == Outcome.REWARD:
            yield Gate("pays", name, Strategy.ORACLE, gap, 0.0, gap.n >= PAIRS and gap.low is not None and gap.low > 0)
        elif gap.n:
            yield Gate("pays", name, Strategy.ORACLE, gap)


def power_lines(trainings: Sequence[Training], pairs: Sequence[int] = (8, 16)) -> list[str]:
    """What a study of so many seeds could find, if its arms differ as much over seeds as oracle and plain GRPO do."""
    lines = []
    for outcome in Outcome:
        spread = Spread.between(*(_by_seed(trainings, arm, outcome) for arm in (Strategy.ORACLE, REFERENCE)))
        if spread is not None:
            least = ", ".join(f"{detectable(spread.sd, n):.3f} with {n} seeds" for n in pairs)
            lines.append(
                f"power .8 for differences in {outcome} of {least} (sd of oracle minus uniform {spread.sd:.3f}, "
                f"n = {spread.pairs} seeds)"
            )
    return lines
