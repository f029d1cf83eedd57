"""What a run over traces would cost, from one batch of them and one that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from experiments.base.collect import Needs, examples
from experiments.base.experiment import Example, LeftOut, O, Rows
from experiments.base.plan import Meter, Plan, measured
from experiments.base.session import Session
from interp.errors import UserError
from interp.text.trace import Trace

CLOSING_SECONDS = 10.0
"""About what the self-check, statistics and figures take."""


@dataclass(frozen=True)
class Sample:
    """A batch of examples as the run makes them, and the one of middle length measured."""

    examples: int
    """Of the whole run."""
    share: float
    """The run's examples to those of the batch."""
    lengths: np.ndarray
    """Tokens of the traces of the batch."""
    middle: int
    """Tokens of the one that was measured."""
    generated: int
    """Tokens that the model wrote to make the batch."""
    making: Meter
    measuring: Meter
    rows: Rows
    """Of the one that was measured."""

    @property
    def traces(self) -> float:
        """How many traces the run will measure."""
        return len(self.lengths) * self.share

    def plan(
        self, *, passes: float = 1, generated: float = 0, power: int = 1, more: float = 0, seconds: float = 0.0
    ) -> Plan:
        """The run's cost where a trace takes `passes` passes and `generated` tokens, and time grows with this power of
        its length; `more` traces are measured once again, and `seconds` are spent elsewhere."""
        n = self.traces + more
        relative = float(np.mean((self.lengths / self.middle) ** power))
        return Plan(
            self.examples,
            round(passes * n),
            round(self.generated * self.share + generated * self.traces),
            max(self.making.peak_bytes, self.measuring.peak_bytes),
            self.making.seconds * self.share + self.measuring.seconds * relative * n + seconds + CLOSING_SECONDS,
            f"{round(self.examples / self.share)} examples, one of them measured",
        )


def sampled(
    session: Session,
    options: O,
    measure: Callable[[Session, O, Example], Rows | LeftOut],
    needs: Needs = Needs.REASONING,
    shortest: bool = False,
    left_out: Callable[[Trace], str | None] = lambda _: None,
) -> Sample:
    """Makes one batch of examples and measures the one of middle length twice: the first time pays for what later ones
    find ready. Where that takes too long, only the `shortest`, and once. `left_out`: why a trace would not be measured.
    """
    with measured() as making:
        made = list(islice(examples(session, needs), session.generation.batch))
    traces = sorted((one for one in made if one.subject is not None), key=lambda one: one.subject.n_measured)
    usable = [one for one in traces if left_out(one.subject) is None]
    if not usable:
        why = left_out(traces[0].subject) if traces else None
        raise UserError(f"no trace would be measured: {why or 'raise data.max_tokens or generation.max_new_tokens'}")
    middle = usable[0 if shortest else len(usable) // 2]
    if not shortest:
        measure(session, options, middle)
    with measured() as measuring:
        found = measure(session, options, middle)
    written = sum(row["n_tokens"] for one in made for row in one.tables.get("answers", []))
    return Sample(
        session.n_examples,
        session.n_examples / len(made),
        np.array([one.subject.n_measured for one in usable], dtype=float),
        middle.subject.n_measured,
        written,
        making,
        measuring,
        {} if isinstance(found, LeftOut) else found,
    )
