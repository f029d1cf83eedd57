"""What every experiment gets: the options, the model, the data and the run's directory, made when first asked for."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from interp.datasets import (
    Question,
    TraceText,
    planted_questions,
    read_questions,
    read_traces,
    word_problem_questions,
)
from interp.errors import UserError
from interp.generate import Sampling
from interp.instrument import check_instrument
from interp.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.organisms.word_problems import Split
from interp.prompts import PromptStyle
from interp.store import Identity, RunStore
from interp.trace import ThinkMarkers

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "transformers",
    "transformer_lens",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "hydra-core",
)
RESUMABLE = ("resume", "dry_run", "progress")
"""Options that may differ between a run and its continuation."""

T = TypeVar("T")


@dataclass(frozen=True)
class DataOptions:
    """One file of conf/data/; which fields matter depends on `kind`."""

    name: str
    kind: str
    path: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    split: str = Split.HELD_OUT.value
    seed: int = 0
    limit: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class ModelOptions:
    """One file of conf/model/: see conf/model/base.yaml."""

    name: str
    source: str
    path: str | None = None
    package: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    markers: ThinkMarkers = field(default_factory=ThinkMarkers)
    prompt: PromptStyle = field(default_factory=PromptStyle)
    max_new_tokens: int = 1024
    reasons: bool = True


@dataclass(frozen=True)
class RunOptions:
    """The options of conf/config.yaml outside its groups."""

    seed: int = 0
    dry_run: bool = False
    resume: str | None = None
    progress: bool = True
    threads: int | None = None


@dataclass(frozen=True)
class GenerationOptions(Sampling):
    """The `generation` part of conf/config.yaml."""

    batch: int = 16


def typed(kind: type[T], node: DictConfig, where: str) -> T:
    """The options of a group as a dataclass. A missing, unknown or ill-typed one is a UserError that names it."""
    path = f"{where}." if where else ""
    try:
        schema = OmegaConf.structured(kind)
        _make_writable(schema)  # frozen dataclasses make read-only nodes
        return cast(T, OmegaConf.to_object(OmegaConf.merge(schema, _plain(node, kind))))
    except MissingMandatoryValue as error:
        raise UserError(f"{path}{error.full_key} must be set") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}{error.full_key or where}: {str(error).splitlines()[0]}") from error


@dataclass
class Session:
    """One run of one experiment."""

    cfg: DictConfig
    directory: Path

    @property
    def seed(self) -> int:
        return int(self.cfg.seed)

    @cached_property
    def lens(self) -> Lens:
        model = typed(ModelOptions, self.cfg.model, "model")
        log.info("loading %s", model.name)
        names = [name for name in ModelSpec.__dataclass_fields__ if name != "source"]
        return load_lens(
            ModelSpec(
                source=choice(ModelSource, model.source, "model.source"),
                **{name: getattr(model, name) for name in names},
            )
        )

    @cached_property
    def prompt_style(self) -> PromptStyle:
        return typed(ModelOptions, self.cfg.model, "model").prompt

    @cached_property
    def generation(self) -> GenerationOptions:
        return typed(GenerationOptions, self.cfg.generation, "generation")

    @cached_property
    def data_options(self) -> DataOptions:
        return typed(DataOptions, self.cfg.data, "data")

    @cached_property
    def given(self) -> list[TraceText] | None:
        """The given traces; None if the model is to generate them from `questions`."""
        options = self.data_options
        if options.kind != "traces":
            return None
        traces = list(read_traces(self._data_file(), options.where))
        if not traces:
            raise UserError(f"{options.path} has no trace with {options.where or 'text'}: change data.where")
        return traces

    @cached_property
    def questions(self) -> list[Question]:
        """What the model is asked."""
        options = self.data_options
        if options.kind == "questions":
            return read_questions(self._data_file(), options.limit)
        if options.limit is None:
            raise UserError("data.limit must be set: the problems never end")
        match options.kind:
            case "word_problems":
                return word_problem_questions(options.seed, choice(Split, options.split, "data.split"), options.limit)
            case "planted":
                return planted_questions(options.seed, options.limit)
            case _:
                raise UserError(f"unknown data.kind {options.kind!r}; known: word_problems, planted, questions, traces")

    @property
    def n_examples(self) -> int:
        """Number of examples in the data, those that will be left out included."""
        return len(self.questions if self.given is None else self.given)

    def _data_file(self) -> Path:
        if self.data_options.path is None:
            raise UserError("data.path must be set to a file")
        return Path(self.data_options.path).expanduser()

    @cached_property
    def store(self) -> RunStore:
        """The run's directory with its environment.json; on resume, checked against the options of the first run."""
        cfg = self.cfg
        identity = Identity(cfg.experiment.name, cfg.model.name, cfg.data.name, self.seed)
        resume = cfg.resume is not None
        store = RunStore(self.directory, identity, resume=resume)
        if resume:
            before = store.environment()
            changed = sorted(_differences(before["options"], json.loads(json.dumps(self._options()))))
            if changed:
                raise UserError(
                    f"cannot resume {self.directory}: {', '.join(changed)} differs from the run's own options"
                )
        return store

    def _options(self) -> dict[str, Any]:
        """All options that decide the results."""
        options = cast(dict[str, Any], OmegaConf.to_container(self.cfg, resolve=True))
        return {name: value for name, value in options.items() if name not in RESUMABLE}

    def describe_environment(self, with_model: bool = True) -> None:
        """Writes environment.json; on resume, checks that the model is still the same one instead."""
        model = {"name": self.lens.name, "fingerprint": self.lens.fingerprint} if with_model else None
        if self.cfg.resume is not None:
            if model and self.store.environment()["model"]["fingerprint"] != model["fingerprint"]:
                raise UserError(f"cannot resume {self.directory}: the weights of {self.lens.name} have changed")
            return
        self.store.write_environment(
            {
                "command": " ".join(["python", "-m", "experiments.run", *sys.argv[1:]]),
                "options": self._options(),
                "seed": self.seed,
                "model": model,
                "instrument": check_instrument(self.lens) if with_model else None,
                "device": str(self.lens.device) if with_model else None,
                "dtype": str(self.lens.hf.dtype) if with_model else None,
                "threads": torch.get_num_threads(),
                "git_commit": git_commit(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "versions": {name: _version(name) for name in PACKAGES},
            }
        )

    def close(self) -> None:
        """Gives the run's directory free."""
        if "store" in self.__dict__:
            self.store.close()

    def bar(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items, with a progress bar unless progress=false."""
        yield from tqdm(items, desc=what, total=total, disable=not self.cfg.progress, leave=False)


def _plain(node: DictConfig, kind: Any) -> dict[str, Any]:
    """The node's values; at the top of the configuration, only those that `kind` has."""
    values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    known = {f.name for f in fields(kind)} if node._get_parent() is None else values
    return {name: value for name, value in values.items() if name in known}


def _make_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _make_writable(node[key])


def git_commit() -> str | None:
    """Commit of the code, with `+changes` if the working tree differs from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def choice(kind: Any, value: str, option: str) -> Any:
    """A member of an enum by its value, or a UserError that lists them."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{option}={value} is not known: use {', '.join(kind)}") from error


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif before != now:
        yield path
