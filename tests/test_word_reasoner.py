"""The embedded models do what their cards say, and the training can be interrupted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from interp.grading.outcomes import extract_answer, is_correct
from interp.model.generate import Sampling, generate
from interp.model.lens import CHECKPOINTS, Lens, ModelSource, ModelSpec, load_lens
from interp.organisms.word_llama import Shape
from interp.organisms.word_problems import Split, make_problem
from interp.organisms.word_reasoner import Recipe, train
from interp.text.prompts import Condition, PromptStyle, render

STYLE = PromptStyle(separator=" ")


def accuracy(lens: Lens, n: int, condition: Condition, temperature: float = 0.0) -> float:
    problems = [make_problem(99, Split.HELD_OUT, i) for i in range(n)]
    prompts = [render(p.question, lens.tokenizer, lens.markers, STYLE, condition) for p in problems]
    right = 0
    for first in range(0, n, 50):
        responses = generate(lens, prompts[first : first + 50], Sampling(temperature, 200), 0, first)
        for problem, response in zip(problems[first:], responses, strict=False):
            text = lens.tokenizer.decode(list(response.ids), skip_special_tokens=True)
            right += response.finished and is_correct(extract_answer(text), problem.answer)
    return right / n


def on_card(name: str, measure: str) -> float:
    card = (CHECKPOINTS / name / "README.md").read_text()
    found = re.search(rf"\| {measure} \| ([\d.]+) \|", card)
    assert found
    return float(found[1])


def test_it_answers_with_reasoning_and_fails_without(word_reasoner: Lens) -> None:
    """On problems of another seed than the card's; the margins are three standard errors."""
    with_reasoning = accuracy(word_reasoner, 200, Condition.WITH_REASONING)
    without = accuracy(word_reasoner, 200, Condition.WITHOUT_REASONING)
    assert with_reasoning >= 0.95 - 0.046
    assert with_reasoning == pytest.approx(on_card("word-reasoner", "accuracy greedy"), abs=0.046)
    assert without == pytest.approx(on_card("word-reasoner", "accuracy without reasoning"), abs=0.11)
    assert without < with_reasoning - 0.3


def test_the_card_reports_the_target() -> None:
    assert on_card("word-reasoner", "accuracy greedy") >= 0.95
    assert 0.3 <= on_card("reasoner-early", "accuracy sampled") <= 0.6


def test_the_early_checkpoint_is_right_half_of_the_time() -> None:
    lens = load_lens(ModelSpec("reasoner-early", ModelSource.EMBEDDED, "reasoner-early"))
    sampled = accuracy(lens, 200, Condition.WITH_REASONING, temperature=1.0)
    assert sampled == pytest.approx(on_card("reasoner-early", "accuracy sampled"), abs=0.11)


@pytest.mark.parametrize("name", ["word-reasoner", "reasoner-early", "reasoner"])
def test_checkpoints_are_small_and_complete(name: str) -> None:
    files = {f.name: f.stat().st_size for f in (CHECKPOINTS / name).iterdir()}
    assert sum(files.values()) <= 10 * 2**20
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    recipe = Recipe(steps=4, drill_steps=2, batch=3, warmup_steps=1, size=Shape(1, 16, 2, 16))
    measured: list[int] = []
    whole, _ = train(recipe, tmp_path / "whole", lambda step, _: measured.append(step), 2, use_cpu=True)
    assert measured == [2, 4]
    kept = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert kept <= {".json", ".safetensors"}, "no pickle"
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    (tmp_path / "cut" / "checkpoint-4").mkdir()  # as if a kill had cut its writing short
    again, _ = train(recipe, tmp_path / "cut", lambda *_: None, 2, use_cpu=True, resume=True)
    for (name, first), second in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
