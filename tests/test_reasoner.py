"""The default model's answers are read out of its reasoning, on problems that neither training nor card saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.reading_heads import cut, log_probabilities, made
from interp.front.measures import measure_heads
from interp.heads.scores import Head, HeadScore
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.organisms.lookups import Kind, Order
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
    """In one and the same answer, items that stand in the prompt are spared: where the Reasoning-Focus Heads are cut,
    ranked on other texts, and far the most of them where every head is."""
    ranked = measure_heads(lens, [trace for trace, _ in made(lens, SEED + 1, 64)], score=HeadScore.DIFFERENCE)
    traces = made(lens, SEED, 30)
    clean = log_probabilities(lens, traces)
    for heads, spared in ((ranked.top(4), 0.05), (None, 0.25)):
        without = log_probabilities(lens, traces, cut(heads))
        change = {kind: float(np.nanmean(without[kind] - clean[kind])) for kind in clean}
        assert change[Kind.CHAIN_ITEM] < -3
        assert change[Kind.FINAL] < -1
        assert change[Kind.PROMPT_ITEM] > spared * change[Kind.CHAIN_ITEM]


def test_few_heads_read_and_walk_along_what_they_read(lens: Lens) -> None:
    """The Reasoning-Focus Heads, ranked on other texts: their look turns round with the order that is asked for."""
    ranked = measure_heads(lens, [trace for trace, _ in made(lens, SEED + 1, 64)], score=HeadScore.DIFFERENCE)
    mean: dict[Order, dict[Head, float]] = {}
    for order in (Order.FORWARD, Order.BACKWARD):
        table = measure_heads(lens, [trace for trace, _ in made(lens, SEED, 20, order)]).table
        by_head = table.groupby(["layer", "head"])["trajectory_weighted"].mean()
        mean[order] = {head: float(by_head[head]) for head in ranked.top(4)}
    for head in ranked.top(4):
        assert mean[Order.BACKWARD][head] < 0
        assert mean[Order.FORWARD][head] - mean[Order.BACKWARD][head] > 0.25
