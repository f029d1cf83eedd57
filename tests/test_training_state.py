"""Checkpoints of a training: what goes in comes out, nothing is a pickle, and a pickle laid in is not read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.organisms.word_llama import Shape
from interp.organisms.word_reasoner import Recipe, train
from interp.runs.training_state import load_state, random_state, save_state, set_random_state

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
LEAVES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | TEXTS
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES)
def test_trees_come_back_with_their_types(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    directory = tmp_path_factory.mktemp("state")
    save_state(tree, directory, "s")
    again = load_state(directory, "s")
    assert again == tree
    assert repr(again) == repr(tree), "tuples stay tuples, numbers keep their kind"


def test_an_optimizer_comes_back(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.AdamW([weight], betas=(0.9, 0.98))
    weight.sum().backward()
    optimizer.step()
    save_state(optimizer.state_dict(), tmp_path, "o")
    again = load_state(tmp_path, "o")
    assert again["param_groups"] == optimizer.state_dict()["param_groups"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(again["state"][0][name], value)
        assert again["state"][0][name].dtype == value.dtype


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    before = random_state()
    save_state(before, tmp_path, "r")

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first = drawn()
    set_random_state(load_state(tmp_path, "r"))
    assert drawn() == first


def test_what_has_no_place_in_a_checkpoint_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds a PosixPath"):
        save_state({"where": tmp_path}, tmp_path, "s")
    with pytest.raises(UserError, match="cannot read the state of the training"):
        load_state(tmp_path, "s")


def test_a_pickle_laid_into_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    """Weights as a pickle beside an otherwise whole checkpoint: refused, though the trainer would take them."""
    recipe = Recipe(steps=2, drill_steps=1, batch=2, warmup_steps=1, size=Shape(1, 16, 2, 16))
    train(recipe, tmp_path, lambda *_: None, 1, use_cpu=True)
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / "model.safetensors").unlink()
    torch.save({}, checkpoint / "pytorch_model.bin")
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    with pytest.raises(UserError, match="holds a pickle"):
        train(recipe, tmp_path, lambda *_: None, 1, use_cpu=True, resume=True)
