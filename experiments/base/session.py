"""What every experiment gets: the options, the model, the data and the run's directory, made when first asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.base.data import CONTRAST, TRACES, ContrastOptions, DataOptions, given_traces, questions
from experiments.base.environment import check_same
from experiments.base.generated import folder_of
from experiments.base.options import Options, plain, typed
from experiments.base.run_options import GenerationOptions, GradingOptions, ModelOptions, RunOptions, SamplingOptions
from experiments.base.share import Batches, Share
from experiments.base.tracking import require_tracker
from interp.data.examples import Question, TraceText
from interp.data.input_check import InputNotes
from interp.errors import UserError
from interp.grading.responses import Grading
from interp.model.checkpoints import quantized_by
from interp.model.generate import Backend, Generator, HuggingFaceGenerator
from interp.model.kept import KeptGenerator
from interp.model.lens import Lens, ModelSpec, Shape, load_config, load_lens, load_tokenizer, shape_of
from interp.model.untrained import UNTRAINED, looks_untrained
from interp.runs.finished import GIVEN_TEXTS, SEVERAL, measured_in
from interp.runs.names import data_label
from interp.runs.store import Identity, RunStore
from interp.text.prompts import PromptStyle

log = logging.getLogger(__name__)

PARTS = ("generation", "grading")
"""Groups that every experiment has beside its experiment, model and data."""
OWNER = ".run"
"""File in a folder that a library fills: which run made it."""

T = TypeVar("T")
O = TypeVar("O", bound=Options)  # noqa: E741 - options


@dataclass
class Session:
    """One run of one experiment."""

    cfg: DictConfig
    directory: Path
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the functions of an experiment share while it runs."""
    share: Share | None = None
    """What this process does, if it is a worker."""

    def owns(self, unit: int) -> bool:
        """Whether this process is to make the unit-th batch of examples, or the unit-th step of its stage."""
        return self.share is None or unit in self.share.units

    @property
    def seed(self) -> int:
        return self.run_options.seed

    @cached_property
    def run_options(self) -> RunOptions:
        return typed(RunOptions, _outside_groups(self.cfg), "")

    @cached_property
    def model_options(self) -> ModelOptions:
        return typed(ModelOptions, self.cfg.model, "model")

    @cached_property
    def model_spec(self) -> ModelSpec:
        """What `lens` is loaded from."""
        model = self.model_options
        names = [name for name in ModelSpec.__dataclass_fields__ if name != "name"]
        return ModelSpec(model.label, **{name: getattr(model, name) for name in names})

    @cached_property
    def lens(self) -> Lens:
        self.input  # noqa: B018 - wrong input is refused before the weights are loaded
        self._check_quantized()
        log.info("loading %s", self.model_spec.name)
        lens = load_lens(self.model_spec)
        if self.model_options.untrained is not None or looks_untrained(lens.hf):
            log.warning("%s", UNTRAINED)
        return lens

    def _check_quantized(self) -> None:
        """Raises UserError for a quantized model that is to be trained."""
        if self._record.changes_model and (how := quantized_by(load_config(self.model_spec))) is not None:
            raise UserError(f"model {self.model_spec.name} is quantized ({how}): it can be measured, not trained")

    @cached_property
    def _record(self) -> Any:
        # By its name: the records of experiments need the session.
        return import_module("experiments.base.experiment").experiment(self.cfg.experiment.name)

    @cached_property
    def shape(self) -> Shape:
        """How many layers and heads the model has, known before its weights are loaded."""
        return shape_of(self.model_spec.name, load_config(self.model_spec))

    @cached_property
    def input(self) -> InputNotes | None:
        """What the input looks like to the model; what is odd about it has been said. None without data."""
        # By its name: what it looks at are also pairs, which are made in a session.
        notes: InputNotes | None = import_module("experiments.base.input").look_at_input(self)
        for warning in notes.warnings if notes else ():
            log.warning("%s", warning)
        return notes

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, without loading the model where generation runs elsewhere."""
        return self.lens.tokenizer if self.backend == Backend.HUGGING_FACE else load_tokenizer(self.model_spec)

    @property
    def backend(self) -> Backend:
        return self.generation.backend

    @cached_property
    def generator(self) -> Generator:
        """What continues prompts."""
        if self.backend == Backend.HUGGING_FACE:
            if self.generated is None:
                return HuggingFaceGenerator(self.lens)
            by = {name: self.store.environment().get(name) for name in ("command", "run", "git_commit")}
            return KeptGenerator(self.lens, self.generated, asdict(self.identity), by)
        self.input  # noqa: B018 - as before loading a lens
        from interp.model.vllm import VllmGenerator  # an optional package

        return VllmGenerator(self.model_spec, self.tokenizer)

    @property
    def engine(self) -> Generator | None:
        """What writes rollouts in place of the model that is measured; None = that model, on shared keys and values."""
        return None if self.backend == Backend.HUGGING_FACE else self.generator

    @cached_property
    def generated(self) -> Path | None:
        """The folder in which responses are kept for other runs too; None = they are not."""
        if self.run_options.dry_run or self._record.changes_model:
            return None
        return folder_of(self.run_options.generated, self.directory)

    @cached_property
    def grading(self) -> Grading:
        options = typed(GradingOptions, self.cfg.grading, "grading")
        return Grading(self.model_options.markers, options.where, options.seconds)

    @property
    def prompt_style(self) -> PromptStyle:
        return self.model_options.prompt

    @cached_property
    def generation(self) -> GenerationOptions:
        sampling = typed(SamplingOptions, self.cfg.generation, "generation")
        thought = self.model_options.thought_rule()
        if thought is not None and sampling.backend != Backend.HUGGING_FACE:
            raise UserError(
                f"generation.backend={sampling.backend} cannot close thoughts: set model.thought.tokens=null"
            )
        if thought is not None and thought.tokens >= sampling.max_new_tokens:
            raise UserError(
                f"model.thought.tokens={thought.tokens} leaves no room for an answer within "
                f"generation.max_new_tokens={sampling.max_new_tokens}"
            )
        return GenerationOptions(**dict(sampling), thought=thought)

    @cached_property
    def data_options(self) -> DataOptions:
        if self.cfg.data.get("kind") == CONTRAST:
            raise UserError(f"data={self.cfg.data.name} has contrast pairs, which only experiment=patching measures")
        return typed(DataOptions, self.cfg.data, "data")

    def options_of(self, kind: type[O]) -> O:
        """The experiment's own options."""
        return typed(kind, self.cfg.experiment, "experiment")

    def check_options(self, kind: type[Options]) -> None:
        """Raises UserError for the first wrong option of the run, whose experiment has options of this kind.

        Nothing is read or loaded for it.
        """
        if self.run_options.track is not None:
            require_tracker(self.run_options.track)
        self.options_of(kind)
        _ = self.model_spec, self.generation, self.grading, self.generated
        if self.cfg.data.get("kind") == CONTRAST:
            typed(ContrastOptions, self.cfg.data, "data")
        else:
            _ = self.data_options

    @property
    def has_texts(self) -> bool:
        """Whether the traces are given, known before they are read."""
        return bool(self.cfg.data.kind == TRACES)

    @cached_property
    def given(self) -> list[TraceText] | None:
        """The given traces; None if the model is to generate them from `questions`."""
        return given_traces(self.data_options, self.model_options.markers)

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

    @property
    def batches(self) -> Batches:
        """How the examples are made: responses side by side, given traces one by one."""
        if self.given is None:
            return Batches(len(self.questions), self.generation.batch, len(self.questions))
        return Batches(len(self.given), 1, self.n_examples)

    @property
    def identity(self) -> Identity:
        """What every row of every table says. An experiment that reads finished runs says what one of these measured;
        the model of given texts that no model reads is not known."""
        model = self.model_options.label
        data = data_label(self.cfg.data.name, self.cfg.data.get("scrambled"))
        if self._record.reads is not None:
            model, data = measured_in(self.cfg.run) if self._record.reads == "run" else (SEVERAL, SEVERAL)
        elif self.has_texts and not self._record.needs_model(self):
            model = GIVEN_TEXTS
        return Identity(self.cfg.experiment.name, model, data, self.seed)

    @cached_property
    def store(self) -> RunStore:
        """The run's directory, locked; on resume, checked against the options and threads of the first run."""
        cfg = self.cfg
        store = RunStore(self.directory, self.identity, resume=cfg.resume is not None)
        if cfg.resume is not None:
            try:
                check_same(self, store.environment(), f"cannot resume {self.directory}")
            except BaseException:
                store.close()
                raise
        return store

    @cached_property
    def input_digest(self) -> str | None:
        """What tells the run's questions or traces from others."""
        found: str | None = import_module("experiments.base.input").input_digest(self)  # by its name, as above
        return found

    def own_folder(self, name: str) -> Path:
        """A folder of the run's directory for files that a library writes, such as checkpoints.

        Raises UserError for one that was not made by this run: nothing in it is used or removed.
        """
        folder, mark = self.directory / name, self.store.environment()["run"]
        folder.mkdir(exist_ok=True)
        if not any(folder.iterdir()):
            (folder / OWNER).write_text(mark)
        if not (folder / OWNER).is_file() or (folder / OWNER).read_text(errors="replace") != mark:
            raise UserError(f"{folder} was not made by this run: move it away to go on")
        return folder

    def close(self) -> None:
        """Notes what the instrument has found on the sequences measured, and gives the run's directory free."""
        if "store" in self.__dict__:
            if "lens" in self.__dict__:
                self.store.note_instrument(self.lens.checked)
            self.store.close()

    def bar(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items, with a progress bar unless progress=false."""
        yield from tqdm(items, desc=what, total=total, disable=not self.cfg.progress, leave=False)


def _outside_groups(cfg: DictConfig) -> dict[str, Any]:
    """What stands in conf/config.yaml itself; groups are checked by themselves."""
    groups = ("experiment", "model", "data", "study", *PARTS)
    return {name: value for name, value in plain(cfg, "").items() if name not in groups}


@contextmanager
def warned(what: str, remedy: str = "") -> Iterator[None]:
    """For what comes after the measuring: an error there is a warning, and the run goes on to its end."""
    try:
        yield
    except Exception as error:
        log.warning("could not %s (%s: %s)%s", what, type(error).__name__, error, remedy)
        log.debug("where it went wrong", exc_info=True)
