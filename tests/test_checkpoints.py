"""What a checkpoint from a stranger may do: nothing. Lost, renamed, pickled weights, its own code, broken files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import interp.model.checkpoints
from interp.errors import UserError
from interp.model.checkpoints import CHECKPOINTS, ModelSource, ModelSpec
from interp.model.lens import Lens, load_lens, load_tokenizer
from interp.safety import no_pickles

Weights = dict[str, torch.Tensor]
MLP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(CHECKPOINTS / "word-reasoner", tmp_path / "model")
    return tmp_path / "model"


def spec_of(directory: Path, **more: bool) -> ModelSpec:
    return ModelSpec("theirs", ModelSource.PRETRAINED, str(directory), **more)


def changed(directory: Path, change: Callable[[Weights], None]) -> ModelSpec:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return spec_of(directory)


def refused(spec: ModelSpec) -> str:
    with pytest.raises(UserError) as raised:
        load_lens(spec)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_weights_are_refused_by_name(copied: Path) -> None:
    assert f"lacks {MLP}" in refused(changed(copied, lambda weights: weights.pop(MLP)))


def test_renamed_weights_are_refused_with_what_stands_there_instead(copied: Path) -> None:
    def rename(weights: Weights) -> None:
        weights["model.layers.1.mlp.up.weight"] = weights.pop(MLP)

    said = refused(changed(copied, rename))
    assert f"lacks {MLP}" in said
    assert "model.layers.1.mlp.up.weight instead" in said


def test_weights_of_another_shape_are_refused_by_name(copied: Path) -> None:
    def shrink(weights: Weights) -> None:
        weights[MLP] = weights[MLP][:-1].clone()

    assert f"another shape for {MLP}" in refused(changed(copied, shrink))


def test_weights_without_a_place_are_said_in_the_log(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    def add(weights: Weights) -> None:
        weights["model.layers.1.extra.weight"] = torch.ones(2)

    with caplog.at_level(logging.WARNING):
        load_lens(changed(copied, add))
    assert "holds model.layers.1.extra.weight, which the model has no place for" in caplog.text


def test_tied_weights_are_not_missing(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    lens = load_lens(changed(copied, lambda weights: weights.pop("lm_head.weight", None)))
    assert lens.hf.get_output_embeddings().weight is lens.hf.get_input_embeddings().weight


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "weights.pt", "../../elsewhere.safetensors"])
def test_an_index_that_names_anything_but_safetensors_is_refused_unread(copied: Path, shard: str) -> None:
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names {shard!r}: only safetensors" in refused(spec_of(copied))


def test_a_pickle_is_refused_however_deep_it_lies(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "p.bin")
    with no_pickles("model m"), pytest.raises(UserError, match="model m holds a pickle"):
        torch.load(tmp_path / "p.bin")
    assert torch.load(tmp_path / "p.bin"), "outside, nothing has changed"


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM
class TheirConfig(LlamaConfig):
    model_type = "theirs"
class TheirModel(LlamaForCausalLM):
    config_class = TheirConfig
"""


@pytest.fixture
def remote(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint whose architecture is a class in its own directory."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (copied / "theirs.py").write_text(REMOTE)
    config = json.loads((copied / "config.json").read_text())
    auto = {"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"}
    config |= {"model_type": "theirs", "architectures": ["TheirModel"], "auto_map": auto}
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def test_a_class_of_its_own_is_loaded_where_it_is_trusted(remote: Path, word_reasoner: Lens) -> None:
    lens = load_lens(spec_of(remote, trust_remote_code=True))
    assert type(lens.hf).__name__ == "TheirModel"
    ids = torch.arange(10)[None]
    assert torch.equal(lens.hf(ids).logits, word_reasoner.hf(ids).logits)


def test_a_class_of_its_own_is_refused_where_it_is_not(remote: Path) -> None:
    assert "brings its own code, which runs only with model.trust_remote_code=true" in refused(spec_of(remote))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "llama", "hidden_size": "many"}'),
        ("config.json", '{"model_type": "nothing-known"}'),
        ("config.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "\x00\x01"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_broken_files_end_in_one_line(copied: Path, file: str, content: str) -> None:
    (copied / file).write_text(content)
    assert "model theirs: " in refused(spec_of(copied))


def test_a_broken_tokenizer_alone(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="model theirs: cannot load"):
        load_tokenizer(spec_of(copied))


def test_gguf_files_of_one_name_and_size_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache goes by what a file holds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, seen = tmp_path / "m.gguf", []

    def unpack(*_: object, gguf_file: str, **__: object) -> None:
        seen.append(Path(tmp_path, gguf_file).read_bytes())
        raise ValueError("not a model")

    monkeypatch.setattr(interp.model.checkpoints.AutoModelForCausalLM, "from_pretrained", unpack)
    for content in (b"GGUF1", b"GGUF2"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot unpack .*: not a model"):
            interp.model.checkpoints.locate(ModelSpec("m", ModelSource.GGUF, str(file)))
    assert seen == [b"GGUF1", b"GGUF2"]
    key = interp.model.checkpoints.cache_of(file)
    key.mkdir(parents=True)
    assert interp.model.checkpoints.locate(ModelSpec("m", ModelSource.GGUF, str(file))) == str(key)
    file.write_bytes(b"GGUF1")
    assert interp.model.checkpoints.cache_of(file) != key
