"""Which sentences carry the answer: fast ways against plain ones, cases by hand, and a model where it is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import PreTrainedTokenizerBase

from benchmarks.reading_heads import made
from interp.ablation.effects import answer_position
from interp.model.lens import Lens
from interp.perturb.rollouts import trunk
from interp.rhythm.waad_fai import response_of
from interp.sentences.demands import demanded, lead_to_answer, surprisal_before_steps
from interp.sentences.findings import signal_rows
from interp.sentences.suppression import suppressed
from interp.stats import rank_correlation
from interp.text.sentences import reasoning_sentences
from interp.text.trace import parse_text
from tests.command import SMALLEST, ok
from tests.families import IDS

SENTENCES = [(5, 9), (9, 14), (14, 15), (20, 28), (len(IDS) - 4, len(IDS) - 1), (len(IDS) - 1, len(IDS))]


@torch.no_grad()
def masked(lens: Lens, start: int, end: int) -> np.ndarray:
    """Log-probability of each token by the model's own full pass under a mask that hides a sentence."""
    n = len(IDS)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen[end:, start:end] = False
    log_p = lens.hf(torch.tensor([IDS]), attention_mask=seen[None, None]).logits[0].log_softmax(-1)
    return log_p[torch.arange(n - 1), torch.tensor(IDS[1:])].numpy()


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_suppression_equals_full_passes_under_a_mask(small_lens: Lens, batch: int) -> None:
    found = suppressed(small_lens, IDS, SENTENCES, batch, trunk(small_lens, IDS).prefix)
    clean = masked(small_lens, 0, 0)
    np.testing.assert_allclose(found.clean[1:], clean, atol=1e-4)
    for (start, end), change in zip(SENTENCES, found.change, strict=True):
        expected = (masked(small_lens, start, end) - clean)[end - 1 :]
        np.testing.assert_allclose(change[end:], expected, atol=2e-4)
        assert np.isnan(change[:end]).all()
        assert end >= len(IDS) - 1 or np.abs(expected).max() > 1e-3, "a sentence that does something"
    plain = suppressed(small_lens, IDS, SENTENCES, batch)
    np.testing.assert_allclose(found.change, plain.change, atol=2e-4)


def test_every_token_of_a_step_has_the_surprisal_before_it(reasoner: Lens) -> None:
    ((trace, _),) = made(reasoner, 3, 1)
    response = response_of(trace)
    found = surprisal_before_steps(reasoner, trunk(reasoner, trace.measured_ids), trace, response)
    lead, answer = lead_to_answer(trace) or pytest.fail("it has an answer")
    for position, value in zip(response, found, strict=True):
        step = next((start for start, stop in reasoning_sentences(trace) if start <= position < stop), None)
        if step is None:
            assert np.isnan(value)
            continue
        logits = reasoner.hf(torch.tensor([[*trace.token_ids[:step], *lead]])).logits[0, -1]
        assert value == pytest.approx(-float(logits.log_softmax(-1)[answer]), abs=1e-3)
    known = found[~np.isnan(found)]
    assert (known > 1).all(), "only the last step tells the answer"


def test_answers_demanded_on_shared_keys_equal_texts_computed_alone(small_lens: Lens) -> None:
    places, lead = [3, 9, 17, 30, len(IDS)], [11, 25, 7]
    shared = trunk(small_lens, IDS)
    assert shared.prefix is not None
    found = demanded(small_lens, shared, places, lead, 40, batch=2)
    alone = demanded(small_lens, replace(shared, prefix=None), places, lead, 40)
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert np.ptp(found) > 1e-3


def test_what_leads_to_the_answer(words: PreTrainedTokenizerBase) -> None:
    text = "<bos> Who has most , Tom or Jay ? <think> So Tom 5 . </think> Tom 5 apples . The answer is Tom . <eos>"
    trace = parse_text(text, words)
    found = lead_to_answer(trace)
    assert found is not None
    assert words.decode(list(found[0])).split() == ["</think>", "The", "answer", "is"]
    assert words.decode([found[1]]) == "Tom"


def test_rank_correlations_by_hand() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    common = np.arange(20.0)
    assert rank_correlation(common + 3 * x, common + 3 * y) > 0.7
    assert abs(rank_correlation(common + 3 * x, common + 3 * y, [common])) < 0.5
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))


def test_signals_by_hand() -> None:
    """Two traces of six sentences: the answer's attention goes along with suppression in one, against it in the other;
    demanding the answer is the same as suppressing; what lies below rounding has no rank."""
    about = {"seed": 0, "resampled": None, "received": None, "entropy": 1.0, "tokens": 5}
    rows = []
    for trace, sign in (("a", 1), ("b", -1)):
        for k in range(6):
            values = {"suppressed": float(k), "demanded": k + 1e-7, "answer_mass": 0.1 * sign * k}
            rows.append({"example": trace, "sentence": k, **values, **about})
    found = pd.DataFrame(signal_rows(pd.DataFrame(rows), 0)).set_index(["causal", "other", "given"])
    assert found.loc[("suppressed", "demanded", "nothing"), "value"] == pytest.approx(1)
    assert found.loc[("suppressed", "demanded", "nothing"), "first"] == 1
    mass = found.loc[("suppressed", "answer_mass", "nothing")]
    assert (mass["value"], mass["first"], mass["n"]) == (pytest.approx(0), 0.5, 2)
    assert mass["first_chance"] == pytest.approx(1 / 6)
    assert "resampled" not in found.index.get_level_values("causal")
    assert ("suppressed", "entropy", "nothing") not in found.index, "all the same: no rank"


def test_the_step_that_states_the_result_is_found(reasoner: Lens) -> None:
    """In `reasoner` the last step of the chain states what the answer says: nothing else may be looked at."""
    hidden = asked = 0
    traces = [trace for trace, _ in made(reasoner, 77, 20)]
    for trace in traces:
        lead, position = lead_to_answer(trace), answer_position(trace)
        assert lead is not None
        assert position is not None
        sentences = reasoning_sentences(trace)
        cut = suppressed(reasoner, trace.measured_ids, sentences)
        hidden += int(np.argmin(cut.change[:, position])) == len(sentences) - 1
        borders = [sentences[0][0], *(end for _, end in sentences)]
        asked += (
            int(np.argmax(demanded(reasoner, trunk(reasoner, trace.measured_ids), borders, *lead))) == len(borders) - 1
        )
    assert hidden >= 18
    assert asked >= 18


def test_a_run_keeps_every_sentence(tmp_path: Path) -> None:
    ok("experiment=sentences", "model=reasoner", *SMALLEST["sentences"], "figures=true", f"hydra.run.dir={tmp_path}")
    sentences = pd.read_parquet(tmp_path / "sentences.parquet")
    edges = pd.read_parquet(tmp_path / "sentence_edges.parquet")
    for _, of in sentences.groupby("example"):
        assert (of["demanded"].cumsum() + of["known"].iloc[0] - of["demanded"].iloc[0]).to_numpy() == pytest.approx(
            of["known"].to_numpy()
        )
    assert (edges["later"] > edges["sentence"]).all()
    for name in ("sentences_text", "sentences_matrix", "sentences_signals"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    json.loads((tmp_path / "summary.json").read_text())
