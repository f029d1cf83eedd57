"""What the gates of a study of credit go by, measured before a training (interp/credit/gates.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from experiments.base.credit_options import CreditOptions
from experiments.base.credit_training import decisions_of, fit, make_trainer
from experiments.base.session import Session
from interp.credit.checks import COSINE
from interp.credit.gamma import Strategy
from interp.credit.gates import BESIDE, RULE, treatment_rows
from interp.credit.rows import gamma_on
from interp.credit.signals import Measuring
from interp.data.examples import Question
from interp.rhythm.waad_fai import response_of
from interp.text.trace import Trace

STEPS = 4
"""Batches on which gradients are compared."""


def measure_treatment(
    session: Session,
    options: CreditOptions,
    traces: Sequence[Trace],
    train_set: Sequence[Question],
    measuring: Measuring,
) -> list[dict[str, Any]]:
    """The rows of treatment.parquet: where rules put credit before training, and what they make of its gradient."""
    decide = decisions_of(session)
    assert decide is not None
    written = [torch.tensor([[trace.token_ids[i] for i in response_of(trace)]]) for trace in traces]
    decides = [decide(ids)[0].numpy() for ids in written]
    gamma: dict[Strategy, list[np.ndarray]] = {}
    cosines: dict[Strategy, list[float]] = {}
    for strategy in (RULE, *BESIDE):
        rule = replace(options.rule, strategy=strategy)
        gamma[strategy] = [
            gamma_on(session.lens, trace, rule, measuring, session.seed, torch.from_numpy(wanted))[1].numpy()
            for trace, wanted in zip(traces, decides, strict=True)
        ]
        cosines[strategy] = _cosines(session, options.model_copy(update={"strategy": strategy}), train_set, measuring)
    return list(treatment_rows(gamma, decides, cosines))


def _cosines(
    session: Session, options: CreditOptions, train_set: Sequence[Question], measuring: Measuring
) -> list[float]:
    """Of a few batches, at a learning rate of 0: the weights stay as they are."""
    still = {"steps": STEPS, "save_every": 10**9, "cosine_every": 1, "grpo": {**options.grpo, "learning_rate": 0.0}}
    with TemporaryDirectory() as folder:
        trainer = make_trainer(session, options.model_copy(update=still), train_set, measuring, Path(folder))
        torch.manual_seed(session.seed)
        fit(trainer)
    return [entry[COSINE] for entry in trainer.state.log_history if COSINE in entry]
