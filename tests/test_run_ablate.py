"""`experiment=ablate` on given texts, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.ablate import NO_ANSWER
from interp.runs.store import read_table
from tests.command import SMALLEST, ok


def test_answers_near_the_last_position_are_cut_apart_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest prompt of a batch decides how much of each answer is written: none loses by it."""
    near = "Tom 3 pens, finds 4. " * 8
    texts = [
        f"{before}Mia 5 pens. How many pens? <think> Mia 5. </think> Mia 5 pens. The answer is 5."
        for before in ("", near, "Leo 2 pens. ")
    ]
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    monkeypatch.setattr("interp.model.generate.positions_of", lambda _: 73)
    small = [option for option in SMALLEST["ablate"] if not option.startswith("data.")]
    options = ["experiment=ablate", "model=word-reasoner", "data=traces", f"data.path={file}", *small]
    options += ["experiment.halves=false", "experiment.max_answer_tokens=20", "experiment.reference_samples=8"]
    found = []
    for batch in (1, 3):
        ok(*options, f"experiment.batch={batch}", f"hydra.run.dir={tmp_path / str(batch)}")
        effects = read_table(tmp_path / str(batch), "effects")
        keys = ["intervention", "heads_kind", "rows", "draw", "metric", "example"]
        found.append(effects.sort_values(keys)[[*keys, "value"]].reset_index(drop=True))
    pd.testing.assert_frame_equal(*found, atol=1e-4)


def test_a_response_without_an_answer_is_left_out(tmp_path: Path) -> None:
    """The others are halved, ranked and cut as if it were not there."""
    texts = [
        f"{name} 5 pens. How many pens? <think> {name} 5. </think> {name} 5 pens. The answer is 5."
        for name in ("Mia", "Tom", "Leo")
    ]
    lacking = "Mia 5 pens. How many pens? <think> Mia 5. </think> Mia pens."
    small = [option for option in SMALLEST["ablate"] if not option.startswith("data.")]
    found = []
    for name, kept in (("with", [texts[0], lacking, *texts[1:]]), ("without", texts)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in kept))
        out = tmp_path / name
        options = ["model=word-reasoner", "data=traces", f"data.path={file}", *small, "experiment.reference_samples=8"]
        ok("experiment=ablate", *options, f"hydra.run.dir={out}")
        found.append(read_table(out, "effects").drop(columns="experiment"))
        assert json.loads((out / "summary.json").read_text())["skipped"] == ({NO_ANSWER: 1} if name == "with" else {})
    pd.testing.assert_frame_equal(*found)
