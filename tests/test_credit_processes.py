"""Training with credit in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
from interp.credit.checks import COSINE
from interp.credit.gamma import CreditRule, Strategy
from interp.organisms.word_problems import vocabulary
from interp.organisms.word_tokenizer import word_tokenizer
from tests.test_credit_trainer import PROMPTS, losses, make, odd_tokens, weights

folder = Path(sys.argv[1])


def some_groups_alike(completion_ids, prompts, **_):
    return [0.0 if prompt in PROMPTS[:2] else one for prompt, one in zip(prompts, odd_tokens(completion_ids))]


def trained(rule, extra_pass=True):
    words = word_tokenizer(vocabulary())
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = make(words, folder, rule, extra_pass, **cut)
    trainer.reward_funcs = [some_groups_alike]
    passes, rows = [], []
    if rule is not None:
        signals, split = trainer._signals, trainer._passes
        trainer._signals = lambda *about: passes.append(1) or signals(*about)
        trainer._passes = lambda chosen: rows.append(len(chosen)) or split(chosen)
        trainer._cosine_every = 1
    found = losses(trainer)
    about = {"losses": found, "passes": len(passes), "rows": rows, "weights": weights(trainer).tolist()}
    about["cosines"] = [one[COSINE] for one in trainer.state.log_history if COSINE in one]
    return trainer.accelerator.process_index, about


rules = {"stock": None, "one": CreditRule(Strategy.COUPLED, gamma_amp=1.0), "more": CreditRule(Strategy.COUPLED)}
for name, rule in rules.items():
    process, about = trained(rule)
    (folder / f"{name}-{process}.json").write_text(json.dumps(about))
process, about = trained(CreditRule(Strategy.COUPLED), extra_pass=False)
(folder / f"shared-{process}.json").write_text(json.dumps(about))
"""


def test_two_processes_train_as_trl_does_and_make_as_many_passes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    # What `accelerate launch` starts for several processes; for CPUs alone it wants MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stock, one, more, shared = (
        [json.loads((tmp_path / f"{name}-{process}.json").read_text()) for process in range(2)]
        for name in ("stock", "one", "more", "shared")
    )
    assert any(loss != 0 for loss in stock[0]["losses"])
    assert one[0]["weights"] == stock[0]["weights"]
    assert more[0]["weights"] == more[1]["weights"]
    assert more[0]["weights"] != stock[0]["weights"]
    assert more[0]["rows"] != more[1]["rows"], "one process has more to measure than the other"
    assert more[0]["passes"] == more[1]["passes"]
    assert shared[0]["weights"] == shared[1]["weights"] == pytest.approx(more[0]["weights"], abs=1e-5)
    assert shared[0]["passes"] == shared[1]["passes"] == 0
    assert shared[0]["cosines"] == pytest.approx(more[0]["cosines"], abs=1e-4)
    assert more[0]["cosines"], "a step had a gradient"
    assert one[0]["cosines"] == pytest.approx([1.0] * len(one[0]["cosines"]))
    assert all(0 < cosine < 1 for cosine in more[0]["cosines"])
