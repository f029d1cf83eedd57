"""The default model's answers are read out of its reasoning, on problems that neither training nor card saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.reading_heads import cut, log_probabilities, made
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.organisms.lookups import Kind
from interp.training.lookup_scores import Answered, Arm, answered, likeliest_word

N, SEED = 100, 99


@pytest.fixture(scope="module")
def lens() -> Lens:
    return load_lens(ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner"))


def share(found: Sequence[Answered], attribute: str) -> float:
    values = [value for one in found for value in getattr(one, attribute)]
    return sum(values) / len(values)


def test_its_own_reasoning_is_right_and_restated(lens: Lens) -> None:
    found = list(answered(lens, Arm.OWN, SEED, N))
    assert share(found, "chain") >= 0.95
    assert share(found, "prompt") >= 0.95
    assert sum(one.final for one in found) >= 0.95 * N


def test_a_wrong_result_in_the_reasoning_is_followed(lens: Lens) -> None:
    found = list(answered(lens, Arm.WRONG, SEED, N))
    assert len(found) > 0.9 * N
    assert share(found, "moved") >= 0.9


def test_without_reasoning_it_is_near_chance(lens: Lens) -> None:
    found = list(answered(lens, Arm.SUPPRESSED, SEED, N))
    assert share(found, "chain") < likeliest_word(SEED, N) + 0.1
    assert sum(one.final for one in found) < 0.2 * N


def test_it_does_not_suppress_its_own_thoughts(lens: Lens) -> None:
    found = list(answered(lens, Arm.SAMPLED, SEED, N))
    assert not any(one.suppresses for one in found)
    assert share(found, "chain") >= 0.9


def test_cutting_the_look_at_the_reasoning_hurts_what_only_it_tells(lens: Lens) -> None:
    """In one and the same answer, items that stand in the prompt are spared."""
    traces = made(lens, SEED, 30)
    clean, without = log_probabilities(lens, traces), log_probabilities(lens, traces, cut(None))
    change = {kind: float(np.nanmean(without[kind] - clean[kind])) for kind in clean}
    assert change[Kind.CHAIN_ITEM] < -3
    assert change[Kind.FINAL] < -3
    assert change[Kind.PROMPT_ITEM] > -0.5
