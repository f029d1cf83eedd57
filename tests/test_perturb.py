"""Forced tokens: rollouts on a shared cache, overlaps, groups of positions, and statistics with known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from interp.model.decoding import OwnDraws
from interp.model.generate import Sampling
from interp.model.lens import Lens
from interp.organisms.planted import AFTER_ANCHOR, BEFORE_ANCHOR, NUMBERS, make_question
from interp.perturb.overlap import Group, Scores, content_words, drop, edit_distance, jaccard
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.perturb.tables import METRICS, Problem, group_rows, predictor_rows
from interp.perturb.thirds import third_rows
from interp.text.trace import parse_text

NAN = np.nan


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rollouts_on_the_shared_cache_equal_those_from_scratch(
    small_lens: Lens, words: PreTrainedTokenizerBase, temperature: float
) -> None:
    rng = np.random.default_rng(0)
    ids = [words.bos_token_id, *rng.integers(5, 100, 40).tolist()]
    shared = trunk(small_lens, ids)
    forks = [Fork(p, token) for p in (1, 7, 20, 40) for token in shared.candidates(p, 2)]
    sampling = Sampling(temperature, 12)
    fast = rollouts(small_lens, shared, forks, sampling, 3, batch=5)
    slow = rollouts(small_lens, shared, forks, sampling, 3, batch=5, cached=False)
    assert fast == slow
    assert {len(tokens) for tokens, finished in fast if not finished} <= {12}
    alone = [rollouts(small_lens, shared, [fork], sampling, 3)[0] for fork in forks]
    assert fast == alone


def test_draws_do_not_depend_on_what_runs_beside_them(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    shared = trunk(small_lens, [words.bos_token_id, *range(20, 50)])
    forks = [Fork(place, 50) for place in (3, 9, 20) for _ in range(4)]
    sampling = Sampling(1.0, 6, top_p=0.9)
    found = rollouts(small_lens, shared, forks, sampling, 3, batch=16)
    assert found == rollouts(small_lens, shared, forks, sampling, 3, batch=5)
    assert found[4:8] == rollouts(small_lens, shared, forks[4:8], sampling, 3, batch=1)
    assert len({ids for ids, _ in found[:4]}) > 1, "those of one place differ"
    assert found != rollouts(small_lens, shared, forks, sampling, 4, batch=16)


def test_draws_of_ones_own_follow_the_probabilities() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.0, 0.7]]).log().repeat(4000, 1)
    for temperature, top_p, expected in ((1.0, 1.0, [0.1, 0.2, 0, 0.7]), (0.5, 0.95, [0, 4 / 53, 0, 49 / 53])):
        draws = OwnDraws(range(4000), temperature, top_p, width=1, steps=2)
        ids = torch.zeros(4000, 1, dtype=torch.long)
        chosen = draws(ids, scores).argmax(1)
        shares = torch.bincount(chosen, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor(expected), atol=0.03, rtol=0)
        assert (draws(torch.zeros(4000, 2, dtype=torch.long), scores).argmax(1) != chosen).any(), "each step its own"


def test_candidates_are_the_likeliest_others(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    ids = [words.bos_token_id, 20, 30, 40]
    shared = trunk(small_lens, ids)
    ranked = small_lens.hf(torch.tensor([ids])).logits[0, 1].argsort(descending=True).tolist()
    assert shared.candidates(2, 3) == [token for token in ranked if token != 30][:3]


def test_forcing_an_end_token_ends_there(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    shared = trunk(small_lens, [words.bos_token_id, 20, 30, 40])
    found = rollouts(small_lens, shared, [Fork(2, words.eos_token_id), Fork(2, 50)], Sampling(0.0, 3), 0)
    assert found[0] == ((), True)
    assert len(found[1][0]) > 0


def test_forcing_the_planted_anchor_changes_the_answer_and_others_do_not(planted: Lens) -> None:
    question = make_question(1, 0)
    number = NUMBERS[int(question.answer) - 1]
    reasoning = f"<think> well now so {number} fine good done </think>"
    text = f"{question.question} {reasoning} the answer equals {question.answer} !"
    trace = parse_text(text, planted.tokenizer, planted.markers)
    vocab = planted.tokenizer.get_vocab()
    shared = trunk(planted, trace.measured_ids)
    at = {trace.token_text(p).strip(): p for p in range(len(trace.measured_ids))}
    synonyms = {slot[0]: slot[1:] for slot in BEFORE_ANCHOR + AFTER_ANCHOR}
    forks = [Fork(at[word], vocab[other]) for word, others in synonyms.items() for other in others]
    others = [n for n in NUMBERS if n != number]
    anchors = [Fork(at[number], vocab[other]) for other in others]
    found = rollouts(planted, shared, forks + anchors, Sampling(0.0, 20), 0)
    answers = ["".join(filter(str.isdigit, planted.tokenizer.decode(list(tokens)))) for tokens, _ in found]
    assert answers[: len(forks)] == [question.answer] * len(forks)
    assert answers[len(forks) :] == [str(NUMBERS.index(other) + 1) for other in others]


def test_content_words() -> None:
    assert content_words("So the Cat's 3 hats, and 3.5 + x_1!") == {"cat's", "3", "hats", "5", "x", "1"}
    assert content_words("It is as it was.") == set()


def test_overlaps_by_hand() -> None:
    assert jaccard("the red cat", "a red dog") == 1 / 3
    assert jaccard("the", "a") == 1.0
    assert jaccard("cat", "") == 0.0
    assert edit_distance([1, 2, 3], [1, 3]) == pytest.approx(1 / 3)
    assert edit_distance([], []) == 0.0
    np.testing.assert_array_equal(drop(np.array([3.0, 1.0, 4.0])), [2.0, 3.0, NAN])


@given(st.text(), st.text())
def test_jaccard_is_a_similarity(first: str, second: str) -> None:
    assert jaccard(first, first) == 1.0
    assert jaccard(first, second) == jaccard(second, first)
    assert 0.0 <= jaccard(first, second) <= 1.0


def test_groups_by_hand() -> None:
    values = np.array([NAN, 9.0, 1.0, 8.0, 2.0, 5.0, 3.0])
    entropy = np.array([0.0, 0.5, 0.1, 0.9, 0.52, 0.88, 0.2])
    scores = Scores({"s": values}, entropy)
    rng = np.random.default_rng(0)
    assert scores.group("s", Group.TOP, 2, rng) == [1, 3]
    assert sorted(scores.group("s", Group.BOTTOM, 2, rng)) == [2, 4]
    assert scores.group("s", Group.ENTROPY_MATCHED, 2, rng) == [4, 5]
    near = scores.group("s", Group.POSITION_MATCHED, 2, rng)
    assert near[0] == 2  # 0 has no value
    assert near[1] == 4
    for _ in range(20):
        random = scores.group("s", Group.RANDOM, 2, rng)
        assert set(random) <= {2, 4, 5, 6}
    assert scores.group("s", Group.TOP, 3, rng) == [1, 3, 5]
    for group in Group:  # six have a value: no room for two groups of four
        assert scores.group("s", group, 4, rng) == []


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 8))
def test_controls_are_never_the_top(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(n) < 0.2, NAN, rng.normal(size=n))
    scores = Scores({"s": values}, rng.random(n))
    top = scores.group("s", Group.TOP, k, rng)
    for group in (g for g in Group if g is not Group.TOP):
        chosen = scores.group("s", group, k, rng)
        assert len(set(chosen)) == len(chosen) <= len(top)
        assert not set(chosen) & set(top)
        assert not np.isnan(values[chosen]).any()


def simulated(seed: int, effect: float, problems: int = 20, n: int = 60) -> list[Problem]:
    """Traces whose effect depends on the first score by `effect`, and on entropy, which goes along with the second."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(problems):
        fai, entropy = rng.normal(size=n), rng.normal(size=n)
        follower = entropy + rng.normal(size=n)
        jaccard_values = -effect * fai - 0.5 * entropy + rng.normal(size=n)
        scores = Scores({"fai": fai, "follower": follower}, entropy)
        unknown = dict.fromkeys(METRICS, np.full(n, NAN))
        made.append(Problem(str(len(made)), scores, unknown | {"jaccard": jaccard_values}))
    return made


def test_groups_belong_to_a_trace_and_not_to_its_place() -> None:
    """A trace that is left out before it changes nothing for the others."""
    problems = simulated(0, 1.0, problems=3)
    random = group_rows(problems[1:], ["fai"], 5, 0)
    moved = group_rows([Problem(p.example, p.scores, p.effects) for p in (problems[2], problems[1])], ["fai"], 5, 0)
    key = ("group", "metric", "value")
    assert [tuple(r[k] for k in key) for r in random] == [
        (r["group"], r["metric"], pytest.approx(r["value"])) for r in moved
    ]


def test_a_planted_effect_is_found() -> None:
    problems = simulated(0, 1.0)
    rows = {(r["group"], r["metric"]): r for r in group_rows(problems, ["fai"], 5, 0)}
    for group in (g for g in Group if g is not Group.TOP):
        row = rows[group, "jaccard"]
        assert row["difference_high"] < 0
        assert row["p"] < 0.01
        assert row["lower"] == row["net_lower"] > 0.9
    predicted = predictor_rows(problems, ["fai", "follower"], 0)
    found = {(r["score"], r["given"]): r for r in predicted if r["metric"] == "jaccard"}
    assert found["fai", "nothing"]["high"] < -0.4
    assert found["follower", "nothing"]["high"] < 0
    assert found["follower", "position and entropy"]["low"] < 0 < found["follower", "position and entropy"]["high"]
    assert found["follower", "nothing"]["p_against_fai"] < 0.01


def test_no_effect_is_found_where_there_is_none() -> None:
    p = []
    for seed in range(120):
        problems = simulated(seed, 0.0, problems=8, n=30)
        p.append(bottom(group_rows(problems, ["fai"], 4, seed))["p"])
        (row, _) = (r for r in predictor_rows(problems, ["fai"], seed) if r["metric"] == "jaccard")
        p.append(row["p"])
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.09


def test_what_rolling_out_alone_does_is_no_effect_of_the_token() -> None:
    """Forcing any token, its own among them, lowers the overlap more at high scores: net, nothing is left."""
    made = []
    for problem in simulated(3, 0.0):
        at_any = problem.effects["jaccard"] - 2 * problem.scores.values["fai"]
        noise = np.random.default_rng(len(made)).normal(size=len(at_any))
        effects = problem.effects | {"jaccard": at_any}
        made.append(Problem(problem.example, problem.scores, effects, {m: effects[m] + noise for m in METRICS}))
    alone = [Problem(p.example, p.scores, p.effects) for p in made]
    assert bottom(group_rows(alone, ["fai"], 5, 0))["p"] < 0.001
    net = bottom(group_rows(made, ["fai"], 5, 0))
    assert net["p"] > 0.05
    assert net["difference_low"] < 0 < net["difference_high"]
    assert net["net_low"] < 0 < net["net_high"]
    (predicted,) = (r for r in predictor_rows(made, ["fai"], 0) if r["metric"] == "jaccard" and r["given"] == "nothing")
    assert abs(predicted["value"]) < 0.1


def test_ties_are_no_half_of_lower_values() -> None:
    """Position 0 has the top FAI and 3 the lowest. Raw the top is lower in two of four problems and tied in one; net,
    less what the traces' own tokens do, in one and in two."""
    scores = Scores({"fai": np.array([3.0, 2, 1, 0])}, np.arange(4.0))
    made = [
        Problem(str(i), scores, {m: np.array([top, 0.9, 0.9, bottom]) for m in METRICS},
                {m: np.array([own, 1, 1, 1]) for m in METRICS})
        for i, (top, bottom, own) in enumerate([(0.2, 0.5, 1), (0.2, 0.5, 0.7), (0.5, 0.5, 1), (0.6, 0.5, 1)])
    ]  # fmt: skip
    row = bottom(group_rows(made, ["fai"], 1, 0))
    assert [row[name] for name in ("lower", "tied", "net_lower", "net_tied")] == [0.5, 0.25, 0.25, 0.5]


def test_intervals_cover_the_truth() -> None:
    """The mean over problems of top minus bottom under a known slope."""
    truth = np.mean([_difference(simulated(1000 + seed, 1.0, problems=60)) for seed in range(10)])
    covered = 0
    for seed in range(60):
        row = bottom(group_rows(simulated(seed, 1.0), ["fai"], 5, seed))
        covered += row["difference_low"] <= truth <= row["difference_high"]
    assert covered / 60 >= 0.85


def _difference(problems: list[Problem]) -> float:
    return float(bottom(group_rows(problems, ["fai"], 5, 0))["difference"])


def bottom(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the bottom group's Jaccard overlap."""
    (row,) = (r for r in rows if r["metric"] == "jaccard" and r["group"] == Group.BOTTOM)
    return row


def test_of_equal_values_the_first_do_not_win() -> None:
    """Values that are constant over sentences: the top ones are not the first tokens of a sentence."""
    values = np.repeat([1.0, 5.0, 0.0], 40)
    scores = Scores({"steps": values}, np.zeros(120))
    groups = {group: scores.group("steps", group, 8, np.random.default_rng(0)) for group in (Group.TOP, Group.BOTTOM)}
    assert set(groups[Group.TOP]) < set(range(40, 80))
    assert set(groups[Group.BOTTOM]) < set(range(80, 120))
    assert sorted(groups[Group.TOP]) != list(range(40, 48))
    same = Scores({"flat": np.ones(20)}, np.zeros(20))
    top, bottom = (same.group("flat", group, 10, np.random.default_rng(0)) for group in (Group.TOP, Group.BOTTOM))
    assert not set(top) & set(bottom)


def test_thirds_by_hand() -> None:
    """Nine tokens; early ones change more whatever their score, and high scores change more within the middle third."""
    fai = np.array([9.0, 1.0, 2.0, 3.0, 8.0, 0.0, 1.5, 2.5, 7.0])
    change = np.array([6.0, 6.0, 6.0, 1.0, 4.0, 1.0, NAN, NAN, NAN])
    unknown = dict.fromkeys(METRICS, np.full(9, NAN))
    problems = [Problem(str(i), Scores({"fai": fai}, np.zeros(9)), unknown | {"jaccard": change + i}) for i in range(3)]
    rows = {r["third"]: r for r in third_rows(problems, ["fai"], 3, 0)}
    assert set(rows) == {"first", "middle"}  # nothing was forced in the last
    assert (rows["first"]["net"], rows["first"]["difference"]) == (7.0, 0.0)
    assert (rows["middle"]["net"], rows["middle"]["difference"]) == (3.0, 3.0)
    assert [rows[third]["n_paired"] for third in ("first", "middle")] == [3, 3]


def test_where_only_the_place_matters_no_third_has_a_difference() -> None:
    p = []
    for seed in range(100):
        early = [
            Problem(q.example, q.scores, q.effects | {"jaccard": q.effects["jaccard"] + np.linspace(3, 0, 30)})
            for q in simulated(seed, 0.0, problems=8, n=30)
        ]
        p += [r["p"] for r in third_rows(early, ["fai"], 6, seed) if r["metric"] == "jaccard" and r["n_paired"] > 5]
    assert len(p) > 200
    assert np.mean(np.array(p) < 0.05) <= 0.09
