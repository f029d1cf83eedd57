"""Checkpoints of a training that hold no pickle: tensors as safetensors, everything else as JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import UserError
from interp.runs.columns import FLOAT, INT, TEXT, Column, Table, ends

TRAINING_TABLE = Table(
    "training",
    Column("step", INT, "optimizer steps done"),
    Column(
        "measure",
        TEXT,
        "what was measured: `accuracy` and the like on held-out problems; in `credit` also of the step's own "
        "responses `reward` (0..1), `entropy` (nats), `length` (tokens), `groups_without_signal` (0..1: all "
        "responses right or all wrong), `credited_share` (0..1: tokens whose advantage gamma changed), "
        "`gradient_norm`; of the tokens of responses with an advantage, where *credited* are those with more than the "
        "least gamma of their response, `credited_position` (mean place of credited ones, 0..1), `credited_entropy` "
        "and `credited_advantage` (0..1: their share of the entropy, and of the sum of the advantages' absolute values "
        "after gamma), "
        "`effective_tokens` (0..1: (sum gamma)^2 / sum gamma^2, as a share of the tokens); `gradient_cosine` (-1..1: "
        "of the credited gradient and plain GRPO's; at the steps at which it is measured), and `local_heads_kept`, "
        "`global_heads_kept` (0..1: Jaccard overlap with the first ranking, at steps that rank heads again)",
    ),
    Column("value", FLOAT, "its value"),
    Column("n", INT, "number of problems or responses behind it"),
    *ends("", "the 95 % interval", null="n < 2, or no interval is made"),
)


if TYPE_CHECKING:
    from transformers import Trainer

    Base = Trainer
else:
    Base = object

OPTIMIZER, RNG = "optimizer", "rng"
PICKLED_ARGUMENTS = "training_args.bin"


def save_state(state: Any, directory: Path, name: str) -> None:
    """Writes nested dictionaries, lists and tuples of numbers, texts, tensors and arrays as NAME.json and
    NAME.safetensors. The JSON file is written last: without it the state is not whole."""
    tensors: dict[str, Tensor] = {}
    tree = _encoded(state, tensors)
    save_file(tensors, directory / f"{name}.safetensors")
    (directory / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")


def load_state(directory: Path, name: str) -> Any:
    """What `save_state` wrote, with the same types. Raises UserError for files that are missing or broken."""
    try:
        tree = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        return _decoded(tree, load_file(directory / f"{name}.safetensors"))
    except Exception as error:  # whatever a file that was cut short makes the libraries stumble over
        raise UserError(f"cannot read the state of the training in {directory}: {error}") from error


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        key = str(len(tensors))
        kind = "tensor" if isinstance(value, Tensor) else "array"
        tensors[key] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {kind: key}
    if isinstance(value, dict):
        return {"dict": [[_encoded(k, tensors), _encoded(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encoded(one, tensors) for one in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a training's state holds a {type(value).__name__}, which has no place in a checkpoint")


def _decoded(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
        case "dict":
            return {_decoded(k, tensors): _decoded(v, tensors) for k, v in value}
        case "tuple":
            return tuple(_decoded(one, tensors) for one in value)
        case "list":
            return [_decoded(one, tensors) for one in value]
    raise ValueError(f"a state of an unknown kind: {kind}")


class WithoutPickles(Base):
    """A transformers Trainer whose checkpoints hold no pickle. Mixed in before the trainer's own class."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # The options are in environment.json; the trainer's own copy of them is a pickle.
        (Path(output_dir or str(self.args.output_dir)) / PICKLED_ARGUMENTS).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._require_whole()
        if self.args.should_save:
            assert self.optimizer is not None
            assert self.lr_scheduler is not None
            state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.lr_scheduler.state_dict()}
            save_state(state, Path(output_dir), OPTIMIZER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._require_whole()
            state = load_state(Path(checkpoint), OPTIMIZER)
            assert self.optimizer is not None
            assert self.lr_scheduler is not None
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _save_scaler(self, output_dir: str) -> None:
        if self.accelerator.scaler is not None and self.args.should_save:
            save_state(self.accelerator.scaler.state_dict(), Path(output_dir), "scaler")

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_state(Path(checkpoint), "scaler"))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_state(random_state(), Path(output_dir), self._rng_name)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_state(Path(checkpoint), self._rng_name))

    @property
    def _rng_name(self) -> str:
        return RNG if self.args.world_size <= 1 else f"{RNG}_{self.args.process_index}"

    def _require_whole(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise UserError("checkpoints of sharded trainings are pickles: train without DeepSpeed and FSDP")


def last_checkpoint(directory: Path) -> Path | None:
    """The last whole checkpoint: its state is written last, so one that a kill cut short has none."""
    whole = [file.parent for file in directory.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def random_state() -> dict[str, Any]:
    """The state of every generator of random numbers that a training uses."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Puts them back."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
