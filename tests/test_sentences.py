"""Which sentences carry the answer: fast ways against plain ones, cases by hand, and a model where it is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from interp.errors import UserError
from interp.model.generate import Sampling
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.structure import edited
from interp.patching.relevance import GATED
from interp.perturb.rollouts import trunk
from interp.rhythm.waad_fai import response_of
from interp.sentences.demands import demanded, lead_to_answer, surprisal_before_steps
from interp.sentences.findings import signal_rows
from interp.sentences.measure import CAUSAL
from interp.sentences.prediction import prediction_rows
from interp.sentences.published import FIELDS, labelled_files, published_sentences
from interp.sentences.resampled import Rollout, Rollouts, resample, resampled_columns, says_the_same
from interp.sentences.signals import SIGNALS, relevance_to
from interp.sentences.suppression import suppressed
from interp.stats import confidence_sequence, rank_correlation
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
    more = dict.fromkeys(("rfh_mass", "receiver_heads", "fai", "relevance", *FIELDS))
    about = {
        **more,
        "seed": 0,
        "resampled": None,
        "counterfactual": None,
        "received": None,
        "entropy": 1.0,
        "tokens": 5,
    }
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


def test_equals_share_the_first_place_on_both_sides() -> None:
    """Else a measure that is nothing, or coarse, would put the first of its equals first."""
    about = {name: None for name in CAUSAL} | {name: None for name in SIGNALS} | dict.fromkeys(FIELDS)
    rows = [
        {**about, "example": trace, "sentence": k, "suppressed": float(k < 2), "demanded": 0.0, "tokens": -k}
        for trace in ("a", "b")
        for k in range(6)
    ]
    found = pd.DataFrame(signal_rows(pd.DataFrame(rows), 0)).set_index(["causal", "other", "given"])
    assert found.loc[("suppressed", "tokens", "nothing"), "first"] == 0.5
    assert not [name for name in found.index.get_level_values("causal") if name == "demanded"]


def made_table(traces: int, effect: str, seed: int = 0) -> pd.DataFrame:
    """Sentences whose effect is one signal's order, or nothing's."""
    rng, rows = np.random.default_rng(seed), []
    for trace in range(traces):
        last = 0.0
        for k in range(8):
            signals = {name: float(rng.normal()) for name in SIGNALS} | {"sentence": k}
            last = 0.8 * last + float(rng.normal())
            value = {"nothing": float(rng.normal()), "neighbours": last, "ends": float(k in (0, 7))}.get(effect)
            value = signals[effect] if value is None else value
            rows.append({"example": str(trace), **signals, "suppressed": value})
    return pd.DataFrame(rows).assign(demanded=None, resampled=None, counterfactual=None, **dict.fromkeys(FIELDS))


def test_prediction_finds_what_foretells_and_nothing_where_nothing_does() -> None:
    found = pd.DataFrame(prediction_rows(made_table(12, "rfh_mass"), 0)).set_index("by")
    assert set(found["causal"]) == {"suppressed"}
    assert found.loc["together", "value"] > 0.9
    assert (found.loc["best", "chosen"], found.loc["best", "value"]) == ("rfh_mass", pytest.approx(1, abs=0.01))
    assert found.loc["together", "over_place_low"] > 0.5
    few = pd.DataFrame(prediction_rows(made_table(9, "rfh_mass"), 0, 19)).set_index("by")
    assert few.loc["together", "over_place"] > 0.5
    assert few[["over_place_low", "over_place_high"]].isna().all(axis=None), "too few for an interval of two fits"
    places = pd.DataFrame(prediction_rows(made_table(12, "sentence"), 0)).set_index("by")
    assert places.loc["place", "value"] > 0.95
    assert places.loc["best", "chosen"] != "sentence", "place is a way of its own"
    ends = pd.DataFrame(prediction_rows(made_table(12, "ends"), 0)).set_index("by")
    assert ends.loc["place", "value"] > 0.6, "the last sentence and the first, which no straight line is"
    assert ends.loc["together", "over_place"] < 0.1
    for effect in ("nothing", "neighbours"):
        draws = (made_table(12, effect, seed) for seed in range(20))
        nulls = [pd.DataFrame(prediction_rows(draw, 0, 39)).set_index("by") for draw in draws]
        for by in ("together", "best"):
            assert np.mean([null.loc[by, "p"] <= 0.05 for null in nulls]) <= 0.2, (effect, by)
            assert np.mean([null.loc[by, "over_place_low"] > 0 for null in nulls]) <= 0.2, (effect, by)
    assert prediction_rows(made_table(3, "rfh_mass"), 0) == [], "nothing to fit on"


def test_what_says_the_same() -> None:
    assert says_the_same("So she has 15 apples left.", "Thus she has 15 apples left .")
    assert not says_the_same("So she has 15 apples left.", "So she has 16 apples left.")
    assert not says_the_same("She has 3 apples and buys 4.", "The 3 trains leave by 4.")
    assert says_the_same("3 + 4 = 7", "3+4 = 7 .")
    assert not says_the_same("3 + 4 = 7", "4 + 3 = 7"), "another order of numbers is another step"
    assert not says_the_same("x = -3", "x = 3")
    assert not says_the_same("So 5 < 7 here.", "So 5 > 7 here.")
    assert not says_the_same("So x is y.", "So x is not y.")
    assert says_the_same("She has 3,000 apples.", "She has 3000 apples.")


def rolled(same: bool, *steps: str, finished: bool = True) -> Rollout:
    return Rollout(same, finished, steps)


def test_columns_of_rollouts_by_hand() -> None:
    """Before the step: one rollout says it again, two say something else (one of them comes back to it), one is cut."""
    step = "She has 7 apples."
    before = [
        rolled(True, "So she has 7 apples."),
        rolled(True, "Let me see.", "She has 7 apples."),
        rolled(False, "She has 9 apples.", "That is all."),
        rolled(False, finished=False),
    ]
    behind = [rolled(True, "Done."), rolled(True, "Done."), rolled(True, "Done."), rolled(False, finished=False)]
    found = resampled_columns(before, behind, step)
    assert found["same"] == 1, "of those that finished: what the cut one would have said is not known"
    assert found["resampled"] == pytest.approx(1 - 2 / 3)
    assert found["unfinished"] == 0.25
    assert (found["different"], found["drawn"]) == (0.75, 4)
    assert found["counterfactual"] == pytest.approx(1 - 1 / 2)
    assert found["returned"] == pytest.approx(1 / 3)
    assert found["resampled_low"] == pytest.approx(-0.2905, abs=1e-3), "3/3 (.439 to 1), 2/3 (.208 to .939)"
    assert found["resampled_high"] == pytest.approx(0.7923, abs=1e-3)
    cut = [rolled(False, finished=False)]
    assert resampled_columns(cut, behind, step)["resampled"] is None, "nothing is known of what they would say"
    stopped = resampled_columns(before, behind, step, stopped=True)
    assert stopped["resampled_low"] < found["resampled_low"], "looking after every draw has its price"
    assert set(resampled_columns([], [], step).values()) == {None}


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5])
def test_an_interval_that_may_be_looked_at_after_every_draw(p: float) -> None:
    """Over all looks up to 200 it misses the truth in at most 5 % of 400 sequences; Wilson's would in far more."""
    draws = np.random.default_rng(5).random((400, 200)) < p
    counts = draws.cumsum(1)
    known = {(n, s): confidence_sequence(s, n) for n in range(1, 201) for s in set(counts[:, n - 1].tolist())}
    missed = [any(not known[n, s][0] <= p <= known[n, s][1] for n, s in enumerate(row, 1)) for row in counts.tolist()]
    assert np.mean(missed) <= 0.05
    assert known[200, int(counts[0, -1])][1] - known[200, int(counts[0, -1])][0] < 0.25
    assert confidence_sequence(0, 0) == (0.0, 1.0)


def test_places_that_are_decided_get_no_more_rollouts(reasoner: Lens) -> None:
    ((trace, _),) = made(reasoner, 77, 1)
    sentences = reasoning_sentences(trace)
    borders = [sentences[0][0], *(end for _, end in sentences)][-4:]
    shared = trunk(reasoner, trace.measured_ids)
    start = response_of(trace).start

    def answer(ids: Sequence[int]) -> str:
        text = str(reasoner.tokenizer.decode([i for i in ids[start:]]))
        return text.partition("</think>")[2].strip().rstrip(".<eos> ").rpartition(" ")[2]

    def drawn(within: float | None, most: int) -> list[list[Rollout]]:
        settings = Rollouts(most, Sampling(1.0, 50), answer, within)
        return resample(reasoner, shared, borders, settings, "</think>", 3, trace.example, 64)

    whole, early = drawn(None, 16), drawn(0.25, 16)
    assert {len(one) for one in whole} == {16}
    assert min(len(one) for one in early) < 16
    for stopped, full in zip(early, whole, strict=True):
        same, known = ([one.same for one in of if one.finished] for of in (stopped, full))
        low, high = confidence_sequence(sum(same), len(same))
        assert high - low <= 0.5 or len(stopped) == 16
        assert low - 0.1 <= np.mean(known) <= high + 0.1
    assert drawn(None, 0) == [[] for _ in borders]


def test_relevance_is_the_derivative_by_each_embeddings_size(small_lens: Lens) -> None:
    """Against a difference quotient where no propagation rule changes the derivative."""
    position = len(IDS) - 1
    found = relevance_to(small_lens, IDS, position)
    assert found.shape == (position,)
    assert np.abs(found).max() > 1e-4
    if small_lens.config.model_type in GATED:
        return

    @torch.no_grad()
    def difference(token: int, step: float) -> float:
        place = edited(small_lens, 0, {Site.RESID_PRE: lambda x: scaled(x, token, 1 + step)})
        with place:
            logits = small_lens.hf(torch.tensor([IDS[:position]])).logits[0, -1]
        return float(logits[IDS[position]] - logits[other])

    def scaled(x: torch.Tensor, token: int, factor: float) -> torch.Tensor:
        changed = x.clone()
        changed[:, token] *= factor
        return changed

    logits = small_lens.hf(torch.tensor([IDS[:position]])).logits[0, -1].detach()
    logits[IDS[position]] = -torch.inf
    other = int(logits.argmax())
    for token in (1, position // 2, position - 1):
        quotient = (difference(token, 1e-2) - difference(token, -1e-2)) / 2e-2
        assert found[token] == pytest.approx(quotient, abs=2e-3 + 0.02 * abs(quotient))


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


def labelled(folder: Path, chunks: list[dict]) -> dict[str, list[Path]]:
    (folder / "problem_7").mkdir(parents=True)
    (folder / "problem_7" / "chunks_labeled.json").write_text(json.dumps(chunks))
    return labelled_files(str(folder))


def test_published_sentences_are_found_in_the_text(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    text = "<bos> Who has most , Tom or Jay ? <think> So Tom 5 . Jay 3 . So Tom . </think> The answer is Tom . <eos>"
    trace = parse_text(text, words, example="problem_7#2")
    values = {
        "resampling_importance_kl": 0.5,
        "counterfactual_importance_kl": None,
        "function_tags": ["fact_retrieval"],
    }
    files = labelled(tmp_path, [{"chunk": "So Tom 5 . ", **values}, {"chunk": "Jay 3 ."}, {"chunk": "So Tom ."}])
    found = published_sentences(trace, files)
    assert found is not None
    said = [trace.text[trace.offsets[a][0] : trace.offsets[b - 1][1]].strip() for a, b in found.spans]
    assert said == ["So Tom 5 .", "Jay 3 .", "So Tom ."]
    assert found.columns[0] == {
        "published_resampled": 0.5, "published_counterfactual": None, "published_role": "fact_retrieval",
    }  # fmt: skip
    assert set(found.columns[1].values()) == {None}
    other = labelled(tmp_path / "other", [{"chunk": "Jay 3 ."}, {"chunk": "So Tom 5 ."}])
    assert published_sentences(trace, other) is None, "another order"
    assert published_sentences(replace(trace, example="problem_8"), files) is None
    with pytest.raises(UserError, match="holds no chunks_labeled"):
        labelled_files(str(tmp_path / "nothing"))
    (tmp_path / "problem_7" / "chunks_labeled.json").write_text("{}")
    with pytest.raises(UserError, match="no list of sentences"):
        published_sentences(trace, files)


def test_a_run_beside_published_importances(reasoner: Lens, tmp_path: Path) -> None:
    """Published values that are the order of the sentences correlate with their places, and with nothing by chance."""
    rows, files = [], tmp_path / "data"
    for i, (trace, _) in enumerate(made(reasoner, 77, 3)):
        chunks = [
            {"chunk": trace.text[trace.offsets[a][0] : trace.offsets[b - 1][1]], "resampling_importance_kl": float(k)}
            for k, (a, b) in enumerate(reasoning_sentences(trace))
        ]
        (files / f"problem_{i}").mkdir(parents=True)
        (files / f"problem_{i}" / "chunks_labeled.json").write_text(json.dumps(chunks))
        rows.append({"id": f"problem_{i}", "text": trace.text})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ok("experiment=sentences", "model=reasoner", "data=traces", f"data.path={tmp_path / 't.jsonl'}", "figures=true",
       f"experiment.published={files}", "experiment.draws=0", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    sentences = pd.read_parquet(tmp_path / "run" / "sentences.parquet")
    assert (sentences["published_resampled"] == sentences["sentence"]).all()
    signals = pd.read_parquet(tmp_path / "run" / "sentence_signals.parquet").set_index(["causal", "other", "given"])
    assert signals.loc[("published_resampled", "sentence", "nothing"), "value"] == pytest.approx(1)
