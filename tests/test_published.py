"""Runs beside published attention masses: traces are matched, correlations found, other shapes and files refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.errors import UserError
from interp.heads.published import beside_published, load_published, published_verdicts
from interp.heads.ranking import middle_third
from interp.runs.claims import CLAIMS
from interp.runs.verdicts import Outcome
from interp.stats import hypergeometric_comparison

IDS = tuple(f"test/{i}.json" for i in range(6))


def write(path: Path, reasoning: np.ndarray, answer: np.ndarray, ids: tuple[str, ...] = IDS) -> str:
    np.savez(path, ids=np.array(ids), answer_reasoning=reasoning, answer_answer=answer)
    return str(path)


def rows(reasoning: np.ndarray, answer: np.ndarray, ids: tuple[str, ...] = IDS) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"example": f"writer/{one}/with_reasoning", "layer": layer, "head": head,
             "answer_reasoning": reasoning[i, layer, head], "answer_answer": answer[i, layer, head]}
            for i, one in enumerate(ids) for layer in range(reasoning.shape[1]) for head in range(reasoning.shape[2])
        ]
    )  # fmt: skip


@pytest.fixture
def masses() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.uniform(0, 0.5, (len(IDS), 5, 8)), generator.uniform(0, 0.5, (len(IDS), 5, 8))


def test_the_same_masses_correlate_fully(masses: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    headlines, overlaps = beside_published("run", rows(*masses), load_published(write(tmp_path / "p.npz", *masses)))
    assert len(headlines) == 12
    for headline in headlines:
        assert headline.estimate.value == pytest.approx(1.0)
        assert headline.estimate.n == len(IDS)
        if "same traces" in headline.name:
            assert headline.estimate.low is None, "both are resampled alike, so that no resample says anything else"
        else:
            assert headline.estimate.low < 0.99
    assert [(row["n_first"], row["shared"]) for row in overlaps] == [(10, 10), (20, 20)]


def test_the_same_traces_are_matched_whatever_their_order(
    masses: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    published = load_published(write(tmp_path / "p.npz", *masses))
    order = [2, 0]
    found = rows(masses[0][order], masses[1][order], tuple(IDS[i] for i in order))
    headlines, _ = beside_published("run", found, published)
    value = {headline.name: headline.estimate for headline in headlines}
    assert value["run with published difference"].value < 0.99, "two of three traces"
    assert value["run with published difference, same traces"].value == pytest.approx(1.0)
    assert value["run with published difference, same traces"].n == 2


def test_profiles_of_layers_alone_do_not_correlate_within_layers(tmp_path: Path) -> None:
    """Heads at random on a slope over layers that both models share: what 'within layers' takes away."""
    generator = np.random.default_rng(1)
    slope = np.linspace(0, 1, 20)[None, :, None]
    ours, theirs = (slope + generator.normal(0, 0.05, (len(IDS), 20, 16)) for _ in range(2))
    nothing = np.zeros_like(ours)
    published = load_published(write(tmp_path / "p.npz", theirs, nothing + generator.normal(0, 1e-6, nothing.shape)))
    headlines, overlaps = beside_published(
        "run", rows(ours, nothing + generator.normal(0, 1e-6, nothing.shape)), published
    )
    value = {headline.name: headline.estimate.value for headline in headlines}
    assert value["run with published difference"] > 0.95
    assert abs(value["run with published difference, within layers"]) < 0.2
    assert overlaps[0]["p"] < 0.01 < overlaps[0]["p_within_layers"], "shared layers are no shared heads"


def test_what_does_not_correspond_is_refused(masses: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    published = load_published(write(tmp_path / "p.npz", *masses))
    with pytest.raises(UserError, match="run has 4 x 8 heads and the published model 5 x 8"):
        beside_published("run", rows(masses[0][:, :4], masses[1][:, :4]), published)
    headlines, _ = beside_published("run", rows(*masses, tuple("abc")), published)
    assert not [headline for headline in headlines if "same traces" in headline.name]
    twice = pd.concat([rows(*masses), rows(*masses).assign(example=lambda d: "other" + d["example"])])
    with pytest.raises(UserError, match="several times"):
        beside_published("run", twice, published)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="cannot read published masses"):
        load_published(str(tmp_path / "text.npz"))
    np.savez(tmp_path / "other.npz", ids=np.array(IDS))
    with pytest.raises(UserError, match="has no answer_reasoning, answer_answer"):
        load_published(str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="shape"):
        load_published(write(tmp_path / "flat.npz", masses[0][0], masses[1][0]))


def test_the_authors_file_is_read(published_masses: Path) -> None:
    published = load_published(str(published_masses))
    assert published.reasoning.shape == (100, 28, 12)
    assert np.unravel_index((published.reasoning - published.answer).mean(0).argmax(), (28, 12)) == (16, 2)


def test_what_published_masses_say_by_themselves(tmp_path: Path) -> None:
    """Three heads of the middle layers look at the reasoning in every trace: A3 agrees; without them it does not."""
    rng = np.random.default_rng(1)
    ids = tuple(f"t/{i}" for i in range(12))
    reasoning, answer = rng.uniform(0.1, 0.2, (12, 6, 8)), rng.uniform(0.1, 0.2, (12, 6, 8))
    prompt = np.full_like(reasoning, 0.02)
    nothing, found = (reasoning.copy(), reasoning.copy())
    found[:, 2:4, :2] = 0.8
    outcomes = []
    for masses in (found, nothing):
        np.savez(tmp_path / "p.npz", ids=np.array(ids), answer_reasoning=masses, answer_answer=answer,
                 answer_prompt=prompt)  # fmt: skip
        headlines, verdicts = published_verdicts(load_published(str(tmp_path / "p.npz")), 0)
        outcomes.append({one.claim: one.outcome for one in verdicts})
        assert any("top" in one.name for one in headlines)
    assert outcomes[0] == {"A2": Outcome.AGREES, "A3": Outcome.AGREES, "A3.middle": Outcome.AGREES}
    assert outcomes[1]["A3"] != Outcome.AGREES
    assert outcomes[1]["A3.middle"] != Outcome.AGREES
    without = load_published(write(tmp_path / "q.npz", found, answer, ids))
    assert "A2" not in {one.claim for one in published_verdicts(without, 0)[1]}


@pytest.mark.parametrize(
    ("shape", "layers", "inside", "p"),
    [
        ((32, 32), (8, 10, 0, 13, 16, 13, 13, 8, 13, 8), 6, ".17"),
        ((28, 28), (16, 19, 14, 1, 17, 22, 17, 17, 16, 14), 7, ".03"),
        ((28, 12), (16, 1, 19, 12, 16, 23, 14, 19, 20, 16), 5, ".37"),
    ],
)
def test_published_lists_are_tested_as_ours_are(
    shape: tuple[int, int], layers: tuple[int, ...], inside: int, p: str
) -> None:
    """The layers of the ten heads that Paper A lists for each model: two-sided, against ten of all heads."""
    middle = middle_third(shape[0])
    assert sum(layer in middle for layer in layers) == inside
    compared = hypergeometric_comparison(inside, 10, len(middle) * shape[1], shape[0] * shape[1])
    assert f"{compared.p:.2f}".lstrip("0") == p
    said, ours = CLAIMS["A3.middle"].published.split("p ours: ")
    assert str(inside) in said
    assert p in ours.split(", ")
