"""The vLLM backend: what a stand-in module is asked and answers; the package itself, where it is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from interp.errors import UserError
from interp.model.generate import HuggingFaceGenerator, Sampling
from interp.model.lens import Lens, ModelSource, ModelSpec, load_tokenizer
from interp.model.vllm import VllmGenerator
from interp.organisms.lookups import make_problem
from interp.organisms.word_problems import Split
from interp.perturb.rollouts import Fork, rollouts, trunk

SPEC = ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    class StandInModel:
        def __init__(self, **options: Any) -> None:
            calls.append(options)

        def generate(self, prompts: list[Any], options: list[Any], use_tqdm: bool) -> list[Any]:  # noqa: ARG002
            calls.append((prompts, options))
            done = SimpleNamespace(token_ids=[7, 2], finish_reason="stop")
            cut = SimpleNamespace(token_ids=[7, 8], finish_reason="length")
            return [SimpleNamespace(outputs=[one]) for one in (done, cut)[: len(prompts)]]

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandInModel, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return calls


def test_prompts_go_in_as_ids_and_come_back_as_responses(asked: list[Any]) -> None:
    tokenizer = load_tokenizer(SPEC)
    generator = VllmGenerator(SPEC, tokenizer)
    first, second = generator(["<bos> Tom", "<bos> Tom"], Sampling(0.6, 20, 0.9), 3, "x")
    assert asked[0]["model"].endswith("checkpoints/reasoner")
    assert asked[0]["dtype"] == ("bfloat16" if torch.cuda.is_available() else "float32")
    prompts, options = asked[1]
    ids = tokenizer("<bos> Tom", add_special_tokens=False)["input_ids"]
    assert prompts == [{"prompt_token_ids": ids}] * 2
    assert {(o.temperature, o.top_p, o.max_tokens) for o in options} == {(0.6, 0.9, 20)}
    assert options[0].seed != options[1].seed  # equal prompts, different samples
    assert tokenizer.eos_token_id in options[0].stop_token_ids
    assert (first.prompt_ids, first.ids, first.finished) == (tuple(ids), (7, 2), True)
    assert not second.finished


def test_rollouts_go_through_the_engine(asked: list[Any], reasoner: Lens) -> None:
    ids = reasoner.tokenizer("<bos> Tom 5. Find Tom. <think> First Tom 5. </think>", add_special_tokens=False)[
        "input_ids"
    ]
    end = reasoner.tokenizer.eos_token_id
    shared = trunk(reasoner, ids)
    forks = [Fork(9, 50), Fork(4, end), Fork(6, 40)]
    found = rollouts(reasoner, shared, forks, Sampling(1.0, 9), 3, "x", engine=VllmGenerator(SPEC, reasoner.tokenizer))
    assert asked[0]["enable_prefix_caching"]
    prompts, options = asked[1]
    # From the front to the back; a forced end is one already.
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [[*ids[:6], 40], [*ids[:9], 50]]
    assert {o.max_tokens for o in options} == {9}
    assert found == [((7, 8), False), ((), True), ((7, 2), True)]


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        VllmGenerator(SPEC, load_tokenizer(SPEC))


def test_a_model_without_a_checkpoint(asked: list[Any]) -> None:
    spec = ModelSpec("planted", ModelSource.PLANTED)
    with pytest.raises(UserError, match="vLLM needs a checkpoint"):
        VllmGenerator(spec, load_tokenizer(spec))
    with pytest.raises(UserError, match="vLLM reads trained weights"):
        VllmGenerator(replace(SPEC, untrained=0), load_tokenizer(SPEC))


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed: docs/evaluate.md says how")
def test_vllm_itself_writes_what_the_measured_model_writes(reasoner: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    engine, sampling = VllmGenerator(SPEC, reasoner.tokenizer), Sampling(0.0, 160)
    prompts = [f"<bos> {make_problem(9, Split.HELD_OUT, i).question} <think>" for i in range(8)]
    written = engine(prompts, sampling, 0)
    assert written == HuggingFaceGenerator(reasoner)(prompts, sampling, 0)
    ids = [*written[0].prompt_ids, *written[0].ids[:-1]]
    shared = trunk(reasoner, ids)
    places = range(len(written[0].prompt_ids) + 2, len(ids) - 1, 6)
    forks = [Fork(place, token) for place in places for token in shared.candidates(place, 2)]
    assert rollouts(reasoner, shared, forks, sampling, 0, engine=engine) == rollouts(
        reasoner, shared, forks, sampling, 0
    )
    assert len({one.ids for one in engine(prompts[:1] * 8, Sampling(1.0, 60), 0)}) > 1
