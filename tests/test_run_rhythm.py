"""`experiment=rhythm` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.model.lens import Lens
from interp.rhythm.couplings import Peaks
from interp.rhythm.waad_fai import Settings, Sinks, measure_rhythm, response_of
from interp.runs.store import records
from interp.text.trace import Trace
from tests.command import SMALLEST, ok, published_beside, run

QUIET = ["experiment=rhythm", "progress=false"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rhythm") / "run"
    ranked = ["data.limit=6", "experiment.ranking_traces=2"]
    ok(*QUIET, "model=word-reasoner", *ranked, "figures=true", f"hydra.run.dir={out}")
    return out


def table(run_directory: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run_directory / f"{name}.parquet")


def test_tables_say_what_the_library_measures(finished: Path, word_reasoner: Lens) -> None:
    trace = Trace.from_row(records(table(finished, "traces"))[0])
    curves, entropy = measure_rhythm(word_reasoner, trace, Settings(), [Sinks.KEPT])
    sets = table(finished, "head_sets")
    chosen = sets[(sets["layers"] == "all") & (sets["sinks"] == "kept")]
    local = chosen[chosen["kind"] == "local"]
    assert len(local) == round(0.3 * 24)
    waad = np.mean([curves[Sinks.KEPT].waad[row["layer"], row["head"]] for row in records(local)], axis=0)
    tokens = table(finished, "tokens")
    first = tokens[tokens["example"] == trace.example]
    np.testing.assert_allclose(first["waad"], waad, rtol=1e-5)
    np.testing.assert_allclose(first["entropy"], entropy, atol=1e-5)
    assert list(first["position"]) == list(response_of(trace))
    assert (first["waad_peak"] == Peaks().of(first["waad"].to_numpy())).all()
    assert first["fai_to_end"].isna().sum() == 1
    curves_table = table(finished, "curves")
    assert set(curves_table["layers"]) == {"all", "bottom", "middle", "top", "five"}
    assert len(curves_table) == 6 * 5 * 2


def test_heads_are_ranked_on_the_first_traces(finished: Path) -> None:
    heads, sets = table(finished, "heads"), table(finished, "head_sets")
    first = heads["example"].unique()[:2]
    means = heads[heads["example"].isin(first)].groupby(["layer", "head"])["distance"].mean()
    chosen = sets[(sets["layers"] == "all") & (sets["sinks"] == "kept")]
    for kind, expected in (("local", means.nsmallest(7)), ("global", means.nlargest(7))):
        rows = chosen[chosen["kind"] == kind]
        assert {tuple(row) for row in rows[["layer", "head"]].to_numpy().tolist()} == set(expected.index)
        places = [tuple(row) for row in rows[["layer", "head"]].to_numpy().tolist()]
        np.testing.assert_allclose(rows["value"], [means[place] for place in places])


def test_couplings_have_nulls_and_intervals(finished: Path) -> None:
    couplings = table(finished, "couplings")
    assert couplings["p_shift"].between(0, 1).all()
    assert (couplings["p_adjusted"] >= couplings["p_shift"] - 1e-12).all()
    prominent = couplings[couplings["rule"] == "prominence"]
    assert prominent["p_sentence"].notna().all()
    known = prominent.dropna(subset="low")
    assert len(known)
    assert (known["low"] <= known["value"]).all()
    assert set(couplings[couplings["rule"] == "quantile"]["share"]) == {0.05, 0.1, 0.2, 0.3, 0.4}
    names = {h["name"] for h in json.loads((finished / "summary.json").read_text())["headlines"]}
    assert "share of FAI peaks at or right after a WAAD peak" in names
    for name in ("b_fig2_curves", "b_fig2_maps", "b_table2_couplings", "b_table10_layers", "rhythm_lags"):
        assert (finished / "figures" / f"{name}.png").stat().st_size > 1000
    csv = pd.read_csv(finished / "figures" / "b_table2_couplings.csv")
    assert len(csv) == len(prominent)
    assert csv["published_lift"].isna().all()  # the model is not the paper's


def test_published_couplings_stand_beside_the_same_couplings(finished: Path) -> None:
    assert list(published_beside("rhythm", finished).values()) == [
        "entropy at WAAD peaks, nats",
        "share of receiver-FAI peaks that are FAI peaks",
        "share of FAI peaks at or right after a WAAD peak",
    ]


def test_a_model_without_tags_and_unfinished_answers(tmp_path: Path, smollm2: Lens) -> None:
    out = tmp_path / "run"
    small = ["data=chain_sum", "data.limit=2", "generation.max_new_tokens=40", "experiment.layers=[all]"]
    ok(*QUIET, "model=smollm2-135m", *small, "experiment.map_tokens=0", f"hydra.run.dir={out}")
    answers, tokens = table(out, "answers"), table(out, "tokens")
    assert set(answers["condition"]) == {"no_tags"}
    assert set(tokens["segment"]) <= {"answer", None}
    assert len(table(out, "traces")) == 2


def test_only_with_sinks_removed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok(*QUIET, "model=reasoner", "data.limit=2", "experiment.sinks=[removed]", f"hydra.run.dir={out}")
    assert table(out, "heads")["distance"].isna().all()
    assert table(out, "heads")["distance_no_sinks"].notna().any()


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("experiment.layers=[uppermost]", "layers=uppermost is not known"),
        ("experiment.layers=[3-9]", "layer 9 is out of range"),
        ("experiment.sinks=[gone]", "experiment.sinks=gone is not known"),
        ("experiment.sinks=[]", "experiment.sinks=[] must have at least 1 item"),
        ("experiment.share=0.7", "experiment.share=0.7 must be less than or equal to 0.5"),
        ("experiment.horizon=[10]", "must have at least 2 items"),
        ("experiment.horizon=[100,10]", "must be [H_lo, H_hi]"),
        ("experiment.peaks.rule=high", "experiment.peaks.rule=high is not known"),
        ("experiment.shares=[1.5]", "experiment.shares=1.5 must be less than 1"),
        ("experiment.ranking_traces=0", "experiment.ranking_traces=0 must be at least 1"),
        ("experiment.window=0", "experiment.window=0 must be at least 1"),
        ("experiment.receivers=0", "experiment.receivers=0 must be at least 1"),
        ("data.max_tokens=5", "no trace was measured"),
    ],
)
def test_wrong_options(tmp_path: Path, option: str, complaint: str) -> None:
    out = tmp_path / "run"
    done = run(*QUIET, *SMALLEST["rhythm"], "model=reasoner", option, f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not out.exists()
