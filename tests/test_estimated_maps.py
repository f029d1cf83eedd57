"""Maps that are estimated: the highest places are patched exactly, and how sure one can be of them is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.base.patching_options import PatchingOptions, method_of_map
from interp.figures.patching import whole_map
from interp.patching.attribution import Method
from interp.patching.profiles import agreement, verified_recall
from interp.runs.store import read_table
from tests.command import ok, run

VERIFIED = 24


def rows(values: dict[str, list[float]], n_positions: int) -> pd.DataFrame:
    """Rows of one layer without role: estimates of all positions, exact effects of the first."""
    return pd.DataFrame([
        {"example": "a", "intervention": f"{verb}_resid_pre", "layer": 0, "head": np.nan, "position": position,
         "metric": "nld", "role": None, "control": None, "value": value}
        for verb, some in values.items() for position, value in enumerate(some[:n_positions])
    ])  # fmt: skip


def test_recall_is_the_share_of_the_top_that_half_of_the_checks_had_found() -> None:
    """Six of eight places are patched, in the order of their estimates; of the three largest effects two stand among
    the first three. Signs do not count, and effects below a thousandth are none."""
    estimates = [0.9, -0.8, 0.7, 0.6, 0.5, -0.4, 0.3, 0.2]
    exact = [0.8, -0.9, 0.0, 0.1, 0.7, 0.0]
    effects = rows({"attribute": estimates, "patch": exact}, 8)
    (found,) = verified_recall(effects, 3).to_dict("records")
    assert found == {"example": "a", "recall": pytest.approx(2 / 3), "chance": 0.5, "verified": 6, "places": 8}
    assert verified_recall(effects, 10)["recall"].item() == 0.5, "four effects, two of them in the first half"
    nothing = rows({"attribute": estimates, "patch": [1e-5] * 6}, 8)
    assert np.isnan(verified_recall(nothing, 3)["recall"].item())
    assert agreement(effects, "resid_pre", 3).empty, "places that were chosen by their estimates say nothing of them"


def method_of_map_of(method: str, places: int, map_window: int = 1) -> Method | None:
    options = PatchingOptions.model_construct(map_method=method, verify=VERIFIED, map_window=map_window)
    return method_of_map(options, places)


def test_an_estimated_map_has_the_exact_values_of_its_highest_places(tmp_path: Path) -> None:
    options = ["experiment=patching", "model=planted", "data.limit=2", "figures=false", "experiment.random_sets=0"]
    ok(*options, f"hydra.run.dir={tmp_path / 'exact'}")
    small = method_of_map_of("exact", 10 * VERIFIED), method_of_map_of("auto", 10 * VERIFIED - 1)
    assert small == (None, None)
    assert method_of_map_of("auto", 10 * VERIFIED) is Method.ATP
    assert method_of_map_of("auto", 10 * VERIFIED, map_window=3) is None
    assert method_of_map_of("relp", 1) is Method.RELP
    estimating = ["experiment.map_method=atp", f"experiment.verify={VERIFIED}"]
    ok(*options, *estimating, f"hydra.run.dir={tmp_path / 'estimated'}")
    keys = ["example", "layer", "position"]

    def of(run: str, verb: str) -> pd.Series:
        effects = read_table(tmp_path / run, "effects")
        here = effects[
            effects["intervention"].eq(f"{verb}_resid_pre") & effects["role"].isna() & effects["control"].isna()
            & effects["metric"].eq("nld")
        ]  # fmt: skip
        return here.set_index(keys)["value"]

    whole, verified, estimated = of("exact", "patch"), of("estimated", "patch"), of("estimated", "attribute")
    assert of("exact", "attribute").empty
    assert set(estimated.index) == set(whole.index)
    assert len(verified) == VERIFIED < len(whole)
    pd.testing.assert_series_equal(verified.sort_index(), whole[verified.index].sort_index(), atol=1e-6, rtol=0)
    rest = estimated.drop(verified.index)
    assert rest.abs().max() <= estimated[verified.index].abs().min()
    assert whole[rest.index].abs().max() < 1e-4, "the planted route lies in the places that were verified"
    assert whole.abs().max() == pytest.approx(1, abs=1e-4)
    summary = json.loads((tmp_path / "estimated" / "summary.json").read_text())
    named = {one["name"]: one for one in summary["headlines"]}
    recall = next(one for name, one in named.items() if name.startswith("estimated maps"))
    assert recall["value"] == 1
    assert f"maps are estimated: {VERIFIED} of {len(whole)} places are patched exactly" in summary["lines"]
    figure = whole_map(read_table(tmp_path / "estimated", "effects"), "planted-1-0", "planted")
    dots = figure.axes[0].lines[0]
    assert len(dots.get_xdata()) >= VERIFIED
    assert "estimated" in figure.get_suptitle()


def test_a_map_may_begin_with_the_prompt(tmp_path: Path) -> None:
    options = ["experiment=patching", "model=planted", "data.limit=2", "figures=false", "experiment.random_sets=0"]
    found = {}
    for name in ("false", "true"):
        ok(*options, f"experiment.map_prompt={name}", f"hydra.run.dir={tmp_path / name}")
        effects = read_table(tmp_path / name, "effects")
        found[name] = effects[effects["role"].isna() & effects["control"].isna() & effects["metric"].eq("nld")]
    assert set(found["true"]["segment"]) - set(found["false"]["segment"]) == {"prompt", "think"}
    of_prompt = found["true"][found["true"]["segment"].isin(["prompt", "think"])]
    assert of_prompt["value"].abs().max() < 0.01, "its answer is read out of the reasoning, as it stands"


def test_a_map_of_windows_patches_their_positions_together(tmp_path: Path) -> None:
    options = ["experiment=patching", "model=planted", "data.limit=1", "figures=true", "experiment.random_sets=0"]
    windows = ["experiment.map_window=3", "experiment.map_stride=3"]
    ok(*options, *windows, f"hydra.run.dir={tmp_path / 'w'}")
    ok(*options, f"hydra.run.dir={tmp_path / 's'}")
    assert (tmp_path / "w" / "figures" / "patch_map_0.png").is_file()

    def of(run: str) -> pd.DataFrame:
        effects = read_table(tmp_path / run, "effects")
        return effects[effects["role"].isna() & effects["control"].isna() & effects["metric"].eq("nld")]

    windowed, single = of("w"), of("s")
    first = windowed[windowed["layer"] == 0].sort_values("position")
    places = sorted(single["position"].unique())
    covered = [p for row in first.itertuples() for p in places if row.position <= p < row.position_end]
    assert covered == places, "every position once"
    assert (first["position_end"] - first["position"]).max() == 3
    # On planted one position of the reasoning carries the answer: the window that holds it has its whole effect.
    one = single[single["layer"] == 0].set_index("position")["value"]
    for row in first.itertuples():
        inside = one[[p for p in places if row.position <= p < row.position_end]]
        assert row.value == pytest.approx(inside.sum(), abs=0.05)


def test_windows_that_overlap_are_whole(tmp_path: Path) -> None:
    """Where neighbours begin there is one window from there on, not one of each length."""
    few = ["experiment=patching", "model=planted", "data.limit=1", "experiment.random_sets=0"]
    ok(*few, "experiment.map_window=3", "experiment.map_stride=1", f"hydra.run.dir={tmp_path / 'w'}")
    effects = read_table(tmp_path / "w", "effects")
    shown = effects[effects["role"].isna() & effects["control"].isna() & effects["metric"].eq("nld")]
    assert not shown.duplicated(["layer", "position"]).any()
    sizes = shown["position_end"] - shown["position"]
    assert (sizes == 3).mean() > 0.5


def test_windows_are_not_estimated(tmp_path: Path) -> None:
    done = run(
        "experiment=patching", "experiment.map_window=2", "experiment.map_method=atp", f"hydra.run.dir={tmp_path / 'r'}"
    )
    assert done.returncode == 2
    assert "leave experiment.map_method=exact" in done.stderr
