"""`experiment=credit` as a user runs it: trainings, their comparison, interruption, other models and tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from interp.credit.compare import arms, other_rule
from interp.credit.contrasts import Spread
from interp.credit.gamma import Strategy
from interp.credit.study import Training as Done
from interp.credit.study import over_both, running_peak_average, study_rows
from interp.errors import UserError
from interp.runs.store import RunStore, read_table
from tests.command import ROOT, SMALL_CREDIT, ok, published_beside, run

TINY = ["experiment=credit", *SMALL_CREDIT, "progress=false"]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds each."""
    directory = tmp_path_factory.mktemp("trainings")
    for strategy in ("uniform", "coupled"):
        for seed in (0, 1):
            options = [f"experiment.strategy={strategy}", f"seed={seed}", f"figures={strategy == 'coupled'}"]
            ok(*TINY, *options, f"hydra.run.dir={directory}/{strategy}{seed}")
    return directory


def test_a_training_keeps_its_curve_its_heads_and_its_model(trainings: Path) -> None:
    out = trainings / "coupled0"
    training = read_table(out, "training")
    assert training[training["measure"] == "accuracy"]["step"].tolist() == [0, 1, 2]
    assert training[training["measure"] == "reward"]["step"].tolist() == [1, 2]
    share = training[training["measure"] == "credited_share"]["value"]
    assert ((share >= 0) & (share < 1)).all()
    assert set(read_table(out, "head_sets")["kind"]) == {"local", "global", "receiver"}
    gamma = read_table(out, "credited")["gamma"]
    assert gamma.min() == 1
    assert gamma.max() > 1
    assert read_table(out, "answers")["writer"].nunique() == 2
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert model.config.num_hidden_layers == 4
    assert not list(out.rglob("*.bin"))
    assert not (out / "checkpoints").exists()
    assert 0 <= json.loads((out / "timing.json").read_text())["share"] < 1
    assert list(published_beside("credit", out).values()) == ["held-out accuracy after 2 steps"]
    for figure in ("credit_curve", "credit_tokens"):
        assert (out / "figures" / f"{figure}.png").is_file()


def test_the_same_command_gives_the_same_training(trainings: Path, tmp_path: Path) -> None:
    ok(*TINY, "experiment.strategy=coupled", "seed=0", f"hydra.run.dir={tmp_path}")
    pd.testing.assert_frame_equal(read_table(tmp_path, "training"), read_table(trainings / "coupled0", "training"))


def stopped(monkeypatch: pytest.MonkeyPatch, *options: str, at: int = 2) -> None:
    """As if by Ctrl-C, while the measurement of that step is written."""
    write = RunStore.write

    def interrupted(self: RunStore, index: int, *arguments: Any, **tables: Any) -> None:
        if index == at:
            raise KeyboardInterrupt
        write(self, index, *arguments, **tables)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "write", interrupted)
        assert run(*options).returncode == 130


def test_interrupted_training_goes_on_with_the_same_curve(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops as the measurement of step 2 is written; the continuation starts from the checkpoint of step 1."""
    options = [*TINY, "experiment.strategy=coupled", "seed=0"]
    stopped(monkeypatch, *options, f"hydra.run.dir={tmp_path / 'cut'}")
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-1").is_dir()
    kept = {file.suffix for file in (tmp_path / "cut" / "checkpoints").rglob("*") if file.is_file()}
    assert ".safetensors" in kept
    assert not kept & {".pt", ".pth", ".bin", ".pkl"}, "no pickle"
    (tmp_path / "cut" / "checkpoints" / "checkpoint-2").mkdir()  # as if a kill had cut its writing short
    ok(*options, f"resume={tmp_path / 'cut'}")
    for name in ("training", "head_sets", "credited", "answers"):
        ours, theirs = (file / f"{name}.parquet" for file in (tmp_path / "cut", trainings / "coupled0"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_training_goes_on_in_a_later_epoch_with_its_order_of_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps are once round the questions: the fourth begins a second time, in another order than the first."""
    few = [one for one in TINY if not one.startswith(("experiment.steps=", "experiment.train="))]
    options = [*few, "experiment.train={limit: 6}", "experiment.steps=6", "experiment.strategy=uniform"]
    ok(*options, f"hydra.run.dir={tmp_path / 'whole'}")
    stopped(monkeypatch, *options, f"hydra.run.dir={tmp_path / 'cut'}", at=5)
    ok(*options, f"resume={tmp_path / 'cut'}")
    whole, cut = (read_table(tmp_path / name, "training") for name in ("whole", "cut"))
    assert whole[whole["measure"] == "entropy"]["value"].nunique() > 3
    pd.testing.assert_frame_equal(cut, whole)


def test_a_resumed_training_measures_when_one_without_a_break_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*TINY, "experiment.strategy=random", "experiment.eval_every=2", "experiment.save_every=1"]
    stopped(monkeypatch, *options, f"hydra.run.dir={tmp_path}")
    ok(*options, f"resume={tmp_path}")
    training = read_table(tmp_path, "training")
    assert training[training["measure"] == "accuracy"]["step"].tolist() == [0, 2]


def test_trainings_are_compared(trainings: Path, tmp_path: Path) -> None:
    done = ok("experiment=compare", f"runs={trainings}/*", "figures=true", f"hydra.run.dir={tmp_path / 'c'}")
    study = read_table(tmp_path / "c", "study").set_index("arm")
    assert set(study.index) == {"uniform", "coupled"}
    finals = {
        name: read_table(trainings / name, "training").query("measure == 'accuracy'")["value"].iloc[-1]
        for name in ("uniform0", "uniform1", "coupled0", "coupled1")
    }
    assert study.loc["uniform", "accuracy"] == pytest.approx((finals["uniform0"] + finals["uniform1"]) / 2)
    gap = (finals["coupled0"] - finals["uniform0"] + finals["coupled1"] - finals["uniform1"]) / 2
    assert study.loc["coupled", "difference"] == pytest.approx(gap)
    assert "coupled minus plain GRPO" in done.stdout
    assert (tmp_path / "c" / "figures" / "b_fig4_curves.png").is_file()
    assert (tmp_path / "c" / "figures" / "b_table3_accuracy.tex").is_file()
    ok("experiment=figures", f"run={tmp_path / 'c'}", f"hydra.run.dir={tmp_path / 'again'}")
    other = tmp_path / "other"
    ok(*TINY, "experiment.strategy=uniform", "experiment.test.limit=2", f"hydra.run.dir={other}")
    refused = run("experiment=compare", f"runs=[{trainings}/uniform0,{other}]", cwd=tmp_path)
    assert refused.returncode == 2
    assert "they differ in experiment.test.limit" in refused.stderr
    one = run("experiment=compare", f"runs=[{trainings}/uniform0]", cwd=tmp_path)
    assert "names 1 runs" in one.stderr
    missing = run("experiment=compare", f"runs=[{trainings}/uniform0,{tmp_path / 'x'}]", cwd=tmp_path)
    assert f"there is no run in {tmp_path / 'x'}" in missing.stderr


def test_another_arm_may_be_the_reference(trainings: Path, tmp_path: Path) -> None:
    named = ["experiment=compare", f"runs={trainings}/*", "experiment.reference=coupled"]
    done = ok(*named, "figures=true", f"hydra.run.dir={tmp_path / 'c'}")
    plain = ok("experiment=compare", f"runs={trainings}/*", f"hydra.run.dir={tmp_path / 'plain'}")
    study, usual = (read_table(tmp_path / name, "study").set_index("arm") for name in ("c", "plain"))
    assert study.loc["uniform", "difference"] == pytest.approx(-usual.loc["coupled", "difference"])
    assert pd.isna(study.loc["coupled", "difference"])
    assert set(study["reference"]) == {"coupled"}
    assert set(usual["reference"]) == {"uniform"}
    assert "uniform minus coupled" in done.stdout
    assert "minus coupled" not in plain.stdout
    contrasts = read_table(tmp_path / "c", "contrasts")
    assert set(zip(contrasts["arm"], contrasts["other"], strict=True)) == {("uniform", "coupled")}
    refused = run("experiment=compare", f"runs={trainings}/*", "experiment.reference=best", cwd=tmp_path)
    assert refused.returncode == 2
    assert "experiment.reference=best is no arm of these trainings: there are coupled; uniform" in refused.stderr
    assert refused.stderr.count("error:") == 1


def test_held_out_accuracy_is_the_mean_of_several_samples(tmp_path: Path) -> None:
    options = [*TINY, "experiment.strategy=uniform", "experiment.test.limit=6", "experiment.eval_every=2"]
    ok(*options, "experiment.test_samples=3", f"hydra.run.dir={tmp_path / 'three'}")
    ok(*options, f"hydra.run.dir={tmp_path / 'one'}")
    training, answers = (read_table(tmp_path / "three", name) for name in ("training", "answers"))
    rows = training[training["measure"] == "accuracy"].sort_values("step")
    assert (rows["n"] == 6).all(), "questions, not answers"
    for row, (_, at) in zip(rows.itertuples(), answers.groupby("writer", sort=False), strict=True):
        assert at.groupby("example")["sample"].apply(sorted).tolist() == [[0, 1, 2]] * 6
        by_question = at["correct"].astype(float).groupby(at["example"]).mean()
        assert row.value == pytest.approx(by_question.mean())
        assert by_question.nunique() == 1 or row.low <= row.value <= row.high
    first = answers[answers["sample"] == 0].reset_index(drop=True)
    texts = first.groupby("writer", sort=False)["text"].apply(list).tolist()
    single = read_table(tmp_path / "one", "answers").groupby("writer", sort=False)["text"].apply(list).tolist()
    assert texts[0] == single[0], "the first sample is what one sample would have been"
    greedy = run(*options, "experiment.test_samples=3", "generation.temperature=0", cwd=tmp_path)
    assert greedy.returncode == 2
    assert "greedy answers are all the same" in greedy.stderr


def test_the_gates_are_run_and_judged_by_two_commands(tmp_path: Path) -> None:
    steps = ["steps=2", "eval_every=2", "ranking_traces=2", "train.limit=16", "test.limit=3"]
    small = ["seed=0", *(f"experiment.{option}" for option in steps), f"hydra.sweep.dir={tmp_path / 'runs'}"]
    ok("experiment=credit", "study=gates", *small, "progress=false")
    done = ok("experiment=compare", f"runs={tmp_path / 'runs'}/*", f"hydra.run.dir={tmp_path / 'c'}")
    found = read_table(tmp_path / "c", "gates").set_index(["gate", "strategy", "measure"])
    decided = found[found["passed"].notna()]
    assert [name[0] for name in decided.index] == ["finds", "treats", "pays"]
    # What the model was built for: all six deciding tokens, beside few others.
    assert found.loc[("finds", "coupled", "recall"), "value"] == 1
    assert found.loc[("finds", "oracle", "recall"), "value"] == 1
    assert (
        found.loc[("finds", "coupled", "precision"), "value"] > 2 * found.loc[("finds", "coupled", "chance"), "value"]
    )
    assert found.loc[("treats", "coupled", "gradient_cosine"), "value"] <= 0.9
    assert not decided.loc[("pays", "oracle", "mean_reward minus uniform"), "passed"], "one seed decides nothing"
    assert "gate finds, coupled, recall 1.00" in done.stdout
    assert "mean_reward minus uniform" in done.stdout
    assert "FAILED" in done.stdout
    assert "the model was built so that the rule is right" in (tmp_path / "c" / "run.log").read_text()
    assert len(read_table(tmp_path / "c", "study_seeds")) == 2
    assert set(read_table(tmp_path / "c", "contrasts")["arm"]) == {"oracle"}
    credited = read_table(tmp_path / "runs" / "oracle-0", "credited")
    before = credited["token"].shift(fill_value="")
    decides = credited["token"].str.contains("plan|guess") | before.str.contains("plan|guess")
    assert ((credited["gamma"] > 1) == decides).all()


def test_arms_are_named_by_what_differs() -> None:
    def options(seed: int, **more: Any) -> dict:
        return {"seed": seed, "model": {"name": "m"}, "experiment": {"strategy": "coupled", "q": 0.4, **more}}

    assert arms([options(0), options(1, strategy="uniform")]) == ["coupled", "uniform"]
    assert arms([options(0), options(0, q=0.2)]) == ["q 0.4", "q 0.2"]
    mixed = [options(0), options(0, q=0.2), options(0, strategy="uniform")]
    assert arms(mixed) == ["coupled, q 0.4", "coupled, q 0.2", "uniform"]
    older = [options(0), options(1, unit="token", first_q=None, test_samples=1), options(0, unit="sentence")]
    assert arms(older) == ["coupled", "coupled", "coupled, unit sentence"], "what older runs lack"
    firsts = [options(0, first_q=0.4), options(0, strategy="first"), options(1, strategy="first", first_q=0.4)]
    assert arms(firsts) == ["coupled", "first", "first, first_q 0.4"]
    unread = [options(0), options(0, strategy="soft", q=0.2), options(0, strategy="uniform", q=0.1)]
    assert arms(unread) == ["coupled", "soft", "uniform"], "q is of one of them alone"
    seen = [options(0), options(0, strategy="random"), options(1, strategy="random", layers="all", once=True)]
    assert arms(seen) == ["coupled", "random", "random"], "random tokens look at no head"
    both = [options(0, q=0.2), options(0, strategy="soft"), options(0, strategy="entropy")]
    assert arms(both) == ["coupled, q 0.2", "soft", "entropy, q 0.4"]
    with pytest.raises(UserError, match=r"differ in experiment\.test_samples"):
        arms([options(0), options(0, test_samples=4)])
    with pytest.raises(UserError, match=r"differ in experiment\.steps"):
        arms([options(0), options(0, steps=3)])

    assert other_rule([options(0), options(1)]) is None
    assert other_rule([options(0), options(0, unit="sentence")]) is None, "an arm of its own"
    assert other_rule([options(0, q=0.2), options(0, strategy="soft")]) == "all trainings credit by q=0.2, not by 0.4"
    sentences = [options(seed, unit="sentence") for seed in (0, 1)]
    assert other_rule(sentences) == "all trainings credit by unit=sentence, not by token"
    assert other_rule([options(seed, window=3) for seed in (0, 1)]) == "all trainings credit by window=3, not by 10"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        shipped = OmegaConf.to_container(compose("config", ["experiment=credit"]).experiment)
    assert other_rule([{"experiment": shipped}]) is None, "the shipped options are the rule"


def training(arm: str, seed: int, *accuracy: float) -> Done:
    rows = [{"step": i, "measure": "accuracy", "value": value} for i, value in enumerate(accuracy)]
    return Done(arm, seed, pd.DataFrame(rows), 0.02)


def test_differences_are_paired_by_seed() -> None:
    done = [training("uniform", 0, 0.2, 0.4), training("uniform", 1, 0.2, 0.6), training("uniform", 2, 0.2, 0.9)]
    done += [training("coupled", 0, 0.2, 0.5), training("coupled", 1, 0.2, 0.9)]
    uniform, coupled = study_rows(done, {"coupled": 0.631})
    assert (uniform["seeds"], coupled["seeds"], coupled["pairs"]) == (3, 2, 2)
    assert coupled["difference"] == pytest.approx(0.2)  # of .1 and .3, not .7 - .633
    # Student's t for two pairs: .2 -+ 12.706 * .1
    assert coupled["difference_low"] == pytest.approx(0.2 - 1.2706, abs=1e-4)
    assert coupled["p"] == pytest.approx(0.2952, abs=1e-4)
    assert coupled["p_adjusted"] == coupled["p"]
    assert (uniform["published"], coupled["published"]) == (None, 0.631)


def test_differences_that_are_equal_in_all_seeds_bound_nothing() -> None:
    """Also where only rounding tells them apart, as in .51 - .47, .57 - .53 and .31 - .27."""
    right = {"uniform": (0.47, 0.53, 0.27), "coupled": (0.51, 0.57, 0.31)}
    done = [training(arm, seed, 0.2, end) for arm, ends in right.items() for seed, end in enumerate(ends)]
    _, coupled = study_rows(done, {})
    assert coupled["difference"] == pytest.approx(0.04)
    assert (coupled["difference_low"], coupled.get("p"), coupled["pairs"]) == (None, None, 3)
    assert Spread.between(dict(enumerate(right["coupled"])), dict(enumerate(right["uniform"]))) is None
    assert over_both({0: 0.5, 1: 0.7, 2: np.nan}, {0: 0.4, 1: 0.5, 2: 0.1}).difference.n == 2  # type: ignore[union-attr]
    assert over_both({0: np.nan}, {0: 0.1}) is None


def test_the_study_has_the_mean_cosine_of_the_trainings_that_measured_it() -> None:
    done = [training("uniform", 0, 0.2, 0.4)]
    for seed, values in enumerate(((0.9, 0.7), (0.5,), ())):
        plain = training("coupled", seed, 0.2, 0.5)
        rows = [{"step": i, "measure": "gradient_cosine", "value": value} for i, value in enumerate(values)]
        done.append(replace(plain, table=pd.concat([plain.table, pd.DataFrame(rows)])))
    uniform, coupled = study_rows(done, {})
    assert uniform["gradient_cosine"] is None
    assert coupled["gradient_cosine"] == pytest.approx((0.8 + 0.5) / 2)


def test_the_running_peak_average_never_falls() -> None:
    assert running_peak_average([0.0, 1.0, 0.0, 3.0]).tolist() == [0.0, 0.5, 0.5, 1.75]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("experiment.strategy=best", f"use {', '.join(Strategy)}"),
        ("experiment.end=middle", "use top, bottom"),
        ("experiment.signs=none", "use both, positive, negative"),
        ("experiment.q=0", "q=0 chooses no token"),
        ("experiment.heads=some", "use targeted, all"),
        ("experiment.layers=9", "layer 9 is out of range"),
        ("experiment.rerank_every=0", "experiment.rerank_every=0 must be at least 1"),
        ("experiment.strategy=oracle", "needs data that knows which tokens decide: use data=decisions"),
        ("experiment.steps=0", "experiment.steps=0 must be at least 1"),
        ("+experiment.grpo.learning_rat=1", "did you mean learning_rate"),
        (
            "+experiment.grpo.importance_sampling_level=sequence",
            "only the mean of its tokens' credit reaches the gradient",
        ),
        ("+experiment.grpo.max_steps=1", "set it by the experiment's own options"),
        ("+experiment.grpo.disable_tqdm=true", "set it by the experiment's own options"),
        ("experiment.grpo.num_generations=5", "experiment.grpo: "),
        ("experiment.train={limit:3,split:held_out,seed:1}", "no question is left: change experiment.train"),
        ("experiment.train={limit:1}", "one step asks 2"),
        ("+experiment.test.lines=3", "unknown option experiment.test.lines"),
        (
            "+experiment.grpo.num_iterations=2",
            "save between steps that share their responses: set it to a multiple of 2",
        ),
        ("data=traces", "data.path must be set"),
    ],
)
def test_wrong_options_end_in_one_line(wrong: str, message: str, tmp_path: Path) -> None:
    done = run(*TINY, wrong, cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.rglob("environment.json"))


def test_heads_that_are_all_are_not_ranked_again(tmp_path: Path) -> None:
    done = run(*TINY, "experiment.heads=all", "experiment.rerank_every=1", cwd=tmp_path)
    assert done.returncode == 2
    assert "experiment.rerank_every ranks heads: use it with experiment.heads=targeted" in done.stderr


def test_a_training_says_whether_there_was_a_treatment(tmp_path: Path) -> None:
    some_right = [
        *("generation.max_new_tokens=64", "experiment.train.limit=8"),
        "experiment.grpo.per_device_train_batch_size=32",
    ]
    ok(*TINY, *some_right, "experiment.rerank_every=1", f"hydra.run.dir={tmp_path}")
    training = read_table(tmp_path, "training")
    assert training[training["measure"] == "gradient_cosine"]["step"].tolist() == [1]
    for name in ("gradient_cosine", "credited_position", "credited_entropy", "credited_advantage", "effective_tokens"):
        values = training[training["measure"] == name]["value"]
        assert len(values) > 0, name
        assert values.between(0, 1).all(), name
    lines = json.loads((tmp_path / "summary.json").read_text())["lines"]
    for text in ("cosine of the gradient to plain GRPO's", "effective share of tokens", "heads ranked again: overlap"):
        assert any(text in line for line in lines), text
        assert text in (tmp_path / "run.log").read_text()
    for name in ("local_heads_kept", "global_heads_kept"):
        kept = training[training["measure"] == name]
        assert kept["step"].tolist() == [2]
        assert kept["value"].between(0, 1).all()


def test_a_qwen3_model_trains_on_countdown(r1_style: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(r1_style),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        eos_token_id=r1_style.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen3")
    r1_style.save_pretrained(tmp_path / "qwen3")
    model = ["model=huggingface", f"model.path={tmp_path / 'qwen3'}", "data=countdown"]
    ok(*TINY, *model, "experiment.strategy=coupled", f"hydra.run.dir={tmp_path / 'run'}")
    training = read_table(tmp_path / "run", "training")
    assert training[training["measure"] == "accuracy"]["value"].tolist() == [0, 0, 0]
    sets = read_table(tmp_path / "run", "head_sets")
    assert set(sets["layer"]) <= {2, 3}  # the middle third
