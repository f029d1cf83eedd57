"""`experiment=ablate` and `experiment=perturb` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.base.experiment import experiments
from interp.ablation.findings import METRICS
from interp.ablation.lists import lists_that_were_cut
from interp.organisms.planted import CIRCUIT
from interp.runs.effects import over_examples
from tests.command import SMALLEST, ok, published_beside, run


def table(directory: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(directory / f"{name}.parquet")


def test_the_decoy_ranks_first_and_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [
        "experiment.doses=[1,2]",
        "experiment.each_head=true",
        "experiment.kinds=[zero]",
        "experiment.rows=[answer]",
        "figures=true",
    ]
    ok("experiment=ablate", "model=planted", "data.limit=4", *options, "progress=false", f"hydra.run.dir={out}")
    lists = json.loads((out / "summary.json").read_text())["lists"]["rfh"]
    assert lists[:2] == [list(CIRCUIT.decoy), list(CIRCUIT.rfh)]
    effects = table(out, "effects")
    ld = effects[effects["metric"] == "ld"]
    dose = ld[(ld["heads_kind"] == "rfh") & (ld["intervention"] == "ablate_head_zero") & ld["control"].isna()]
    assert dose[dose["n_heads"] == 1]["value"].abs().max() < 1e-3
    assert dose[dose["n_heads"] == 2]["value"].max() < -20
    alone = ld[ld["head"].notna()].set_index(["layer", "head"])["value"]
    assert alone.loc[CIRCUIT.rfh].max() < -20
    assert alone.drop(CIRCUIT.rfh).abs().max() < 1e-3
    whole = effects[effects["layer"].isna() & effects["heads_kind"].isna() & (effects["metric"] == "flipped")]
    flipped = whole.groupby("intervention")["value"].mean()
    assert flipped["knockout_answer_reasoning"] == flipped["knockout_answer_reasoning_unscaled"] == 1
    assert flipped["knockout_answer_prompt"] == flipped["knockout_reasoning_prompt"] == 0
    # Its layers hold too few other pairs, so all others of its 16 heads stand beside the two.
    random = ld[ld["control"].notna() & (ld["heads_kind"] == "rfh") & (ld["n_heads"] == 2)]
    assert set(random["control"]) == {"random_heads_of_any_layer"}
    assert set(random[random["intervention"] == "ablate_head_zero"]["draw"]) == set(range(119))
    verdicts = {one["claim"]: one["outcome"] for one in json.loads((out / "summary.json").read_text())["verdicts"]}
    # One head of the two does it all, and 14 other pairs hold it as well: 2 * 15 of 120 is no small p.
    assert verdicts == {"A6": "undecided", "A6.edges": "undecided"}
    lists = table(out, "cut_lists")
    assert set(lists["half"]) == {0, 1}
    for name in ("ablate_doses", "ablate_heads", "knockout_windows", "knockout_whole"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 1000


def test_the_lists_that_are_told_are_those_that_were_cut() -> None:
    """At the dose with the most random sets; the halves cut other RFHs, and the same greedy heads in another order."""
    cut = {
        ("rfh", 1): [[(0, 0)], [(0, 0)]],
        ("rfh", 2): [[(0, 0), (1, 1)], [(0, 0), (2, 2)]],
        ("greedy", 1): [[(3, 3)], [(3, 4)]],
        ("greedy", 2): [[(3, 3), (3, 4)], [(3, 4), (3, 3)]],
        ("induction", 2): [[(1, 0), (1, 1)], []],
    }
    lists = pd.DataFrame(
        [
            {"half": half, "heads_kind": kind, "n_heads": n, "rank": rank, "layer": layer, "head": head}
            for (kind, n), halves in cut.items() for half, heads in enumerate(halves)
            for rank, (layer, head) in enumerate(heads, start=1)
        ]
    )  # fmt: skip
    effects = pd.DataFrame(
        [
            {"intervention": "ablate_head_zero", "heads_kind": kind, "n_heads": n, "draw": draw}
            for kind, n in cut for draw in (None, *range(n))
        ]
    )  # fmt: skip
    assert lists_that_were_cut(effects, lists) == {
        "rfh (half 0)": [(0, 0), (1, 1)],
        "rfh (half 1)": [(0, 0), (2, 2)],
        "greedy": [(3, 3), (3, 4)],
        "induction (half 0)": [(1, 0), (1, 1)],
    }
    more = pd.concat([effects, effects[effects["n_heads"] == 1].assign(draw=range(10, 14))])
    assert lists_that_were_cut(more, lists)["rfh"] == [(0, 0)], "one head has more sets"


def test_random_sets_of_like_mass_say_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok("experiment=ablate", "model=planted", *SMALLEST["ablate"], "experiment.sets=mass", f"hydra.run.dir={out}")
    effects = table(out, "effects")
    assert set(effects[effects["heads_kind"] == "rfh"]["control"].dropna()) == {"random_heads_of_like_mass"}
    assert '"sets of heads with like attention to the reasoning"' in (out / "summary.json").read_text()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("[[9,0]]", "planted has no head (9, 0), but layers 0 to 3 of heads 0 to 3"),
        ("[[1]]", "experiment.rfhs=[1] must have at least 2 items"),
    ],
)
def test_given_heads_that_are_not_there_end_in_one_line(heads: str, message: str, tmp_path: Path) -> None:
    done = run("experiment=patching", "model=planted", f"experiment.rfhs={heads}", f"hydra.run.dir={tmp_path / 'a'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1


def test_answers_written_anew_have_a_gold_answer(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok("experiment=ablate", "model=reasoner", *SMALLEST["ablate"], "progress=false", f"hydra.run.dir={out}")
    effects = table(out, "effects")
    assert {"correct", "same_answer", "finished", "ld", "kl", "logprob", "flipped"} == set(effects["metric"])
    correct = effects[effects["metric"] == "correct"]
    np.testing.assert_allclose(correct["value"], correct["patched"] - correct["clean"])
    # The interval that a figure draws of some rows is the one that the summary gives.
    cut = effects[(effects["intervention"] == "knockout_answer_reasoning") & effects["heads_kind"].isna()]
    drawn = over_examples(cut[cut["metric"] == "flipped"])
    headlines = json.loads((out / "summary.json").read_text())["headlines"]
    name = f"{METRICS['flipped']}: answer->reasoning cut in all heads"
    (told,) = [one for one in headlines if one["name"] == name]
    assert (told["value"], told["low"], told["high"]) == (drawn.value, drawn.low, drawn.high)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("experiment.score=best", "experiment.score=best is not known"),
        ("experiment.kinds=[noise]", "experiment.kinds=noise is not known"),
        ("experiment.rows=[prompt]", "experiment.rows=prompt is not known"),
        ("experiment.lists=[copy]", "experiment.lists=copy is not known"),
        ("experiment.knockouts=[prompt_answer]", "experiment.knockouts=prompt_answer is not known"),
        ("experiment.doses=[0]", "experiment.doses=0 must be at least 1"),
        ("experiment.doses=[99]", "reasoner has 48 heads"),
        ("experiment.window=9", "reasoner has 6 layers"),
        ("experiment.batch=0", "experiment.batch=0 must be at least 1"),
        ("experiment.kinds=[]", "must have at least 1 item"),
        (
            "experiment.lists=[retrieval]",
            "experiment.lists has retrieval, which experiment.haystack.lengths leaves out",
        ),
        ("experiment.induction_prompts=0", "experiment.lists has induction, which experiment.induction_prompts leaves"),
    ],
)
def test_wrong_options_of_ablate(tmp_path: Path, option: str, complaint: str) -> None:
    out = tmp_path / "run"
    done = run("experiment=ablate", *SMALLEST["ablate"], option, "progress=false", f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not out.exists()


def test_what_was_not_cut_is_said_and_without_random_sets_nothing_is_tested(tmp_path: Path) -> None:
    """No head of `planted` looks for repeated words, and five greedy heads are too few for a dose of six."""
    out, lists = tmp_path / "run", "experiment.lists=[rfh,induction,greedy]"
    few = ("experiment.doses=[6]", "experiment.random_sets=0", lists)
    ok("experiment=ablate", "model=planted", *SMALLEST["ablate"], *few, "progress=false", f"hydra.run.dir={out}")
    summary = json.loads((out / "summary.json").read_text())
    assert "induction heads were not cut: none is above the floor" in summary["lines"]
    assert "greedy heads were not cut: at most 5 are searched for, too few for any dose" in summary["lines"]
    for verdict in summary["verdicts"]:
        assert verdict["outcome"] == "not tested here"
        assert verdict["why"] == "no random set of heads was cut beside the RFHs (experiment.random_sets)"


def test_without_rfhs_the_claims_on_them_are_not_tested(tmp_path: Path) -> None:
    out = tmp_path / "run"
    others = ("experiment.lists=[receiver]", f"hydra.run.dir={out}")
    ok("experiment=ablate", "model=reasoner", *SMALLEST["ablate"], *others, "progress=false")
    first, second = json.loads((out / "summary.json").read_text())["verdicts"]
    assert first["why"] == "no RFHs were cut (experiment: lists, doses)"
    assert second["why"] == "no RFHs were cut (experiment: lists, doses, knockouts)"


def test_scores_without_sinks_are_those_of_rhythm(tmp_path: Path) -> None:
    found = {}
    for name, sinks in (("perturb", "removed"), ("rhythm", "[removed]"), ("kept", "kept")):
        of = "perturb" if name == "kept" else name
        options = [*SMALLEST[of], f"experiment.sinks={sinks}", "figures=false", f"hydra.run.dir={tmp_path / name}"]
        ok(f"experiment={of}", "model=reasoner", *options, "progress=false")
        found[name] = table(tmp_path / name, "tokens")
    for column in ("waad", "fai_to_end", "receiver_fai"):
        np.testing.assert_allclose(found["perturb"][column], found["rhythm"][column], atol=1e-6)
    assert not np.allclose(found["perturb"]["waad"], found["kept"]["waad"], atol=0.1)


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("perturb") / "run"
    options = ["data.limit=2", "experiment.candidates=2", "experiment.k=3", "experiment.ranking_traces=2"]
    ok("experiment=perturb", "model=reasoner", *options, "progress=false", "figures=true", f"hydra.run.dir={out}")
    return out


def test_every_position_is_forced_and_compared(perturbed: Path) -> None:
    effects, tokens = table(perturbed, "effects"), table(perturbed, "tokens")
    whole = effects[effects["metric"] == "jaccard"]
    jaccard, own_forced = whole[whole["control"].isna()], whole[whole["control"] == "own_token"]
    assert len(jaccard) == 2 * len(tokens)
    assert len(own_forced) == len(tokens)
    assert jaccard["value"].between(0, 1).all()
    own = tokens.set_index(["example", "position"])["token"].str.strip()
    forced = jaccard.set_index(["example", "position"])["forced"].str.strip()
    assert (forced != own.reindex(forced.index)).all()
    groups = table(perturbed, "perturbed")
    assert set(groups["group"]) == {"top", "bottom", "random", "position_matched", "entropy_matched"}
    top = groups[(groups["score"] == "fai") & (groups["metric"] == "jaccard")].set_index("group")
    expected = []
    for example, part in tokens.groupby("example", sort=False):
        best = part.dropna(subset="fai_to_end").nlargest(3, "fai_to_end")["position"]
        expected.append(jaccard[(jaccard["example"] == example) & jaccard["position"].isin(best)]["value"].mean())
    assert top.loc["top", "value"] == pytest.approx(np.mean(expected))
    assert top.loc["top", "net"] == pytest.approx(top.loc["top", "value"] - top.loc["top", "own"])
    assert top.loc["bottom", "difference"] == pytest.approx(top.loc["top", "net"] - top.loc["bottom", "net"])
    predictors = table(perturbed, "predictors")
    assert predictors["value"].between(-1, 1).all()
    assert (perturbed / "figures" / "b_table1_perturbed.tex").is_file()


def test_the_published_overlap_stands_beside_that_at_high_fai(perturbed: Path) -> None:
    assert list(published_beside("perturb", perturbed).values()) == ["Jaccard overlap of content words: top 3 by FAI"]
    about = experiments()["perturb"].about
    assert not about.placed(["Jaccard overlap of content words: top 3 by entropy"]), "not by another score"


def test_only_the_groups_are_forced_where_asked(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok(
        "experiment=perturb",
        "model=reasoner",
        *SMALLEST["perturb"],
        "experiment.max_new_tokens=null",
        f"hydra.run.dir={out}",
    )
    effects, tokens = table(out, "effects"), table(out, "tokens")
    assert effects["position"].nunique() < len(tokens)
    groups = table(out, "perturbed")
    # every group that the analysis draws was forced
    assert (groups["n"] == 2).all()


def test_a_response_without_room_for_two_groups_is_left_out(tmp_path: Path) -> None:
    """The four responses have 58, 58, 48 and 89 tokens, the last of which has no FAI."""
    asked = ("experiment=perturb", "model=reasoner", *SMALLEST["perturb"], "data.limit=4", "progress=false")
    out = tmp_path / "run"
    done = ok(*asked, "experiment.k=40", "experiment.max_new_tokens=2", f"hydra.run.dir={out}")
    short = "3 its response is too short for two groups of experiment.k=40 tokens"
    assert short in " ".join((done.stdout + done.stderr).split())
    assert (table(out, "perturbed")["n"] == 1).all()
    for more in ((f"hydra.run.dir={tmp_path / 'none'}",), ("dry_run=true",)):
        refused = run(*asked, "experiment.k=80", *more)
        assert refused.returncode == 2
        assert "its response is too short for two groups of experiment.k=80 tokens" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("experiment.scores=[beauty]", "is not known: use fai"),
        ("experiment.positions=some", "experiment.positions=some is not known"),
        ("experiment.k=0", "experiment.k=0 must be at least 1"),
        ("experiment.rollout_temperature=-1", "must not be negative"),
        ("experiment.rollout_draws=3", "experiment.rollout_draws above 1 needs experiment.rollout_temperature above 0"),
        ("experiment.layers=roof", "layers=roof is not known"),
        ("experiment.share=0", "experiment.share=0 must be greater than 0"),
    ],
)
def test_wrong_options_of_perturb(tmp_path: Path, option: str, complaint: str) -> None:
    out = tmp_path / "run"
    done = run("experiment=perturb", *SMALLEST["perturb"], option, "progress=false", f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not out.exists()
