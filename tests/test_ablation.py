"""Ablation and knockout: equal to TransformerLens' hooks, on padded batches, with a cache, and on the planted model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from interp.ablation.design import Design
from interp.ablation.effects import Labels, Subjects, answer_position
from interp.ablation.interventions import (
    Ablation,
    AblationKind,
    Knockout,
    Reference,
    Rows,
    batch_of,
    intervened,
    record_reference,
)
from interp.errors import UserError
from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.model.prefixes import BEGINNINGS
from interp.organisms.planted import CIRCUIT, make_question
from interp.text.trace import Segment, Trace, parse_ids, parse_text

HEADS = frozenset({Head(0, 1), Head(2, 0), Head(2, 5)})


def make_trace(words: PreTrainedTokenizerBase, seed: int, reasoning: int = 14, answer: int = 6) -> Trace:
    rng = np.random.default_rng(seed)
    vocab = words.get_vocab()
    body = [rng.integers(10, 100, n).tolist() for n in (5, reasoning, answer)]
    ids = [words.bos_token_id, *body[0], vocab["<think>"], *body[1], vocab["</think>"], *body[2]]
    return parse_ids(ids, words, example=str(seed))


@pytest.fixture(scope="module")
def trace(words: PreTrainedTokenizerBase) -> Trace:
    return make_trace(words, 0)


@torch.no_grad()
def hooked(lens: Lens, trace: Trace, hooks: list[tuple[str, object]]) -> torch.Tensor:
    return lens.bridge.run_with_hooks(torch.tensor([trace.measured_ids]), fwd_hooks=hooks)[0]


@torch.no_grad()
def cut(
    lens: Lens, trace: Trace, *interventions: Ablation | Knockout, reference: Reference | None = None
) -> torch.Tensor:
    batch = batch_of(lens, [trace])
    with intervened(lens, batch, interventions, reference):
        return lens.hf(batch.ids).logits[0]


@pytest.mark.parametrize("rows", Rows)
def test_zero_and_mean_ablation_equal_hooks(small_lens: Lens, trace: Trace, rows: Rows) -> None:
    reference = record_reference(small_lens, [trace], samples=8)
    means = reference.of(rows).mean(1)
    first = trace[Segment.ANSWER].start - 1 if rows is Rows.ANSWER else 0
    for kind in (AblationKind.ZERO, AblationKind.MEAN):

        def replace(
            z: torch.Tensor, hook: object, kind: AblationKind = kind, means: torch.Tensor = means
        ) -> torch.Tensor:
            layer = int(hook.name.split(".")[1])  # type: ignore[attr-defined]
            z = z.clone()
            for head in (h for h in HEADS if h.layer == layer):
                z[:, first:, head.head] = 0 if kind is AblationKind.ZERO else means[layer, head.head]
            return z

        expected = hooked(small_lens, trace, [(f"blocks.{i}.attn.hook_z", replace) for i in (0, 2)])
        found = cut(small_lens, trace, Ablation(HEADS, kind, rows), reference=reference)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("edge", [("answer", "reasoning"), ("answer", "prompt"), ("reasoning", "prompt")])
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("heads", [None, HEADS])
def test_knockouts_equal_hooks(
    small_lens: Lens, trace: Trace, edge: tuple[str, str], renormalise: bool, heads: frozenset[Head] | None
) -> None:
    source, destination = Segment(edge[0]), Segment(edge[1])
    rows = trace[source]
    start, stop = (rows.start - 1, len(trace.measured_ids)) if source is Segment.ANSWER else (rows.start, rows.end)
    keys = trace[destination]

    def edit(weights: torch.Tensor, hook: object) -> torch.Tensor:
        layer = int(hook.name.split(".")[1])  # type: ignore[attr-defined]
        chosen = list(range(6)) if heads is None else [h.head for h in heads if h.layer == layer]
        weights = weights.clone()
        for head in chosen:
            weights[:, head, start:stop, keys.start : keys.end] = -1e30 if renormalise else 0
        return weights

    name = "hook_attn_scores" if renormalise else "hook_pattern"
    expected = hooked(small_lens, trace, [(f"blocks.{i}.attn.{name}", edit) for i in range(3)])
    found = cut(small_lens, trace, Knockout(source, destination, heads, renormalise))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_padded_batch_equals_its_rows_alone(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    traces = [make_trace(words, 1, 4, 3), make_trace(words, 2, 20, 9), make_trace(words, 3, 11, 5)]
    reference = record_reference(small_lens, traces, samples=20)
    for one in (
        Ablation(HEADS, AblationKind.MEAN, Rows.ANSWER),
        Knockout(Segment.ANSWER, Segment.REASONING, None, True),
        Knockout(Segment.ANSWER, Segment.REASONING, HEADS, False),
        Knockout(Segment.REASONING, Segment.PROMPT, None, True),
    ):
        batch = batch_of(small_lens, traces)
        with torch.no_grad(), intervened(small_lens, batch, [one], reference):
            together = small_lens.hf(batch.ids, attention_mask=batch.mask).logits
        assert not together.isnan().any()
        for row, trace in zip(together, traces, strict=True):
            alone = cut(small_lens, trace, one, reference=reference)
            torch.testing.assert_close(row[-len(trace.measured_ids) :], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", AblationKind)
def test_generation_with_a_cache_equals_whole_passes(
    small_lens: Lens, words: PreTrainedTokenizerBase, kind: AblationKind
) -> None:
    traces = [make_trace(words, 4, 8, 3), make_trace(words, 5, 15, 3)]
    reference = record_reference(small_lens, traces, samples=20)
    both = [Ablation(HEADS, kind, Rows.ANSWER), Knockout(Segment.ANSWER, Segment.PROMPT, None, True)]
    prompts = batch_of(small_lens, traces, whole=False)
    with torch.no_grad(), intervened(small_lens, prompts, both, reference, seed=3):
        out = small_lens.hf.generate(  # type: ignore[operator]
            input_ids=prompts.ids, attention_mask=prompts.mask, max_new_tokens=6, min_new_tokens=6, do_sample=False,
            pad_token_id=words.pad_token_id,
        )  # fmt: skip
        mask = torch.cat([prompts.mask, torch.ones(2, 6, dtype=torch.long)], dim=1)
        logits = small_lens.hf(out, attention_mask=mask).logits
    # the end token was forbidden to it
    logits[..., words.eos_token_id] = -torch.inf
    assert (logits[:, prompts.width - 1 : -1].argmax(-1) == out[:, prompts.width :]).all()


def test_nothing_cut_changes_nothing_and_everything_is_put_back(small_lens: Lens, trace: Trace) -> None:
    with torch.no_grad():
        plain = small_lens.hf(torch.tensor([trace.measured_ids])).logits[0]
    torch.testing.assert_close(cut(small_lens, trace), plain, atol=1e-5, rtol=1e-5)
    none = Ablation(frozenset(), AblationKind.ZERO, Rows.ALL)
    torch.testing.assert_close(cut(small_lens, trace, none), plain, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(small_lens.hf(torch.tensor([trace.measured_ids])).logits[0], plain)


def test_resampling_draws_from_the_reference(small_lens: Lens, trace: Trace) -> None:
    """With one sample, resampling is mean ablation; another seed changes it with many."""
    one = record_reference(small_lens, [trace], samples=1)
    ablation = [Ablation(HEADS, kind, Rows.ANSWER) for kind in (AblationKind.MEAN, AblationKind.RESAMPLE)]
    torch.testing.assert_close(*(cut(small_lens, trace, a, reference=one) for a in ablation))
    many = record_reference(small_lens, [trace], samples=100)
    batch = batch_of(small_lens, [trace])
    logits = []
    for seed in (0, 0, 1):
        with torch.no_grad(), intervened(small_lens, batch, [ablation[1]], many, seed):
            logits.append(small_lens.hf(batch.ids).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_what_the_model_lacks(small_lens: Lens, trace: Trace) -> None:
    with pytest.raises(UserError, match="layer 7 is out of range"):
        cut(small_lens, trace, Ablation(frozenset({Head(7, 0)}), AblationKind.ZERO, Rows.ALL))
    with pytest.raises(ValueError, match="mean ablation needs a reference"):
        cut(small_lens, trace, Ablation(HEADS, AblationKind.MEAN, Rows.ALL))


@pytest.fixture(scope="module")
def planted_traces(planted: Lens) -> list[Trace]:
    traces = []
    for i in range(4):
        question = make_question(1, i)
        number = ["one", "two", "three", "four", "five", "six", "seven", "eight"][int(question.answer) - 1]
        reasoning = f"<think> well now so {number} fine good done </think>"
        text = f"{question.question} {reasoning} the answer equals {question.answer} !"
        traces.append(parse_text(text, planted.tokenizer, planted.markers, example=str(i)))
    return traces


def test_attention_is_not_influence(planted: Lens, planted_traces: list[Trace]) -> None:
    """The decoy looks at the reasoning as the RFH does and writes nothing; only the RFH matters."""
    subjects = Subjects(
        planted, planted_traces, [t.token_text(answer_position(t) or 0).strip() for t in planted_traces], 8
    )
    assert [planted.tokenizer.decode([own]) for own in subjects.own] == [make_question(1, i).answer for i in range(4)]
    for place in (Head(layer, head) for layer in range(4) for head in range(4)):
        one = (Ablation(frozenset({place}), AblationKind.ZERO, Rows.ANSWER),)
        rows = subjects.teacher_forced(one, Labels("x")) + subjects.written_anew(one, Labels("x"))
        value = {
            m: [r["value"] for r in rows if r["metric"] == m] for m in ("ld", "kl", "flipped", "same_answer", "correct")
        }
        if place == CIRCUIT.rfh:
            assert max(value["ld"]) < -20
            # silenced, the model guesses the first digit
            guessed = [float(make_question(1, i).answer == "1") for i in range(4)]
            assert value["same_answer"] == guessed
        else:
            assert np.abs(value["ld"]).max() < 1e-3
            assert max(value["kl"]) < 1e-5
            assert value["flipped"] == [0.0] * 4
            assert value["same_answer"] == [1.0] * 4


def test_an_answer_longer_than_its_limit_is_not_judged(planted: Lens, planted_traces: list[Trace]) -> None:
    """With two tokens nothing is answered, whatever is cut: that is no total effect of every intervention."""
    golds = [t.token_text(answer_position(t) or 0).strip() for t in planted_traces]
    one = (Ablation(frozenset({Head(0, 0)}), AblationKind.ZERO, Rows.ANSWER),)
    rows = Subjects(planted, planted_traces, list(golds), 2).written_anew(one, Labels("x"))
    assert {(r["metric"], r["clean"], r["value"]) for r in rows} == {
        ("same_answer", None, None),
        ("correct", None, None),
        ("finished", 0.0, 0.0),
    }


def test_an_answer_that_was_not_the_likeliest_cannot_cease_to_be(planted: Lens, planted_traces: list[Trace]) -> None:
    """The reasoning names one digit, and the second trace answers another one."""
    text, stated = planted_traces[0].text, make_question(1, 0).answer
    other = text.replace(f"equals {stated}", f"equals {int(stated) % 8 + 1}")
    traces = [
        parse_text(one, planted.tokenizer, planted.markers, example=str(i)) for i, one in enumerate((text, other))
    ]
    found = Subjects(planted, traces, [None, None], 8).teacher_forced((), Labels("x"))
    flipped = [row for row in found if row["metric"] == "flipped"]
    assert [(row["clean"], row["patched"], row["value"]) for row in flipped] == [(0.0, 0.0, 0.0), (None, None, None)]


def test_cutting_the_planted_edge_and_others(planted: Lens, planted_traces: list[Trace]) -> None:
    subjects = Subjects(planted, planted_traces, [None] * 4, 8)
    rfh = frozenset({Head(*CIRCUIT.rfh)})
    others = frozenset(Head(layer, h) for layer in range(4) for h in range(4)) - rfh
    for heads, source, destination, matters in (
        (rfh, Segment.ANSWER, Segment.REASONING, True),
        (others, Segment.ANSWER, Segment.REASONING, False),
        (None, Segment.ANSWER, Segment.PROMPT, False),
        (None, Segment.REASONING, Segment.PROMPT, False),  # the reasoning is written already
    ):
        for renormalise in (True, False):
            rows = subjects.teacher_forced((Knockout(source, destination, heads, renormalise),), Labels("x"))
            ld = [row["value"] for row in rows if row["metric"] == "ld"]
            assert (max(ld) < -20) if matters else (np.abs(ld).max() < 1e-3)


def test_effects_by_hand(planted: Lens, planted_traces: list[Trace]) -> None:
    subjects = Subjects(planted, planted_traces[:1], [None], 8)
    rfh = (Ablation(frozenset({Head(*CIRCUIT.rfh)}), AblationKind.ZERO, Rows.ANSWER),)
    found = subjects.teacher_forced(rfh, Labels("ablate_head_zero", "rfh", 1, "answer"))
    rows = {row["metric"]: row for row in found if row.get("role") is None}
    trace, batch = planted_traces[0], batch_of(planted, planted_traces[:1])
    with torch.no_grad():
        clean = planted.hf(batch.ids).logits[0].log_softmax(-1)
        with intervened(planted, batch, rfh):
            silenced = planted.hf(batch.ids).logits[0].log_softmax(-1)
    own, at = subjects.own[0], (answer_position(trace) or 0) - 1
    answer = slice(trace[Segment.ANSWER].start - 1, trace[Segment.ANSWER].end - 1)
    assert rows["logprob"]["value"] == pytest.approx(float(silenced[at, own] - clean[at, own]), rel=1e-4)
    kl = (clean[answer].exp() * (clean[answer] - silenced[answer])).sum(-1).mean()
    assert rows["kl"]["value"] == pytest.approx(float(kl), rel=1e-3)
    assert rows["ld"]["patched"] - rows["ld"]["clean"] == pytest.approx(rows["ld"]["value"])
    assert (rows["kl"]["heads_kind"], rows["kl"]["n_heads"], rows["kl"]["rows"]) == ("rfh", 1, "answer")


@pytest.mark.parametrize("kind", AblationKind)
@pytest.mark.parametrize("renormalise", [True, False])
def test_what_comes_before_the_answers_may_be_shared(
    word_reasoner: Lens, kind: AblationKind, renormalise: bool
) -> None:
    """Answers of different lengths behind reasoning of different lengths, with and without sharing."""
    problems = [
        "Tom 3 pens, finds 4. How many pens does Tom have? <think> First, Tom 3. 3 + 4 = 7. </think> The answer is 7.",
        "Mia 5 pens. How many pens? <think> Mia 5. </think> Mia 5 pens. Tom 6 pens. The answer is 5.",
    ]
    traces = [parse_text(text, word_reasoner.tokenizer, example=str(i)) for i, text in enumerate(problems)]
    shared, plain = (Subjects(word_reasoner, traces, [None, None], 8, cached=cached) for cached in (True, False))
    reference = record_reference(word_reasoner, traces, samples=8)
    heads = frozenset({Head(0, 1), Head(1, 3), Head(3, 5)})
    for interventions in (
        (Ablation(heads, kind, Rows.ANSWER),),
        (Ablation(heads, kind, Rows.ALL),),
        (Knockout(Segment.ANSWER, Segment.REASONING, None, renormalise),),
        (Knockout(Segment.REASONING, Segment.PROMPT, heads, renormalise),),
        (Ablation(heads, kind, Rows.ANSWER), Knockout(Segment.ANSWER, Segment.PROMPT, heads, renormalise)),
    ):
        both = [
            [
                *subjects.teacher_forced(interventions, Labels("x"), reference, 3),
                *subjects.written_anew(interventions, Labels("x"), reference, 3),
            ]
            for subjects in (shared, plain)
        ]
        for ours, theirs in zip(*both, strict=True):
            assert {**ours, "clean": 0, "patched": 0, "value": 0} == {**theirs, "clean": 0, "patched": 0, "value": 0}
            for number in ("clean", "patched", "value"):
                assert ours[number] == pytest.approx(theirs[number], abs=1e-4)
    assert max(abs(row["value"]) for row in both[0] if row["metric"] == "ld") > 0.01


def test_answers_written_anew_share_and_compare_nothing(word_reasoner: Lens) -> None:
    """Passes that something is cut in would compare what is cut with what is not."""
    example = "Tom 3 pens, finds 4. How many pens does Tom have? Tom 7 pens. The answer is 7. " * 3
    problems = [
        example + "Mia 5 pens. How many pens? <think> Mia 5. </think> Mia 5 pens. The answer is 5.",
        example + "Leo 2 pens. How many pens? <think> Leo 2. </think> Leo 2 pens. The answer is 2.",
    ]
    traces = [parse_text(text, word_reasoner.tokenizer, example=str(i)) for i, text in enumerate(problems)]
    word_reasoner.memo.clear()
    word_reasoner.checked.clear()
    cut = (Ablation(frozenset({Head(1, 3)}), AblationKind.ZERO, Rows.ANSWER),)
    shared, plain = (
        Subjects(word_reasoner, traces, [None, None], 8, cached=cached).written_anew(cut, Labels("x"), None, 3)
        for cached in (True, False)
    )
    assert shared == plain
    assert BEGINNINGS not in word_reasoner.checked


def test_effects_by_role_are_those_of_the_tokens(planted: Lens, planted_traces: list[Trace]) -> None:
    """The mean over the roles, weighted by their tokens, is the mean over the answer."""
    subjects = Subjects(planted, planted_traces[:2], [None, None], 8)
    knockout = Knockout(Segment.ANSWER, Segment.REASONING, None, True)
    rows = subjects.teacher_forced((knockout,), Labels("knockout_answer_reasoning"))
    for trace, roles in zip(planted_traces[:2], subjects.roles, strict=True):
        of = [row for row in rows if row["example"] == trace.example and row["metric"] == "kl"]
        (whole,) = (row["value"] for row in of if row.get("role") is None)
        parts = {row["role"]: row["value"] for row in of if row.get("role") is not None}
        assert parts.keys() == roles.keys()
        weighted = sum(parts[role] * len(places) for role, places in roles.items()) / len(trace[Segment.ANSWER])
        assert weighted == pytest.approx(whole, rel=1e-5)


def test_only_the_planted_head_keeps_its_edges(planted: Lens, planted_traces: list[Trace]) -> None:
    """Sufficient: the edge cut in all heads but the planted one leaves the answer; in all but another, it takes it."""
    design = Design([1], [AblationKind.ZERO], [Rows.ANSWER], ["answer_reasoning"], [True], 0, (), 30, False, 0, 4, 4)
    steps = [s for s in design.steps([{"rfh": [Head(*CIRCUIT.rfh)]}]) if s.labels.heads_kind == "only_rfh"]
    subjects = Subjects(planted, planted_traces[:4], [None] * 4, 8)
    change = {
        step.labels.draw: np.mean(
            [row["value"] for row in subjects.teacher_forced(step.interventions, step.labels) if row["metric"] == "ld"]
        )
        for step in steps
    }
    own = change.pop(None)
    assert own == pytest.approx(0.0, abs=0.05)
    assert max(change.values()) < -1.0
    assert len(change) == 15
