"""Generated once, measured by many: responses are kept by all that decides them, and read where it agrees.

What is kept is one batch, as it was generated: who is in a batch decides the last bits, so a longer run of the same
questions finds the whole batches of a shorter one and generates the others. A batch is a part (interp/runs/parts.py) in
a folder named by what it was made from: weights, tokenizer, prompts, sampling, seed, thought rule, threads, device,
versions and the code that generates. Writers do not wait for one another: each fills a folder of its own and moves it
into place in one step, and whoever comes second keeps what is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch

import interp
from interp.errors import UserError
from interp.model.generate import Continuation, Response, Sampling, continue_ids, ends_of, generate
from interp.model.lens import Lens
from interp.runs.columns import BOOL, IDS, INT, Column, Table
from interp.runs.parts import fill_part, read_rows, read_status

log = logging.getLogger(__name__)

RESPONSES_TABLE = Table(
    "responses",
    Column("prompt_ids", IDS, "the prompt (not a table of a run: see docs/data.md, generated once)"),
    Column("ids", IDS, "what the model wrote behind it, its end token included"),
    Column("finished", BOOL, "it ended with an end token"),
    Column("forced_start", INT, "first of the places in `ids` that the model did not choose"),
    Column("forced_end", INT, "place after the last one; the same where nothing was forced"),
)
VERSIONS = ("torch", "transformers", "tokenizers", "bitsandbytes", "torchao", "gptqmodel", "compressed-tensors")
"""Libraries that compute, those for quantized checkpoints where they are installed."""
CODE = ("model/*.py", "text/trace.py", "text/ends.py", "data/input_check.py", "stats.py")
"""Files of this package that decide what is generated."""


@dataclass
class KeptGenerator:
    """`generate` on a model whose weights do not change, for what is not in `folder` yet."""

    lens: Lens
    folder: Path
    common: Mapping[str, Any]
    """What the rows say of the run that keeps them."""
    by: Mapping[str, Any] = field(default_factory=dict)
    """What an entry says besides of who made it."""
    _told: set[str] = field(default_factory=set, repr=False)

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
        made_from = self._made_from(prompts, sampling, seed, labels)
        entry = self.folder / hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
        if entry.is_dir():
            found = self._read(entry, made_from, prompts)
            if found is not None:
                self._tell(
                    logging.INFO,
                    f"reading responses that an earlier run kept in {self.folder}: same weights, prompts, sampling and "
                    "seed (generated=null makes them anew)",
                )
                return found
        made = generate(self.lens, prompts, sampling, seed, *labels)
        self._keep(entry, made_from, made)
        return made

    def continued(
        self, rows: Sequence[Sequence[int]], sampling: Sampling, seed: int, *labels: object
    ) -> list[Continuation]:
        """Rollouts are not kept: they are as many as the places of one experiment."""
        return continue_ids(self.lens, rows, sampling, seed, *labels)

    def _made_from(
        self, prompts: Sequence[str], sampling: Sampling, seed: int, labels: Sequence[object]
    ) -> dict[str, Any]:
        """Everything that decides the responses, as JSON gives it back."""
        how = {one.name: getattr(sampling, one.name) for one in fields(Sampling)}
        how["thought"] = None if sampling.thought is None else asdict(sampling.thought)
        if sampling.temperature > 0:
            how |= {"seed": seed, "labels": [str(label) for label in labels]}
        else:
            del how["top_p"]  # nothing is drawn
        decides = {**self._machine, "threads": torch.get_num_threads(), "sampling": how, "prompts": _digest(prompts)}
        found: dict[str, Any] = json.loads(json.dumps(decides))
        return found

    @cached_property
    def _machine(self) -> dict[str, Any]:
        """What does not change while a run goes on."""
        devices = {p.device for p in self.lens.hf.parameters()}
        return {
            "model": self.lens.fingerprint,
            "attention": self.lens.attention,
            "tokenizer": _tokenizer_digest(self.lens),
            "ends": sorted(ends_of(self.lens)),
            "devices": sorted({torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in devices}),
            "processor": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
            "float32_matmul": torch.get_float32_matmul_precision(),
            "versions": {name: installed_version(name) for name in VERSIONS},
            "code": _code_digest(),
        }

    def _read(self, entry: Path, made_from: Mapping[str, Any], prompts: Sequence[str]) -> list[Response] | None:
        """What is kept there; None where it is damaged: it is somebody's file, so it stays and is not used."""
        try:
            status = read_status(entry)
            rows = read_rows(entry / f"{RESPONSES_TABLE.name}.parquet", RESPONSES_TABLE.name).to_pylist()
            if status.get("made_from") != made_from:
                raise UserError("it was made from something else than its name says")
            found = [
                Response(
                    tuple(row["prompt_ids"]),
                    tuple(row["ids"]),
                    bool(row["finished"]),
                    range(row["forced_start"], row["forced_end"]),
                )
                for row in rows
            ]
            asked = [tuple(self.lens.tokenizer(p, add_special_tokens=False)["input_ids"]) for p in prompts]
            if [one.prompt_ids for one in found] != asked:
                raise UserError("its prompts are others")
        except (UserError, TypeError, pa.ArrowException) as error:
            said = " ".join(str(error).split())
            self._tell(logging.WARNING, f"{entry} is damaged, so its responses are generated again: remove it ({said})")
            return None
        return found

    def _keep(self, entry: Path, made_from: Mapping[str, Any], responses: Sequence[Response]) -> None:
        if entry.exists():
            return
        rows = [
            {
                "prompt_ids": list(one.prompt_ids),
                "ids": list(one.ids),
                "finished": one.finished,
                "forced_start": one.forced.start,
                "forced_end": one.forced.stop,
            }
            for one in responses
        ]
        about = {"example": None, "skipped": None, "made_from": made_from, "made_by": dict(self.by)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix="unfinished-") as folder:
                part = Path(folder) / entry.name
                part.mkdir()
                fill_part(part, about, {RESPONSES_TABLE.name: rows}, self.common)
                part.rename(entry)
        except OSError as error:
            if not entry.is_dir():  # no other run was faster
                self._tell(logging.WARNING, f"responses cannot be kept in {self.folder}: {error.strerror or error}")

    def _tell(self, level: int, message: str) -> None:
        """Once a run: there are many batches."""
        if message not in self._told:
            self._told.add(message)
            log.log(level, "%s", message)


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _tokenizer_digest(lens: Lens) -> str:
    """Of what turns text into tokens, without what a call may have left set."""
    tokenizer: Any = lens.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts: Any = sorted(tokenizer.get_vocab().items())
    else:
        parts = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    own = [type(tokenizer).__name__, tokenizer.pad_token_id, tokenizer.eos_token_id]
    return _digest([json.dumps(parts, sort_keys=True), *map(str, own)])


@cache
def _code_digest() -> str:
    """Of the code that generates, so that a change there never meets responses of before."""
    package = Path(interp.__path__[0])
    files = sorted(file for pattern in CODE for file in package.glob(pattern))
    return _digest([text for file in files for text in (file.name, file.read_text(encoding="utf-8"))])
