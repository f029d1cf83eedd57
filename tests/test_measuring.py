"""Passes that measure: the weights make the layers' outputs, which differ from fused attention's by rounding alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from interp.errors import UserError
from interp.heads.reductions import AttendedPositions, ReceivedAttention, ReceivedBySentences, SegmentMasses
from interp.model.attention import LayerAttention
from interp.model.lens import Lens
from interp.model.streaming import MASSES, Output, stream
from interp.model.unembedding import trunk_of
from interp.rhythm.waad_fai import Distances, WithoutColumns
from interp.text.trace import Segment, Trace
from tests.conftest import SMALL, random_lens
from tests.families import lens_of
from tests.test_attention import make_trace

NAMES = ("llama", "mistral-windowed", "qwen2", "qwen2-windowed", "qwen3", "gemma", "gemma3")
BLOCK = 6 * 4 * 40 * 7
"""Some seven rows of six heads over the forty keys."""


@pytest.fixture(scope="module")
def trace() -> Trace:
    return make_trace(1, 6, 1, 22, 1, 9)


def measured(lens: Lens, trace: Trace, output: Output) -> dict[str, torch.Tensor]:
    """Every reduction of a pass, and what the pass gives out."""
    shape = (lens.n_layers, lens.n_heads)
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    response = range(reasoning.start, answer.end)
    masses = SegmentMasses(trace, *shape, list(Segment))
    received = ReceivedAttention(response, response, *shape, gap=3, horizon=20)
    sentences = ReceivedBySentences([(i, i + 3) for i in range(reasoning.start, reasoning.end - 2, 3)], *shape)
    look = AttendedPositions(range(answer.start, answer.end), range(reasoning.start, reasoning.end), *shape)
    distances = Distances(response, *shape, 5)
    others = Distances(response, *shape, 5)
    given = (masses, received, sentences, look, distances, WithoutColumns(4, *shape, others))
    hidden = stream(lens, trace.measured_ids, *given, block_bytes=BLOCK, output=output)
    return {
        "hidden": hidden,
        "masses": masses.mass,
        "received": received.received,
        "sentences": sentences.received,
        "focus": look.focus,
        "waad": distances.waad,
        "waad without sinks": others.waad,
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_same_whatever_makes_it(name: str, words: PreTrainedTokenizerBase, trace: Trace) -> None:
    lens = lens_of(name, words)
    made, fused = (measured(lens, trace, output) for output in (Output.WEIGHTS, Output.FUSED))
    assert made["masses"].std(dim=(0, 1)).max() > 0.02, "heads that differ"
    for what, values in made.items():
        torch.testing.assert_close(values, fused[what], atol=1e-5, rtol=1e-5, equal_nan=True, msg=what)
    assert lens.checked[MASSES]["output_made_of"] == "weights", "it goes into environment.json"


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.bfloat16, 0.05)])
def test_in_other_precisions(dtype: torch.dtype, near: float, words: PreTrainedTokenizerBase, trace: Trace) -> None:
    """A weight times a value is rounded later than fused attention rounds it in half precision."""
    lens = random_lens(Qwen2Config(**SMALL, num_key_value_heads=3), words)
    lens.hf.to(dtype)
    made, fused = (measured(lens, trace, output) for output in (Output.WEIGHTS, Output.FUSED))
    for what in ("hidden", "masses", "received", "sentences"):
        size = float(fused[what].nan_to_num().abs().max())
        torch.testing.assert_close(made[what], fused[what], atol=near * size, rtol=0, equal_nan=True, msg=what)
    assert made["hidden"].dtype == dtype


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
@pytest.mark.parametrize("rows", [range(0), range(5, 9), range(31, 40)], ids=["none", "inside", "the answer's"])
def test_rows_that_no_measure_needs_are_the_models_own(
    name: str, rows: range, words: PreTrainedTokenizerBase, trace: Trace
) -> None:
    """Before the measured rows and behind them, with windows and without."""
    lens = lens_of(name, words)
    few = ReceivedAttention(rows, range(40), lens.n_layers, lens.n_heads)
    hidden = stream(lens, trace.measured_ids, few, block_bytes=BLOCK)
    with torch.no_grad():
        own = trunk_of(lens)(torch.tensor([trace.measured_ids])).last_hidden_state[0]
    torch.testing.assert_close(hidden, own, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("output", Output)
def test_weights_that_are_not_the_models_are_refused_on_the_sequence_at_hand(
    output: Output, small_lens: Lens, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = [SegmentMasses(trace, small_lens.n_layers, small_lens.n_heads)]
    stream(small_lens, trace.measured_ids, *given, output=output)
    monkeypatch.setattr(LayerAttention, "scale", property(lambda call: 0.5 * call.query.shape[-1] ** -0.5))
    with pytest.raises(UserError, match="makes its output otherwise than by the attention that was measured"):
        stream(small_lens, trace.measured_ids, *given, output=output)
