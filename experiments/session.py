"""What every experiment gets: the options, the model, the data and the run's directory, made when first asked for."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.data import DataOptions, given_traces, questions
from experiments.options import choice, typed
from interp.answers import Grading
from interp.datasets import Question, TraceText
from interp.errors import UserError
from interp.figures.redraw import redraw
from interp.generate import Backend, Generator, HuggingFaceGenerator, Sampling
from interp.grading import AnswerFormat
from interp.instrument import check_instrument
from interp.lens import Lens, ModelSource, ModelSpec, load_lens, load_tokenizer
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
RESUMABLE = ("resume", "dry_run", "progress", "figures")
"""Options that may differ between a run and its continuation."""

T = TypeVar("T")


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
    threads: int | None = None
    max_new_tokens: int = 1024
    reasons: bool = True


@dataclass(frozen=True)
class RunOptions:
    """The options of conf/config.yaml outside its groups."""

    seed: int = 0
    dry_run: bool = False
    resume: str | None = None
    progress: bool = True
    figures: bool = True
    threads: int | None = None


@dataclass(frozen=True)
class GenerationOptions(Sampling):
    """The `generation` part of conf/config.yaml."""

    batch: int = 16
    backend: str = Backend.HUGGING_FACE.value


@dataclass(frozen=True)
class GradingOptions:
    """The `grading` part of conf/config.yaml."""

    where: str = AnswerFormat.STATED.value
    seconds: float = 5.0


@dataclass
class Session:
    """One run of one experiment."""

    cfg: DictConfig
    directory: Path

    @property
    def seed(self) -> int:
        return int(self.cfg.seed)

    @cached_property
    def model_options(self) -> ModelOptions:
        return typed(ModelOptions, self.cfg.model, "model")

    @cached_property
    def model_spec(self) -> ModelSpec:
        """What `lens` is loaded from."""
        model = self.model_options
        names = [name for name in ModelSpec.__dataclass_fields__ if name != "source"]
        source = choice(ModelSource, model.source, "model.source")
        return ModelSpec(source=source, **{name: getattr(model, name) for name in names})

    @cached_property
    def lens(self) -> Lens:
        log.info("loading %s", self.model_spec.name)
        return load_lens(self.model_spec)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, without loading the model where generation runs elsewhere."""
        return self.lens.tokenizer if self.backend is Backend.HUGGING_FACE else load_tokenizer(self.model_spec)

    @property
    def backend(self) -> Backend:
        return Backend(choice(Backend, self.generation.backend, "generation.backend"))

    @cached_property
    def generator(self) -> Generator:
        """What continues prompts."""
        if self.backend is Backend.HUGGING_FACE:
            return HuggingFaceGenerator(self.lens)
        from interp.vllm_backend import VllmGenerator  # an optional package

        return VllmGenerator(self.model_spec, self.tokenizer)

    @cached_property
    def grading(self) -> Grading:
        options = typed(GradingOptions, self.cfg.grading, "grading")
        if options.seconds <= 0:
            raise UserError(f"grading.seconds={options.seconds} must be positive")
        where = choice(AnswerFormat, options.where, "grading.where")
        return Grading(self.model_options.markers, where, options.seconds)

    @property
    def prompt_style(self) -> PromptStyle:
        return self.model_options.prompt

    @cached_property
    def generation(self) -> GenerationOptions:
        return typed(GenerationOptions, self.cfg.generation, "generation")

    @cached_property
    def data_options(self) -> DataOptions:
        return typed(DataOptions, self.cfg.data, "data")

    @cached_property
    def given(self) -> list[TraceText] | None:
        """The given traces; None if the model is to generate them from `questions`."""
        return given_traces(self.data_options)

    @cached_property
    def questions(self) -> list[Question]:
        """What the model is asked."""
        return questions(self.data_options)

    @property
    def golds(self) -> dict[str, str | None]:
        """Each example's right answer, where one is known."""
        known = self.questions if self.given is None else self.given
        return {item.id: item.gold for item in known}

    @property
    def n_examples(self) -> int:
        """Number of questions, or of given traces to measure at the most: more may be looked at and left out."""
        if self.given is None:
            return len(self.questions)
        return min(len(self.given), self.data_options.limit or len(self.given))

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

    def draw(self, facts: Mapping[str, Any]) -> None:
        """Draws the run's figures from its tables and the content of its summary, unless figures=false."""
        if self.cfg.figures:
            redraw(self.cfg.experiment.name, self.store.table, facts, self.directory / "figures")

    def close(self) -> None:
        """Notes what the instrument has found on the sequences measured, and gives the run's directory free."""
        if "store" in self.__dict__:
            if "lens" in self.__dict__:
                self.store.note_instrument(self.lens.checked)
            self.store.close()

    def bar(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items, with a progress bar unless progress=false."""
        yield from tqdm(items, desc=what, total=total, disable=not self.cfg.progress, leave=False)


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


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif before != now:
        yield path
