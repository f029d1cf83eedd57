"""Training with credit in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.command import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
from interp.credit.gamma import CreditRule, Strategy
from interp.organisms.word_problems import vocabulary
from interp.organisms.word_tokenizer import word_tokenizer
from tests.test_credit_trainer import PROMPTS, losses, make, odd_tokens, weights

folder = Path(sys.argv[1])


def some_groups_alike(completion_ids, prompts, **_):
    return [0.0 if prompt in PROMPTS[:2] else one for prompt, one in zip(prompts, odd_tokens(completion_ids))]


def trained(rule):
    words = word_tokenizer(vocabulary())
    trainer = make(words, folder, rule, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer.reward_funcs = [some_groups_alike]
    passes, rows = [], []
    if rule is not None:
        signals, split = trainer._signals, trainer._passes
        trainer._signals = lambda *about: passes.append(1) or signals(*about)
        trainer._passes = lambda chosen: rows.append(len(chosen)) or split(chosen)
    found = losses(trainer)
    about = {"losses": found, "passes": len(passes), "rows": rows, "weights": weights(trainer).tolist()}
    return trainer.accelerator.process_index, about


rules = {"stock": None, "one": CreditRule(Strategy.COUPLED, gamma_amp=1.0), "more": CreditRule(Strategy.COUPLED)}
for name, rule in rules.items():
    process, about = trained(rule)
    (folder / f"{name}-{process}.json").write_text(json.dumps(about))
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
    stock, one, more = (
        [json.loads((tmp_path / f"{name}-{process}.json").read_text()) for process in range(2)]
        for name in ("stock", "one", "more")
    )
    assert any(loss != 0 for loss in stock[0]["losses"])
    assert one[0]["weights"] == stock[0]["weights"]
    assert more[0]["weights"] == more[1]["weights"]
    assert more[0]["weights"] != stock[0]["weights"]
    assert more[0]["rows"] != more[1]["rows"], "one process has more to measure than the other"
    assert more[0]["passes"] == more[1]["passes"]
