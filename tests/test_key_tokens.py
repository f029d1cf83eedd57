"""Corrupted reasoning: what is changed, what the answer makes of it, and the way that a change takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from interp.key_tokens.corruptions import Corrupted, Corruption, Wordings, corruptions, reworded
from interp.key_tokens.effects import Written, effect_rows, places, summary_rows, traced, write_answers
from interp.model.lens import Lens
from interp.organisms.word_tokenizer import word_tokenizer
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace, parse_text
from tests.command import SMALLEST, ok, run

TEXT = (
    "Tom 3 pens, finds 4. Mia 5 pens, buys 1. Who has most pens, Tom or Mia? "
    "<think> First, Tom 3. 3 + 4 = 7. So Tom 7. Next, Mia 5. 5 + 1 = 6. So Mia 6. 7 is more than 6. </think> "
    "Tom 7 pens. Mia 6 pens. The answer is Tom."
)


@pytest.fixture(scope="module")
def trace(words: PreTrainedTokenizerBase) -> Trace:
    return parse_text(TEXT, words, example="t")


def changes(trace: Trace, words: PreTrainedTokenizerBase, kind: Corruption) -> list[Corrupted]:
    wordings = Wordings("Wait, {}", "Okay.", {"so": "next", "first": "nowhere"})
    return list(corruptions(trace, words, np.random.default_rng(0), [kind], wordings))


def test_numbers_and_names_change_one_token_each(trace: Trace, words: PreTrainedTokenizerBase) -> None:
    close = trace[Segment.ANSWER].start
    for kind, n in ((Corruption.NUMBER, 12), (Corruption.NAME, 4)):
        found = changes(trace, words, kind)
        assert len(found) == n
        for case in found:
            assert case.aligned
            assert len(case.ids) == close
            differ = [i for i, (a, b) in enumerate(zip(trace.token_ids, case.ids, strict=False)) if a != b]
            assert differ == list(range(case.position, case.position_end))
            assert trace[Segment.REASONING].start <= case.position < trace[Segment.REASONING].end
            assert trace.token_text(case.position).strip() == case.old != case.new
            assert words.decode([case.ids[case.position]]) == case.new
    assert {case.new for case in changes(trace, words, Corruption.NAME)} == {"Tom", "Mia"}
    assert all(abs(int(c.old) - int(c.new)) <= 2 for c in changes(trace, words, Corruption.NUMBER) if int(c.old) > 2)


def test_steps(trace: Trace, words: PreTrainedTokenizerBase) -> None:
    spans = reasoning_sentences(trace)
    texts = [trace.text[trace.offsets[a][0] : trace.offsets[b - 1][1]].strip() for a, b in spans]
    assert texts == [
        "First, Tom 3.",
        "3 + 4 = 7.",
        "So Tom 7.",
        "Next, Mia 5.",
        "5 + 1 = 6.",
        "So Mia 6.",
        "7 is more than 6.",
    ]
    deleted = changes(trace, words, Corruption.DELETE)
    assert [len(c.ids) for c in deleted] == [trace[Segment.ANSWER].start - (b - a) for a, b in spans]
    assert "So Tom 7" not in words.decode(list(deleted[2].ids))
    for case in changes(trace, words, Corruption.SHUFFLE):
        assert sorted(case.new.rstrip(".").split()) == sorted(case.old.strip().rstrip(".").split())
        assert case.new.strip() != case.old.strip()
    said = changes(trace, words, Corruption.PARAPHRASE)
    assert [c.new.strip() for c in said] == [f"Wait, {text}" for text in texts]
    assert not any(c.aligned for c in said)
    assert [c.new.strip() for c in changes(trace, words, Corruption.REWORD)] == ["Next Tom 7.", "Next Mia 6."]


def test_what_the_vocabulary_does_not_know_or_what_changes_nothing_is_no_change(
    trace: Trace, words: PreTrainedTokenizerBase
) -> None:
    def of(kind: Corruption, wordings: Wordings) -> list[Corrupted]:
        return list(corruptions(trace, words, np.random.default_rng(0), [kind], wordings))

    assert len(of(Corruption.INERT, Wordings("Wait, {}", "Okay.", {}))) == 7
    for nothing in (Wordings(" {}", "", {}), Wordings("Zebra: {}", "Zebra.", {"so": "zebra", "first": "First"})):
        for kind in (Corruption.INERT, Corruption.PARAPHRASE, Corruption.REWORD):
            assert of(kind, nothing) == []


def test_a_number_does_not_become_one_that_the_vocabulary_does_not_know() -> None:
    known = word_tokenizer([*["Tom", "has", "pens", ".", "So", "8", "9"], *["The", "answer", "is"]])
    trace = parse_text("Tom has 8 pens . <think> So 9 pens . </think> The answer is 9 .", known, example="t")
    (case,) = changes(trace, known, Corruption.NUMBER)
    assert (case.old, case.new) == ("9", "8")


def test_other_words_keep_capitals_and_leave_parts_of_words_alone() -> None:
    others = {"so": "thus", "so that": "in order that", "let's": "let us"}
    assert reworded("So also so, so that let's see.", others) == "Thus also thus, in order that let us see."
    assert reworded("So.", {}) == "So."


def test_real_traces_can_be_changed(r1_traces: Path, smollm2: Lens) -> None:
    from interp.data.datasets import read_traces

    item = next(iter(read_traces(r1_traces, {"condition": "with_reasoning"})))
    trace = parse_text(item.text, smollm2.tokenizer, smollm2.markers)
    found = list(
        corruptions(
            trace,
            smollm2.tokenizer,
            np.random.default_rng(0),
            list(Corruption),
            Wordings("In other words, {}", "Okay.", {"so": "thus"}),
        )
    )
    kinds = {case.kind for case in found}
    assert {Corruption.NUMBER, Corruption.DELETE, Corruption.SHUFFLE, Corruption.PARAPHRASE} <= kinds
    for case in found[:200]:
        text = str(smollm2.tokenizer.decode(list(case.ids)))
        assert text.rstrip().endswith("</think>")
        if case.kind is Corruption.NUMBER:
            assert len(case.ids) == trace[Segment.ANSWER].start


def test_where_a_change_lies(trace: Trace, words: PreTrainedTokenizerBase) -> None:
    deleted = changes(trace, words, Corruption.DELETE)
    assert [places(trace, case)["step_from_end"] for case in deleted] == ["4", "4", "4", "4", "3", "2", "1"]
    assert [places(trace, case)["third"] for case in deleted] == ["1", "1", "1", "2", "2", "3", "3"]


def written(text: str) -> Written:
    return Written((), text, finished=True)


def test_what_became_of_the_answer_by_hand(trace: Trace) -> None:
    def case(kind: Corruption, new: str) -> Corrupted:
        return Corrupted(kind, (), 30, 31, "7", new, True)

    clean = written("The answer is 7.")
    cases = [
        case(Corruption.NUMBER, "9"),
        case(Corruption.NUMBER, "9"),
        case(Corruption.NUMBER, "7"),
        case(Corruption.DELETE, ""),
    ]
    answers = [written(f"The answer is {x}.") for x in ("9", "8", "7", "8")]
    rows = effect_rows(trace, cases, clean, answers, "7")
    found = [{r["metric"]: r["value"] for r in rows[i:j]} for i, j in ((0, 4), (4, 8), (8, 10), (10, 12))]
    assert found[0] == {"answer_changed": 1.0, "follows_corrupted": 1.0, "neither": 0.0, "correct": -1.0}
    assert found[1] == {"answer_changed": 1.0, "follows_corrupted": 0.0, "neither": 1.0, "correct": -1.0}
    # the new number is the clean answer anyway: following cannot be told from staying
    assert found[2] == {"answer_changed": 0.0, "correct": 0.0}
    assert found[3] == {"answer_changed": 1.0, "correct": -1.0}


def test_following_is_counted_only_where_it_is_possible(trace: Trace) -> None:
    """A number cannot become an answer that is a name, and the other way round."""
    cases = [
        Corrupted(kind, (), 30, 31, old, new, True)
        for kind, old, new in ((Corruption.NUMBER, "7", "9"), (Corruption.NAME, "Tom", "Mia"))
    ]
    for answer, possible in (("7", [True, False]), ("Tom", [False, True]), ("many", [False, False])):
        rows = effect_rows(trace, cases, written(f"The answer is {answer}."), [written("The answer is 1.")] * 2, None)
        for case, follows in zip(cases, possible, strict=True):
            metrics = {row["metric"] for row in rows if row["intervention"] == case.kind}
            assert metrics == {"answer_changed", *(("follows_corrupted", "neither") if follows else ())}


def test_an_answer_that_the_limit_cuts_off_is_no_change(trace: Trace) -> None:
    case = Corrupted(Corruption.NUMBER, (), 30, 31, "7", "9", True)
    cut = Written((), "Let me see. 3 +", finished=False)
    rows = effect_rows(trace, [case], written("The answer is 7."), [cut], "7")
    values = {row["metric"]: row["value"] for row in rows}
    assert values == {"answer_changed": None, "follows_corrupted": None, "neither": None, "correct": -1.0}


def test_answers_do_not_depend_on_the_batch(word_reasoner: Lens) -> None:
    trace = parse_text(TEXT, word_reasoner.tokenizer, word_reasoner.markers)
    prefixes = [case.ids for case in changes(trace, word_reasoner.tokenizer, Corruption.DELETE)]
    together = write_answers(word_reasoner, prefixes, 40, 16)
    alone = [write_answers(word_reasoner, [prefix], 40, 1)[0] for prefix in prefixes]
    assert together == alone


def test_the_way_of_a_change(word_reasoner: Lens) -> None:
    """At the first layer the changed token alone carries it, at the last one the predicting token alone."""
    trace = parse_text(TEXT, word_reasoner.tokenizer, word_reasoner.markers)
    cases = changes(trace, word_reasoner.tokenizer, Corruption.NAME) + changes(
        trace, word_reasoner.tokenizer, Corruption.NUMBER
    )
    clean, *answers = write_answers(
        word_reasoner, [trace.token_ids[: trace[Segment.ANSWER].start], *(c.ids for c in cases)], 40, 16
    )
    rows = []
    for case, new in zip(cases, answers, strict=True):
        rows += traced(word_reasoner, trace, case, clean, new, range(word_reasoner.n_layers))
        assert bool(rows) or new.ids == clean.ids
    assert rows
    table = pd.DataFrame(rows)
    changed = table[(table["role"] == "changed") & (table["layer"] == 0)]["value"]
    np.testing.assert_allclose(changed, 1.0, atol=1e-4)
    last = table[table["layer"] == word_reasoner.n_layers - 1]
    # patching before the last layer at the predicting token leaves the keys and values of the corrupted reasoning
    assert (last[last["role"] == "changed"]["value"].abs() < 1).all()
    identical = Corrupted(Corruption.NUMBER, trace.token_ids[: trace[Segment.ANSWER].start], 30, 31, "3", "3", True)
    assert traced(word_reasoner, trace, identical, clean, clean, range(word_reasoner.n_layers)) == []


def test_summary_by_hand(trace: Trace) -> None:
    def row(kind: Corruption, value: float, position: int, example: str) -> dict[str, object]:
        about = {"example": example, "intervention": kind, "position": position, "position_end": position + 1}
        return {**about, "token": "7", "forced": "8", "metric": "answer_changed", "value": value}

    start = trace[Segment.REASONING].start
    effects = pd.DataFrame(
        [
            row(Corruption.NUMBER, 1.0, start, "a"),
            row(Corruption.NUMBER, 0.0, start + 1, "a"),
            row(Corruption.NUMBER, 1.0, trace[Segment.REASONING].end - 1, "b"),
            row(Corruption.PARAPHRASE, 0.0, start, "a"),
            row(Corruption.PARAPHRASE, 0.0, start, "b"),
        ]
    )
    rows = {(r["kind"], r["group"], r["value_of_group"]): r for r in summary_rows(effects, {"a": trace, "b": trace}, 0)}
    whole = rows[Corruption.NUMBER, "all", None]
    assert (whole["value"], whole["n"], whole["n_cases"]) == (0.75, 2, 3)
    assert whole["p"] == 0.5  # two traces: two of the four sign flips are as far from 0
    assert rows[Corruption.NUMBER, "third", "1"]["value"] == 0.5
    assert rows[Corruption.NUMBER, "third", "3"]["value"] == 1.0
    assert "p" not in rows[Corruption.PARAPHRASE, "all", None]


def test_a_change_is_compared_on_the_traces_that_have_both(trace: Trace) -> None:
    """The control of other traces would turn the sign: 1 against .5 where both are, .75 against .83 over all."""

    def row(kind: Corruption, value: float, example: str) -> dict[str, object]:
        about = {"example": example, "intervention": kind, "position": 30, "position_end": 31, "token": "7"}
        return {**about, "forced": "8", "metric": "answer_changed", "value": value}

    own = {"a": 1.0, "b": 1.0, "only": 0.25}
    harmless = {"a": 0.0, "b": 1.0, **{f"other {i}": 1.0 for i in range(4)}}
    effects = pd.DataFrame(
        [row(Corruption.NUMBER, value, name) for name, value in own.items()]
        + [row(Corruption.INERT, value, name) for name, value in harmless.items()]
        + [row(Corruption.PARAPHRASE, 1.0, "a")]
    )
    found_rows = summary_rows(effects, dict.fromkeys({*own, *harmless}, trace), 0)
    rows = {row["kind"]: row for row in found_rows if row["group"] == "all"}
    found = rows[Corruption.NUMBER]
    assert found["value"] == 0.75
    assert (found["control"], found["control_value"]) == (Corruption.INERT, 0.5)
    assert (found["difference"], found["n_paired"]) == (0.5, 2)
    assert rows[Corruption.PARAPHRASE]["difference"] == 1.0
    assert rows[Corruption.INERT].get("difference") is None


def test_a_limit_shorter_than_the_answer_leaves_the_trace_out(tmp_path: Path) -> None:
    out = tmp_path / "run"
    limit = "experiment.max_answer_tokens=3"
    done = run("experiment=key_tokens", "model=reasoner", "data.limit=2", limit, f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert "2 its answer is longer than experiment.max_answer_tokens" in " ".join(done.stderr.split())


def test_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok(
        "experiment=key_tokens",
        "model=reasoner",
        "data.limit=4",
        "progress=false",
        "figures=true",
        f"hydra.run.dir={out}",
    )
    effects, corrupted = (pd.read_parquet(out / f"{name}.parquet") for name in ("effects", "corrupted"))
    assert set(effects["intervention"]) >= {
        kind.value for kind in Corruption if kind not in (Corruption.NAME, Corruption.REWORD)
    }
    assert corrupted[corrupted["metric"] != "correct"]["value"].between(0, 1).all()
    answers = pd.read_parquet(out / "answers.parquet")
    assert len(answers) == 4
    for name in ("key_kinds", "key_places"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("experiment.kinds=[burn_step]", "experiment.kinds=burn_step is not known"),
        ("experiment.kinds=[]", "must have at least 1 item"),
        ("experiment.paraphrase=hm", "needs {} where the text is put in"),
        ("experiment.paraphrase='{}'", "experiment.paraphrase={} needs words around {}"),
        (
            "experiment.paraphrase='Zebra, {}'",
            "does not know experiment.paraphrase='Zebra, {}': set another",
        ),
        ("experiment.inert=''", "experiment.inert= must not be blank"),
        (
            "experiment.inert=Zebra.",
            "one, or leave insert_inert out of experiment.kinds",
        ),
        ("experiment.each=0", "experiment.each=0 must be at least 1"),
        ("experiment.traced=-1", "must not be negative"),
        ("experiment.batch=0", "experiment.batch=0 must be at least 1"),
    ],
)
def test_wrong_options(tmp_path: Path, option: str, complaint: str) -> None:
    out = tmp_path / "run"
    done = run("experiment=key_tokens", *SMALLEST["key_tokens"], option, "progress=false", f"hydra.run.dir={out}")
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
    assert not out.exists()


def test_unknown_words_are_refused_before_a_dry_run_and_only_where_they_are_used(tmp_path: Path) -> None:
    asked = ("experiment=key_tokens", "model=planted", "data.limit=1", "experiment.traced=0", "progress=false")
    unknown = ("experiment.inert=Zebra.", f"hydra.run.dir={tmp_path / 'run'}")
    done = run(*asked, *unknown, "dry_run=true")
    assert done.returncode == 2
    assert "loading" not in done.stderr
    ok(*asked, *unknown, "experiment.kinds=[delete_step]")


def test_planted_knows_the_words_that_are_put_in_by_default(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ok("experiment=key_tokens", "model=planted", "data.limit=2", "experiment.traced=0", f"hydra.run.dir={out}")
    forced = pd.read_parquet(out / "effects.parquet").set_index("intervention")["forced"]
    assert all(text.lstrip().startswith("Okay.") for text in forced[Corruption.INERT.value])
    assert all(text.lstrip().startswith("Wait,") for text in forced[Corruption.PARAPHRASE.value])
