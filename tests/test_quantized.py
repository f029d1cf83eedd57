"""Quantized checkpoints: loaded by transformers, measured as they are, refused in one line where they cannot be."""

from __future__ import annotations

import json
import shutil
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.front.models import check
from interp.model.checkpoints import CHECKPOINTS, ModelSource, ModelSpec, stored_bytes
from interp.model.lens import Lens, load_lens
from interp.model.sites import Site
from interp.model.unembedding import last_logits
from interp.patching.attribution import attributions
from interp.patching.backward import GRADIENTS
from interp.patching.edges import require_edges
from interp.patching.exact import record
from interp.patching.nld import Answers
from tests.command import run
from tests.conftest import ARCHITECTURES, random_lens

BLOCK = 8
FP8 = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
IDS = [3 + (i * 37) % 90 for i in range(24)]


def saved(lens: Lens, directory: Path, quantization: dict[str, Any]) -> ModelSpec:
    lens.hf.save_pretrained(directory)
    lens.tokenizer.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return ModelSpec("theirs", ModelSource.PRETRAINED, str(directory))


def in_blocks(weight: Tensor) -> Tensor:
    """(block row, block column, row, column)"""
    rows, columns = weight.shape
    return weight.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).transpose(1, 2)


def in_eight_bits(directory: Path, lens: Lens) -> None:
    """Writes the matrices of the layers as float8 with a scale a block, and puts what they then are into the lens."""
    weights, changed = load_file(directory / "model.safetensors"), {}
    for name, weight in weights.items():
        if "proj" not in name or weight.dim() != 2:
            changed[name] = weight
            continue
        scale = in_blocks(weight).abs().amax((2, 3)) / 448
        spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        changed[name] = (weight / spread).to(torch.float8_e4m3fn)
        changed[f"{name}_scale_inv"] = scale
        lens.hf.get_parameter(name).copy_(changed[name].float() * spread)
    save_file(changed, directory / "model.safetensors", {"format": "pt"})


def test_fingerprints_see_what_tensors_of_another_kind_consist_of(words: PreTrainedTokenizerBase) -> None:
    """As torchao's quantized weights, which are numbers and scales."""
    lenses = [random_lens(ARCHITECTURES["llama-gqa"], words) for _ in range(3)]
    for lens, scale in zip(lenses, (1.0, 1.0, 1.5), strict=True):
        head = lens.hf.get_output_embeddings()
        own = head.weight.detach()
        head.weight = nn.Parameter(TwoTensor(own, torch.full_like(own, scale)), requires_grad=False)
    assert lenses[0].fingerprint == lenses[1].fingerprint != lenses[2].fingerprint


def test_a_quantized_checkpoint_that_does_not_fit_is_refused_before_it_is_loaded(
    words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = saved(random_lens(ARCHITECTURES["llama-gqa"], words), tmp_path, FP8)
    monkeypatch.setattr("interp.model.lens.available_memory", lambda _: 1000)
    with pytest.raises(UserError, match=r"for its weights in fp8 form, 0\.0 GiB are free"):
        load_lens(spec)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_quantized_checkpoint_of_the_hub_that_does_not_fit_is_refused_before_it_is_fetched(
    indexed: bool, words: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is served as the hub would serve it."""
    saved(random_lens(ARCHITECTURES["llama-gqa"], words), tmp_path / "org" / "theirs" / "resolve" / "main", FP8)
    weights = tmp_path / "org" / "theirs" / "resolve" / "main" / "model.safetensors"
    size = weights.stat().st_size
    if indexed:
        second = weights.with_name("second.safetensors")
        second.write_bytes(bytes(1000))
        size += 1000
        index = {"weight_map": {"any": weights.name, "same": weights.name, "other": second.name}}
        weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))
    fetched = []

    class Hub(SimpleHTTPRequestHandler):
        def __init__(self, *of: Any) -> None:
            super().__init__(*of, directory=str(tmp_path))

        def do_GET(self) -> None:
            fetched.append(Path(self.path).name)
            super().do_GET()

        def end_headers(self) -> None:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{Path(self.path).name}"')
            super().end_headers()

        def log_message(self, *said: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        address = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        assert stored_bytes("org/theirs") == size
        assert stored_bytes("org/nobody") is None
        server.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a hub that is not there is asked again and again
    assert stored_bytes("org/others") is None
    assert not [name for name in fetched if name.endswith(".safetensors")]


@pytest.mark.parametrize("name", ["llama-gqa", "qwen2-gqa"])
def test_a_quantized_checkpoint_is_measured_as_what_it_holds(
    name: str, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    plain = random_lens(ARCHITECTURES[name], words)
    before = last_logits(plain, torch.tensor([IDS]))
    spec = saved(plain, tmp_path, FP8)
    in_eight_bits(tmp_path, plain)
    lens = load_lens(spec)
    logits, expected = (last_logits(one, torch.tensor([IDS])) for one in (lens, plain))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, before, atol=1e-3)
    found = check(lens)
    assert not [measure for measure, said in found.items() if "refused" in said]


@pytest.mark.parametrize(
    ("quantization", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "torchao", "quant_type": {"default": "int8_weight_only"}}, "torchao"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_missing_library_is_named(
    quantization: dict[str, Any], package: str, words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    spec = saved(random_lens(ARCHITECTURES["llama"], words), tmp_path, quantization)
    with pytest.raises(UserError) as raised:
        load_lens(spec)
    said = str(raised.value)
    assert said.startswith(f"model theirs is quantized ({quantization['quant_method']}): ")
    assert package in said
    assert "pip install" in said
    assert "\n" not in said


def test_a_method_that_nobody_knows_is_refused(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    spec = saved(random_lens(ARCHITECTURES["llama"], words), tmp_path, {"quant_method": "three_bits"})
    with pytest.raises(UserError, match=r"three_bits.*does not know"):
        load_lens(spec)


def test_random_weights_of_its_shape_are_not_quantized(words: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    lens = random_lens(ARCHITECTURES["llama"], words)
    spec = saved(lens, tmp_path, {"quant_method": "gptq", "bits": 4})
    fresh = load_lens(ModelSpec(**{**vars(spec), "untrained": 0}))
    assert fresh.hf.num_parameters() == lens.hf.num_parameters()
    assert {p.dtype for p in fresh.hf.parameters()} == {torch.float32}


class Kernel(nn.Module):
    """A matrix whose kernel knows no derivative, as those of some quantized formats."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden).detach()  # type: ignore[no-any-return]


def test_where_gradients_stop_attribution_refuses_itself(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(ARCHITECTURES["llama"], words)
    mlp = lens.hf.model.layers[1].mlp
    mlp.down_proj = Kernel(mlp.down_proj)
    runs = [record(lens, [1, *IDS[start : start + 12]], list(Site)) for start in (0, 8)]
    answers = Answers(runs[1].logits, runs[0].logits, 5, 7)
    with pytest.raises(UserError, match=r"gradients stop at layers.1.mlp.down_proj of random"):
        attributions(lens, *runs, answers, [Site.RESID_PRE], range(4))
    assert "refused" in lens.checked[GRADIENTS]


def test_edges_need_weights_that_can_be_multiplied(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(ARCHITECTURES["llama"], words)
    require_edges(lens)
    projection = lens.hf.model.layers[2].self_attn.o_proj
    projection.weight = nn.Parameter(projection.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(UserError, match="edges of random cannot be patched: its matrices are quantized"):
        require_edges(lens)


def test_a_quantized_model_is_not_trained(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "reasoner-early", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": FP8}))
    model = [
        "model=reasoner-early",
        "data=word_problems",
        "model.source=pretrained",
        f"model.path={tmp_path / 'model'}",
    ]
    done = run("experiment=credit", *model, f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "is quantized (fp8): it can be measured, not trained" in done.stderr
