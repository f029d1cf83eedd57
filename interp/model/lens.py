"""A model ready for measuring: Hugging Face's for speed, TransformerLens' bridge for hooks, one set of weights."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.errors import UserError, nearest
from interp.model.checkpoints import (
    CHECKPOINTS,
    ModelSource,
    ModelSpec,
    first_line,
    locate,
    missing_library,
    quantized_by,
    require_all_weights,
    require_known_quantization,
    require_safetensors,
    stored_bytes,
    without_progress_bars,
)
from interp.organisms.built import BUILT
from interp.safety import no_pickles
from interp.text.ends import note_ends
from interp.text.trace import ThinkMarkers

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

__all__ = [
    "CHECKPOINTS",
    "Lens",
    "ModelSource",
    "ModelSpec",
    "available_memory",
    "from_memory",
    "load_lens",
    "load_tokenizer",
    "locate",
    "without_progress_bars",
]

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FINGERPRINT_VALUES = 4096
"""How many evenly spaced values of each weight enter the fingerprint."""


@dataclass
class Lens:
    """A model, its tokenizer and its think markers.

    `hf` runs with fused attention where its architecture has it: generation and every measure. `bridge` shares its
    weights, runs with eager attention and carries TransformerLens' hooks; it is made when first asked for.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    markers: ThinkMarkers = field(default_factory=ThinkMarkers)
    checked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What comparisons with the model's own forward pass have found, by what was compared: see instrument.py."""

    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was found out about the model once: its parts, which engine is right at which length."""

    def __post_init__(self) -> None:
        self.attention = str(self.hf.config._attn_implementation)
        """The attention that the model runs with when nothing is measured: `sdpa`, or `eager` where it has no other."""

    @cached_property
    def bridge(self) -> TransformerBridge:
        """Raises UserError for architectures that TransformerLens does not know."""
        from transformer_lens.model_bridge import TransformerBridge  # seconds to import, and few runs need it

        # The bridge rewires the model that it is given, so it gets a copy of the modules around the same parameters.
        shared = copy.deepcopy(self.hf, {id(p): p for p in self.hf.parameters()})
        # It also reads the tokenizer again from where it came from, which one made in memory does not have.
        with TemporaryDirectory() as directory:
            try:
                self.tokenizer.save_pretrained(directory)
                tokenizer = AutoTokenizer.from_pretrained(directory)
                return TransformerBridge.boot_transformers(
                    self.name, hf_model=shared, tokenizer=tokenizer, dtype=self.hf.dtype
                )
            except Exception as error:
                raise UserError(
                    f"hooks of TransformerLens cannot be used on {self.name}: {type(self.hf).__name__}: "
                    f"{first_line(error)}"
                ) from error

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def config(self) -> Any:
        """The configuration of the language model, also where it is a part of a larger one."""
        return self.hf.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return shape_of(self.name, self.hf.config).n_layers

    @property
    def n_heads(self) -> int:
        """Raises UserError for architectures without attention heads."""
        return shape_of(self.name, self.hf.config).n_heads

    @property
    def n_tokens(self) -> int:
        """How many tokens have an embedding; a tokenizer may know more."""
        weight: Any = self.hf.get_input_embeddings().weight
        return int(weight.shape[0])

    def require_layer(self, layer: int, head: int | None = None) -> None:
        """Raises UserError if there is no such layer or head; both count from 0."""
        if not 0 <= layer < self.n_layers:
            raise UserError(f"layer {layer} is out of range: {self.name} has layers 0 to {self.n_layers - 1}")
        if head is not None and not 0 <= head < self.n_heads:
            raise UserError(f"head {head} is out of range: {self.name} has heads 0 to {self.n_heads - 1} in each layer")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration, the code that a checkpoint brings, and of every weight and kept buffer evenly
        spaced values and the sum of all bits: changes with any training step, and with any single value."""
        digest = hashlib.sha256(self.hf.config.to_json_string(use_diff=False).encode())
        for code in _own_code(type(self.hf)):
            digest.update(code)
        parameters = dict(self.hf.named_parameters())
        kept = {name for name in self.hf.state_dict() if name not in parameters}
        buffers = {name: buffer for name, buffer in self.hf.named_buffers() if name in kept}  # packed weights, biases
        everything = [*sorted(parameters.items()), *sorted(buffers.items())]
        for name, weight in (part for named in everything for part in _made_of(*named)):
            flat = weight.detach().flatten()
            values = flat[:: max(1, flat.numel() // FINGERPRINT_VALUES)].float().cpu().numpy()
            bits = int(flat.view(BITS[weight.element_size()]).sum(dtype=torch.int64))
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {bits}".encode() + values.tobytes())
        return digest.hexdigest()


def _made_of(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain tensors that one of another kind, such as a quantized weight, consists of."""
    parts = getattr(tensor, "__tensor_flatten__", None)
    if parts is None:
        yield name, tensor
        return
    for part in parts()[0]:
        yield from _made_of(f"{name}.{part}", getattr(tensor, part))


def _own_code(kind: type) -> Iterator[bytes]:
    """The files of code that came with a checkpoint and not with transformers."""
    if kind.__module__.startswith("transformers_modules"):
        for file in sorted(Path(inspect.getfile(kind)).parent.glob("*.py")):
            yield file.read_bytes()


def load_lens(spec: ModelSpec) -> Lens:
    """Loads a model and its tokenizer. Raises UserError, in one line, for whatever the user can mend."""
    device = device_of(spec.device)
    dtype = dtype_of(spec.dtype, device)
    if spec.source in BUILT:
        planted: Any
        planted, words = BUILT[spec.source]()
        if spec.untrained is not None:
            planted = _random_weights(planted.config, "sdpa", torch.float32, spec)
        return from_memory(spec.name, planted.to(dtype=dtype), words, spec.markers, device)
    directory = locate(spec)
    tokenizer = load_tokenizer(spec)
    with _loading(spec, directory):
        require_safetensors(spec.name, directory, spec.revision)
        config = AutoConfig.from_pretrained(directory, **_loading_options(spec))
        quantized = quantized_by(config)
        if spec.untrained is not None and quantized is not None:
            quantized = None
            del config.quantization_config
        require_known_quantization(spec.name, config)
        empty = _without_weights(config, spec)
        if quantized is None:
            _require_memory(spec.name, sum(p.numel() for p in empty.parameters()) * dtype.itemsize, str(dtype), device)
        elif (stored := stored_bytes(directory, spec.revision)) is not None:
            _require_memory(spec.name, stored, f"{quantized} form", device)
        if spec.untrained is not None:
            fresh = _random_weights(config, empty.config._attn_implementation, dtype, spec)
            return _ready(spec.name, fresh, tokenizer, spec.markers, device)
        # Quantized weights are put where they belong as they are read, and many cannot be moved again.
        where = spec.device_map or ({"": device} if quantized is not None else None)
        placement = {} if where is None else {"device_map": where}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                use_safetensors=True,
                attn_implementation=empty.config._attn_implementation,
                ignore_mismatched_sizes=True,  # refused below, with their names
                output_loading_info=True,
                **_loading_options(spec),
                **placement,
            )
        except ImportError as error:
            raise (error if quantized is None else missing_library(spec.name, config, error)) from error
        model, info = loaded  # asked for both
        require_all_weights(spec.name, info)
    return _ready(spec.name, model, tokenizer, spec.markers, None if placement else device)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer alone. Raises UserError as `load_lens`."""
    if spec.source in BUILT:
        return load_lens(spec).tokenizer
    directory = locate(spec)
    with _loading(spec, directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", **_loading_options(spec))
        with suppress(OSError):  # not every checkpoint has one
            note_ends(
                tokenizer, GenerationConfig.from_pretrained(directory, revision=spec.revision or "main").eos_token_id
            )
        return tokenizer


@contextmanager
def _loading(spec: ModelSpec, directory: str) -> Iterator[None]:
    """No pickles, no progress bars, and one line for whatever a checkpoint makes the libraries stumble over."""
    try:
        with without_progress_bars(), no_pickles(f"model {spec.name}"):
            yield
    except UserError:
        raise
    except Exception as error:
        if not spec.trust_remote_code and "trust_remote_code" in str(error):
            raise UserError(
                f"model {spec.name}: {directory} brings its own code, which runs only with model.trust_remote_code=true"
            ) from error
        raise UserError(f"model {spec.name}: cannot load {directory}: {first_line(error)}") from error


@dataclass(frozen=True)
class Shape:
    """What a configuration says of a model, before its weights are there."""

    name: str
    n_layers: int
    architecture: str
    heads: int | None

    @property
    def n_heads(self) -> int:
        """Raises UserError for architectures without attention heads."""
        if self.heads is None or self.heads < 1:
            raise UserError(f"{self.name} has no attention heads: {self.architecture} cannot be measured")
        return self.heads


def shape_of(name: str, config: Any) -> Shape:
    """The shape of the language model, also where it is a part of a larger one."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    architecture = (config.architectures or [config.model_type])[0]
    return Shape(name, int(text.num_hidden_layers), architecture, heads if isinstance(heads, int) else None)


def load_config(spec: ModelSpec) -> PretrainedConfig:
    """The configuration alone, without the weights. Raises UserError as `load_lens`."""
    if spec.source in BUILT:
        return load_lens(spec).hf.config
    directory = locate(spec)
    with _loading(spec, directory):
        return AutoConfig.from_pretrained(directory, **_loading_options(spec))


def _loading_options(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


def _without_weights(config: Any, spec: ModelSpec) -> PreTrainedModel:
    """The model's modules alone, with fused attention where the architecture has it, else with its own way."""
    for implementation in ("sdpa", "eager"):
        try:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(
                    config, attn_implementation=implementation, trust_remote_code=spec.trust_remote_code
                )
        except ValueError as error:
            if implementation == "eager" or "attention implementation" not in str(error):
                raise
    raise AssertionError("the last way returns or raises")


def _random_weights(config: Any, attention: str, dtype: torch.dtype, spec: ModelSpec) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(spec.untrained)
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=dtype, trust_remote_code=spec.trust_remote_code
        )


def from_memory(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    markers: ThinkMarkers | None = None,
    device: torch.device | None = None,
) -> Lens:
    """A lens on a model that is already in memory. The model is switched to evaluation mode, and to fused attention
    where its architecture has it."""
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:
        model.set_attn_implementation("eager")
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
    if model.generation_config is not None:
        note_ends(tokenizer, model.generation_config.eos_token_id)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Lens(name, model.eval().requires_grad_(False), tokenizer, markers)


def device_of(device: str) -> torch.device:
    """The device of a name; auto = a GPU where there is one. Raises UserError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return resolved


def dtype_of(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of a name; auto = float32 on a CPU. Raises UserError for one that is not known."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in known:
        raise UserError(f"unknown model.dtype {dtype!r}; {nearest(dtype, known)}")
    return known[dtype]


def _require_memory(name: str, needed: int, form: str, device: torch.device) -> None:
    """Raises UserError if the weights alone would not fit."""
    free = available_memory(device)
    if needed > free:
        remedy = "use model.dtype=bfloat16, " if form.startswith("torch") else "use "
        raise UserError(
            f"model {name} needs {needed / 2**30:.1f} GiB for its weights in {form}, {free / 2**30:.1f} GiB are free: "
            f"{remedy}a machine with more memory or model.device_map=auto"
        )


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device (over all GPUs for CUDA)."""
    if device.type == "cuda":
        return sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return int(psutil.virtual_memory().available)
