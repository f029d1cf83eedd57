"""The front door: what `import interp` offers, and that importing changes nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import interp
from interp.errors import TraceError, UserError
from interp.heads.reductions import SegmentMasses
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.streaming import stream
from interp.organisms.planted import CIRCUIT, make_question
from interp.runs.headlines import Headline
from interp.runs.store import Identity, RunStore
from interp.stats import ComparedBy, Comparison, Estimate
from interp.text.trace import Segment
from tests.command import ROOT

TEXT = "<bos> Tom 3 pens <think> Tom 3. </think> Tom 3 pens. <eos>"


@pytest.fixture(scope="module")
def planted_trace(planted: Lens) -> interp.text.Trace:
    return interp.answer(planted, make_question(1, 0).question)


def test_a_model_in_memory_needs_its_tokenizer(words: PreTrainedTokenizerBase) -> None:
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with pytest.raises(UserError, match=r"needs its tokenizer"):
        interp.load(model)
    lens = interp.load(model, words)
    assert "attention masses" in lens.checked
    trace = interp.trace(lens, TEXT)
    assert interp.measure_heads(lens, trace).scores.shape == (1, 2)


def test_traces_come_from_texts_tokens_rows_and_files(word_reasoner: Lens, tmp_path: Path) -> None:
    from_text = interp.trace(word_reasoner, TEXT)
    assert interp.trace(word_reasoner, list(from_text.token_ids)).token_ids == from_text.token_ids
    rows = [{"text": TEXT, "id": "a"}, {"text": "<bos> no tags"}, TEXT]
    found = interp.traces(word_reasoner, rows)
    assert [one.example for one in found] == ["a", "3"]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps({"text": TEXT}) + "\n" for _ in range(3)))
    assert len(interp.traces(word_reasoner, tmp_path / "traces.jsonl", limit=2)) == 2
    with pytest.raises(UserError, match="no trace among 1"):
        interp.traces(word_reasoner, ["<bos> no tags"])


def test_a_trace_shows_itself(word_reasoner: Lens) -> None:
    trace = interp.trace(word_reasoner, TEXT)
    assert len(trace) == len(trace.tokens) == len(trace.token_ids)
    assert trace.tokens[:4] == ["", "Tom", "3", "pens"], "the text does not spell the beginning-of-sequence token"
    page = trace._repr_html_()
    assert page.count("<span") == 6
    assert "&lt;think&gt;" in page
    assert "<think>" not in page


def test_an_answer_that_does_not_end_is_refused(planted: Lens) -> None:
    with pytest.raises(TraceError, match="not finished within max_new_tokens=3"):
        interp.answer(planted, make_question(1, 0).question, max_new_tokens=3)


def test_heads_and_rhythm_of_the_planted_model(planted: Lens, planted_trace: interp.text.Trace) -> None:
    measured = interp.measure_heads(planted, planted_trace, score="mass")
    masses = SegmentMasses(planted_trace, planted.n_layers, planted.n_heads)
    stream(planted, planted_trace.measured_ids, masses)
    expected = masses.of(Segment.ANSWER, Segment.REASONING).numpy()
    np.testing.assert_allclose(measured.scores, expected, atol=1e-6)
    assert CIRCUIT.rfh in measured.top(4)
    by_difference = interp.measure_heads(planted, planted_trace)
    expected -= masses.of(Segment.ANSWER, Segment.ANSWER).numpy()
    np.testing.assert_allclose(by_difference.scores, expected, atol=1e-6, err_msg="as in experiment=heads")
    rhythm = interp.measure_rhythm(planted, planted_trace)
    assert len(rhythm.table) == planted_trace[Segment.ANSWER].end - planted_trace[Segment.REASONING].start
    for figure in (measured.plot(), rhythm.plot()):
        assert isinstance(figure, Figure)
    with pytest.raises(UserError, match="no trace to measure"):
        interp.measure_heads(planted, [])


def test_traces_that_share_a_name_are_told_apart(planted: Lens) -> None:
    """All that `interp.answer` writes are called the same: measures are over all of them, not over the last."""
    traces = [interp.answer(planted, make_question(1, i).question) for i in range(2)]
    assert len({one.example for one in traces}) == 1
    alone = [interp.measure_heads(planted, one).scores for one in traces]
    assert not np.allclose(*alone)
    together = interp.measure_heads(planted, traces)
    np.testing.assert_allclose(together.scores, np.mean(alone, axis=0), atol=1e-6)
    assert together.table["example"].nunique() == 2
    rhythm = interp.measure_rhythm(planted, traces)
    assert not rhythm.table.duplicated(["example", "position"]).any()


def test_patching_gives_a_tensor(planted: Lens) -> None:
    """Everything of the clean run at its last layer and position is the clean answer; earlier keys do nothing there."""
    runs = [interp.answer(planted, make_question(1, i).question) for i in range(12)]
    digits = [one[Segment.ANSWER].start + 3 for one in runs]
    cut = [(list(one.token_ids[:at]), one.token_ids[at]) for one, at in zip(runs, digits, strict=True)]
    first, other = next((a, b) for a, b in combinations(cut, 2) if len(a[0]) == len(b[0]) and a[1] != b[1])
    ids, answers = (first[0], other[0]), (first[1], other[1])
    place = len(ids[0]) - 1
    found = interp.patch(planted, ids[0], ids[1], answers)
    assert found.nld.shape == (planted.n_layers, place + 1)
    assert found.nld.dtype == torch.float64
    assert isinstance(found.plot(), Figure)
    part = interp.patch(planted, ids[0], ids[1], answers, layers=[1, 2], positions=[place])
    torch.testing.assert_close(part.nld[:, 0], found.nld[1:3, place])
    named = interp.patch(planted, ids[0], ids[1], answers, site="attn_out", layers=[2], positions=[place])
    member = interp.patch(planted, ids[0], ids[1], answers, site=Site.ATTN_OUT, layers=[2], positions=[place])
    torch.testing.assert_close(named.nld, member.nld)
    assert abs(float(named.nld)) > 0.5, "the head of that layer reads the answer"
    with pytest.raises(UserError, match="patching needs as many in both"):
        interp.patch(planted, ids[0][1:], ids[1], answers)
    for wrong, complaint in (
        (("the answer", "3"), "give one token"),
        ((answers[0], answers[0]), "both answers are the same token"),
        ((" zebra", answers[1]), "does not know the answer"),
        ((10**6, answers[1]), "the answer 1000000 is no token of planted"),
        ((-1, answers[1]), "the answer -1 is no token of planted"),
    ):
        with pytest.raises(UserError, match=complaint):
            interp.patch(planted, ids[0], ids[1], wrong)
    with pytest.raises(UserError, match="the same logit difference"):
        interp.patch(planted, ids[0], ids[0], answers)


def test_tables_of_runs(tmp_path: Path) -> None:
    compared = Comparison(ComparedBy.PAIRED, Estimate(0.3, 9, 0.1, 0.5), 0.004)
    against = Headline("n", Estimate(0.5, 9, 0.4, 0.6), "chance", Estimate(0.2, 9), compared)
    for name, headline in (("a", Headline("n", Estimate(0.5, 1))), ("b", against)):
        store = RunStore(tmp_path / name, Identity("heads", "m", "d", 0))
        store.write_environment({"run": name})
        store.write(0, "x", effects=[{"example": "x", "intervention": "none", "metric": "ld", "value": 1.0}])
        store.finish({"headlines": [headline.as_json()]})
        store.close()
    runs = interp.runs.load(tmp_path / "*")
    assert list(runs) == ["effects"]
    assert sorted(Path(run).name for run in runs["effects"]["run"]) == ["a", "b"]
    plain, beside = runs.headlines.to_dict("records")
    assert (plain["value"], beside["value"]) == (0.5, 0.5)
    assert all(pd.isna(plain[name]) for name in ("control", "control_value", "difference", "test", "p"))
    assert (beside["control"], beside["control_value"]) == ("chance", 0.2)
    assert [beside[f"difference{end}"] for end in ("", "_low", "_high", "_n")] == [0.3, 0.1, 0.5, 9]
    assert (beside["test"], beside["p"]) == ("paired", 0.004)
    with pytest.raises(UserError, match="names no finished run"):
        interp.runs.load(tmp_path / "c*")


@pytest.mark.parametrize("stub", sorted((ROOT / "interp").rglob("__init__.pyi")), ids=lambda stub: stub.parent.name)
def test_no_public_name_is_also_a_module(stub: Path) -> None:
    """Once the module is imported, it would stand in the name's place; and every name is there."""
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT).parts))
    modules = {file.stem for file in stub.parent.glob("*.py")} - {"__init__"}
    assert not modules & set(package.__all__)
    assert all(getattr(package, name) is not None for name in package.__all__)


PROBE = """
import importlib, json, os, pkgutil, sys, warnings
import matplotlib, torch
from transformers import AttentionInterface, AttentionMaskInterface
import requests, datasets, hydra, trl.trainer.grpo_config
import math_verify, reasoning_gym, pandas, scipy.stats, transformer_lens
def state():
    return [dict(matplotlib.rcParams), sorted(AttentionInterface().keys()), sorted(AttentionMaskInterface().keys()),
            torch.get_num_threads(), str(torch.get_default_dtype()), dict(os.environ), list(map(str, warnings.filters))]
before = state()
import interp, experiments
for package in (interp, experiments):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in ("interp.grading.worker", "interp.model.vllm"):
            importlib.import_module(module.name)
for old, new in zip(before, state()):
    assert old == new, (old, new)
print("same")
"""


def test_importing_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr


def test_importing_is_light() -> None:
    probe = "import sys, interp, interp.heads; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert {"load", "trace", "traces", "answer", "patch", "measure_heads", "measure_rhythm", "runs"} <= set(dir(interp))
