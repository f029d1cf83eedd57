"""The command line as a user sees it: help, runs, sweeps, figures drawn again, runs compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.run import choices
from interp.model.lens import Lens
from interp.organisms.planted import CIRCUIT, NUMBERS
from interp.runs.names import readable_text
from interp.runs.store import read_table
from interp.text.trace import Segment
from tests.command import NO_PROBES, ROOT, SMALL_HEADS, SMALLEST, ok, run, start
from tests.conftest import shared_file


def test_help_lists_everything_and_imports_nothing_heavy() -> None:
    with start("--help") as process:
        stdout, _ = process.communicate()
    for group in ("experiment", "model", "data"):
        for name, line in choices(group).items():
            assert f"{name} " in stdout
            assert line in stdout
            assert len(line) > 20, f"{group} {name} has no line that explains it"
    probe = "import sys, experiments.run; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == "[]"


def test_every_option_has_a_comment() -> None:
    for file in (ROOT / "conf").glob("experiment/*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert "python -m experiments.run" in lines[1]
        options = [line for line in lines if line and line[0] not in " #" and not line.startswith("name:")]
        assert all("#" in line or line.endswith(":") for line in options), file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small finished runs of heads, in folders named by their seeds."""
    directory = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        drawn = f"figures={seed == 0}"
        ok("model=planted", *SMALL_HEADS, f"seed={seed}", drawn, f"hydra.run.dir={directory / str(seed)}")
    return directory


def smallest(experiment: str, finished: Path) -> list[str]:
    """Overrides that make an experiment as small as it can be."""
    run_of = [f"run={finished / '0'}"]
    given = {"export": run_of, "figures": run_of, "index": [f"run={finished}"], "compare": [f"runs={finished}/*"]}
    return given.get(experiment) or SMALLEST[experiment]


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_runs_at_its_smallest(experiment: str, tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "run"
    options = [f"experiment={experiment}", "model=planted", *smallest(experiment, finished), "figures=true"]
    done = ok(*options, f"hydra.run.dir={out}")
    summary = json.loads((out / "summary.json").read_text())
    environment = json.loads((out / "environment.json").read_text())
    assert summary["headlines"] or experiment in ("figures", "export", "index")
    assert all({"name", "value", "n", "low", "high", "control", "comparison"} == h.keys() for h in summary["headlines"])
    names = [h["name"] for h in summary["headlines"]]
    assert len(set(names)) == len(names), "numbers of several runs are compared by name"
    assert environment["options"]["experiment"]["name"] == experiment
    assert environment["seed"] == 0
    assert (out / ".hydra" / "config.yaml").is_file()
    assert (out / "run.log").is_file()
    figures = sorted(p.stem for p in (out / "figures").glob("*.png"))
    assert figures or experiment in ("export", "index")
    assert figures == sorted(p.stem for p in (out / "figures").glob("*.pdf"))
    assert f"run:     {out}" in done.stdout
    assert not figures or f"figures: {out / 'figures'} ({len(figures)})" in done.stdout
    log = (out / "run.log").read_text()
    assert all(readable_text(name) in log for name in names)
    elsewhere = ("{", "run:", "report:", "page:", "figures:", "tables:", "figures of ")  # a trainer's lines, and paths
    assert max((len(line) for line in done.stdout.splitlines() if not line.startswith(elsewhere)), default=0) <= 80


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_config_is_complete(model: str) -> None:
    more = ["model.path=some/model"] if model == "huggingface" else []
    config = yaml.safe_load(ok(f"model={model}", *more, "--cfg", "job", "--resolve").stdout)
    assert config["model"]["name"] == ("model" if more else model)
    assert config["model"]["source"] in ("embedded", "planted", "decider", "pretrained", "gguf")
    assert config["generation"]["max_new_tokens"] == config["model"]["max_new_tokens"]


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_has_a_dry_run_that_writes_nothing(experiment: str, tmp_path: Path, finished: Path) -> None:
    done = ok(
        f"experiment={experiment}", "model=planted", *smallest(experiment, finished), "dry_run=true", cwd=tmp_path
    )
    assert "forward passes" in done.stdout
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_real_traces_on_a_real_language_model(tmp_path: Path, smollm2: Lens, r1_traces: Path) -> None:
    out = tmp_path / "run"
    data = [f"data.path={r1_traces}", "+data.where.condition=with_reasoning", "data.limit=2", "data.max_tokens=1050"]
    probes = ["experiment.induction_prompts=1", "experiment.haystack.lengths=[80]", "experiment.haystack.depths=[0.5]"]
    # What else a run measures is not looked at here.
    less = ["explore.traces=0", "unrelated=false", "shuffled=false", "random_sets=3", "resamples=20"]
    probes += [f"experiment.{option}" for option in less]
    ok("model=smollm2-135m", "data=traces", *data, *probes, "experiment.maps=1", f"hydra.run.dir={out}")
    table = read_table(out, "heads")
    assert len(table) == 2 * 30 * 9
    assert (table["answer_reasoning"] > 0).all()
    sums = table[[f"answer_{s}" for s in Segment]].sum(axis=1)
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    for row in read_table(out, "traces").itertuples():
        assert len(row.token_ids) <= 1051
        assert row.source == r1_traces.name
    assert read_table(out, "probes")["kind"].tolist() == ["induction"] * 270 + ["retrieval"] * 270
    summary = json.loads((out / "summary.json").read_text())
    assert set(map(tuple, summary["lists"]["induction"])) & set(map(tuple, summary["lists"]["retrieval"]))
    assert table["trajectory"].max() > 0.5, "some heads follow the reasoning"
    assert set(read_table(out, "maps")["head"].dropna()) == {summary["top_heads"][0][1]}
    skipped = summary["skipped"]
    assert skipped["longer than data.max_tokens=1050"] > 0


def test_the_planted_heads_come_first(tmp_path: Path) -> None:
    ok("model=planted", "data.limit=6", *NO_PROBES, f"hydra.run.dir={tmp_path / 'run'}")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {tuple(head) for head in summary["top_heads"][:2]} == {CIRCUIT.rfh, CIRCUIT.decoy}
    heads = read_table(tmp_path / "run", "heads")
    masses = heads.groupby(["layer", "head"])["answer_reasoning"].mean()
    distractors = masses.drop([CIRCUIT.rfh, CIRCUIT.decoy])
    assert masses[CIRCUIT.rfh] > 2 * distractors.max()
    columns = [c for c in heads if c.startswith("answer_") and c.count("_") <= 2]
    segments = [f"answer_{s}" for s in ("bos", "prompt", "think", "reasoning", "end_think", "answer")]
    assert set(segments) <= set(columns)
    assert heads[segments].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_figures_are_drawn_again_without_the_model(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.base.session.load_lens", lambda *_: pytest.fail("a model was loaded"))
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    ok("experiment=figures", f"run={finished / '0'}", f"hydra.run.dir={tmp_path}")
    again = {p.name: p.read_bytes() for p in (tmp_path / "figures").iterdir()}
    assert again == {p.name: p.read_bytes() for p in (finished / "0" / "figures").iterdir()}
    assert "explore.html" in again
    assert not (finished / "1" / "figures").exists(), "it was run with figures=false"
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_patching_finds_the_planted_circuit(tmp_path: Path) -> None:
    ok(
        "experiment=patching",
        "model=planted",
        "data.limit=3",
        "experiment.directions=[denoise,noise]",
        f"hydra.run.dir={tmp_path}",
    )
    effects = read_table(tmp_path, "effects")
    nld = effects[effects["metric"].eq("nld") & effects["control"].isna()]
    heads = nld[nld["intervention"].eq("patch_z")].groupby(["layer", "head"])["value"].mean()
    assert heads[CIRCUIT.rfh] == pytest.approx(1, abs=1e-4)
    assert heads.drop(CIRCUIT.rfh).abs().max() < 1e-4
    whole = nld[nld["intervention"].eq("patch_resid_pre")]
    word = whole[whole["token"].str.strip().isin(NUMBERS)]
    assert word[word["layer"] <= CIRCUIT.rfh[0]]["value"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert word[word["layer"] > CIRCUIT.rfh[0]]["value"].abs().max() < 1e-4
    last = whole[whole["role"].eq("predicting")]
    assert last[last["layer"] > CIRCUIT.rfh[0]]["value"].to_numpy() == pytest.approx(1, abs=1e-4)
    others = whole.drop([*word.index, *last.index])
    assert others["value"].abs().max() < 1e-4
    noised = nld[nld["intervention"].eq("noise_z")].groupby(["layer", "head"])["value"].mean()
    assert noised[CIRCUIT.rfh] == pytest.approx(1, abs=1e-4)
    pairs = read_table(tmp_path, "pairs")
    assert (pairs["clean_ids"].map(len) == pairs["corrupted_mask"].map(len)).all()


def test_patching_a_real_language_model_with_the_published_pairs(tmp_path: Path, smollm2: Lens) -> None:
    file = shared_file("object_comparison_pairs.csv")
    small = ["data.limit=2", "experiment.sites=[resid_pre]", "experiment.maps=0", "experiment.random_sets=1"]
    small += ["experiment.layers=0+29", "experiment.attribution=false", "experiment.answer_tokens=1"]
    done = ok(
        "experiment=patching",
        "model=smollm2-135m",
        "data=object_comparison",
        f"data.path={file}",
        *small,
        "figures=true",
        f"hydra.run.dir={tmp_path}",
    )
    assert "template reasoning" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    peak = next(h for h in summary["headlines"] if "(its peak)" in h["name"])
    assert peak["value"] > 0.3 > abs(peak["control"]["value"])
    assert (tmp_path / "figures" / "a_fig8_hand_over.png").is_file()


def test_runs_are_compared(tmp_path: Path, finished: Path) -> None:
    done = ok("experiment=compare", f"runs={finished}/*", f"hydra.run.dir={tmp_path / 'c'}")
    assert "seed 0 and seed 1: top heads in both: 2 (by chance 0.25" in done.stdout
    row = read_table(tmp_path / "c", "overlaps").iloc[0]
    assert (row["first"], row["second"], row["shared"]) == ("seed 0", "seed 1", 2)
    assert row["p"] == pytest.approx(1 / 120)
    unknown = run("experiment=compare", f"runs={finished}/*", "experiment.kind=best", cwd=tmp_path)
    assert "experiment.kind=best is not known: use mass, difference" in unknown.stderr
    other = tmp_path / "other"
    ok("model=reasoner", *SMALL_HEADS, f"hydra.run.dir={other}")
    mixed = ok("experiment=compare", f"runs=[{finished}/*,{other}]", "figures=true", f"hydra.run.dir={tmp_path / 'm'}")
    assert "2 pairs of runs have models of different shapes" in mixed.stdout
    assert read_table(tmp_path / "m", "overlaps")[["first", "second"]].values.tolist() == [
        ["planted, seed 0", "planted, seed 1"]
    ]
    numbers = read_table(tmp_path / "m", "numbers")
    assert numbers["run"].unique().tolist() == ["planted, seed 0", "planted, seed 1", "reasoner, seed 0"]
    reasoning = numbers[numbers["name"] == "mass answer->reasoning, all heads"]
    assert reasoning["control"].tolist() == ["an even head"] * 3
    assert (tmp_path / "m" / "figures" / "compare_numbers_0.png").is_file()
    claims = read_table(tmp_path / "m", "claims")
    verdicts = json.loads((other / "summary.json").read_text())["verdicts"]
    of_other = claims[claims["run"] == "reasoner, seed 0"].set_index("claim")["outcome"]
    assert of_other.to_dict() == {one["claim"]: one["outcome"] for one in verdicts}
    printed = pd.read_csv(tmp_path / "m" / "figures" / "claims.csv").set_index("claim")
    (name,) = (claim for claim in printed.index if claim.startswith("A3 "))
    assert printed.loc[name, "reasoner, seed 0"].startswith(of_other["A3"])
    assert f"{name}: planted, seed 0: " in (tmp_path / "m" / "run.log").read_text()
    assert "claims: planted, seed 0 / planted, seed 1 / reasoner, seed 0" in mixed.stdout
    # A pattern may match more than what compares.
    for name in ("0", "1"):
        shutil.copytree(finished / name, tmp_path / "all" / name)
    shutil.copytree(tmp_path / "c", tmp_path / "all" / "0-compared")
    (tmp_path / "all" / "1-broken").mkdir()
    shutil.copy(finished / "1" / "environment.json", tmp_path / "all" / "1-broken")
    some = ok("experiment=compare", f"runs={tmp_path}/all/*", f"hydra.run.dir={tmp_path / 'some'}")
    assert set(read_table(tmp_path / "some", "numbers")["run"]) == {"seed 0", "seed 1"}
    assert some.stderr.count("left out: ") == 2
    drawn = run("experiment=compare", f"runs=[{finished / '0'},{tmp_path / 'c'}]", cwd=tmp_path)
    assert "is a run of compare: only runs of ablate, credit," in drawn.stderr


def test_runs_of_other_experiments_are_set_side_by_side(tmp_path: Path) -> None:
    for seed in (0, 1):
        ok("experiment=evaluate", "model=planted", "data.limit=2", f"seed={seed}", f"hydra.run.dir={tmp_path}/e{seed}")
    done = ok("experiment=compare", f"runs={tmp_path}/e*", f"hydra.run.dir={tmp_path / 'c'}")
    assert "2 runs of evaluate" in done.stdout
    assert set(read_table(tmp_path / "c", "numbers")["run"]) == {"seed 0", "seed 1"}
    heads = tmp_path / "heads"
    ok("model=planted", *SMALL_HEADS, f"hydra.run.dir={heads}")
    mixed = run("experiment=compare", f"runs=[{tmp_path}/e0,{heads}]", cwd=tmp_path)
    assert "compare them apart" in mixed.stderr


def test_the_same_seed_gives_the_same_tables(tmp_path: Path) -> None:
    sampled = ["model=reasoner", *NO_PROBES, "data.limit=4", "generation.temperature=1.0", "generation.batch=2"]
    for name in ("a", "b"):
        ok(*sampled, f"hydra.run.dir={tmp_path / name}")
    ok(*sampled, "seed=1", f"hydra.run.dir={tmp_path / 'c'}")
    tables = {n: (tmp_path / n / "traces.parquet").read_bytes() for n in "abc"}
    assert tables["a"] == tables["b"]
    texts = {n: read_table(tmp_path / n, "answers")["text"].tolist() for n in "ac"}
    assert texts["a"] != texts["c"]


def test_long_traces_are_left_out_and_counted(tmp_path: Path) -> None:
    think = "<think> well now so three fine good done </think> the answer equals 3 !"
    texts = [f"<bos> {'look ' * n}red . {think}" for n in (1, 30, 2, 40, 3, 4)]
    file = tmp_path / "traces.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    out = tmp_path / "run"
    options = [f"data.path={file}", "data.limit=3", "data.max_tokens=30", f"hydra.run.dir={out}"]
    done = ok("model=planted", "data=traces", *NO_PROBES, *options)
    assert read_table(out, "traces")["example"].tolist() == ["1", "3", "5"]
    assert json.loads((out / "summary.json").read_text())["skipped"] == {"longer than data.max_tokens=30": 2}
    assert "left out: 2 longer than data.max_tokens=30" in done.stdout


def test_a_sweep_runs_every_combination(tmp_path: Path) -> None:
    small = ["data.limit=2", "experiment.random_sets=2", *NO_PROBES, "experiment.map_heads=0"]
    ok("-m", "model=planted", "experiment.top_k=1,2", "seed=0,1", *small, f"hydra.sweep.dir={tmp_path}")
    summaries = sorted(tmp_path.glob("*/summary.json"))
    assert len(summaries) == 4
    assert [len(json.loads(s.read_text())["top_heads"]) for s in summaries] == [1, 1, 2, 2]


def test_an_index_lists_every_run_with_a_link(tmp_path: Path, finished: Path) -> None:
    unfinished = shutil.copytree(finished, tmp_path / "runs") / "1" / "summary.json"
    unfinished.unlink()
    ok("experiment=index", f"run={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'runs' / 'index'}")
    page = (tmp_path / "runs" / "index" / "index.html").read_text()
    assert '<a href="../0/figures/explore.html">0</a>' in page
    assert "<h1>1 runs</h1>" in page
    assert "Not finished: <code>1</code>" in page
    assert "mass answer-&gt;reasoning, all heads: <b>" in page
    done = run("experiment=index", f"run={tmp_path / 'nowhere'}", cwd=tmp_path)
    assert "set run=FOLDER to where the runs lie" in done.stderr


def test_controls_do_not_go_by_the_name_of_what_they_control(tmp_path: Path) -> None:
    text = "<bos> Tom 5 apples . Who has most apples , Tom or Jay ? <think> So Tom 5 . </think> Tom . <eos>"
    (tmp_path / "traces.jsonl").write_text(json.dumps({"id": "1", "text": text}))
    given = ["data=traces", f"data.path={tmp_path / 'traces.jsonl'}", *SMALL_HEADS, *NO_PROBES]
    control = ["model.untrained=2", "data.scrambled=1"]
    done = ok("model=word-reasoner", *control, *given, f"hydra.run.dir={tmp_path / 'run'}")
    assert "on word-reasoner-untrained-2" in done.stdout
    assert "in random order within each (data.scrambled)" in done.stderr
    heads = read_table(tmp_path / "run", "heads")
    assert set(heads["model"]) == {"word-reasoner-untrained-2"}
    assert set(heads["data"]) == {"traces-scrambled-1"}
    ok("experiment=index", f"run={tmp_path}", f"hydra.run.dir={tmp_path / 'index'}")
    assert (
        "<td>word-reasoner-untrained-2</td><td>traces-scrambled-1</td>" in (tmp_path / "index/index.html").read_text()
    )
    ok("experiment=export", f"run={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'export'}")
    card = (tmp_path / "export/dataset/README.md").read_text()
    assert "# heads on word-reasoner-untrained-2, data traces-scrambled-1\n" in card
    (measured,) = read_table(tmp_path / "run", "traces")["text"]
    assert measured != text
    assert sorted(measured.replace(" ", "")) == sorted(text.replace(" ", ""))
