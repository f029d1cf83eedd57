"""The explorer: what is kept, and what the page's data say, by hand."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.figures.explorer import page as pages
from interp.figures.explorer.packing import Rows, packed
from interp.figures.explorer.page import explorer
from interp.heads import largest as kept
from interp.heads.largest import attention_rows
from interp.heads.scores import Head
from interp.model.lens import Lens
from interp.model.streaming import eager_weights
from interp.organisms.planted import CIRCUIT
from interp.runs.store import tables_of
from interp.text.trace import Segment, Trace
from tests.command import NO_PROBES, ok
from tests.explored import HOSTILE, Tables, attention_of, heads_run, hostile_trace, small_trace, tables, trace_of
from tests.test_attention import make_trace
from tests.test_planted import traces as planted_traces


def data_of(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def unpacked(text: str, n: int, maps: int) -> list[list[list[tuple[int, int]]]]:
    """For each map and position its (key, code) pairs, the plain way."""
    raw = zlib.decompress(base64.b64decode(text))
    counts, rest = raw[: n * maps], raw[n * maps :]
    total = sum(counts)
    low, high, codes = rest[:total], rest[total : 2 * total], rest[2 * total : 3 * total]
    assert len(rest) == 3 * total + 2 * n * maps
    found, at = [], 0
    for count in counts:
        row, key = [], 0
        for _ in range(count):
            key += low[at] + 256 * high[at]
            row.append((key, codes[at]))
            at += 1
        found.append(row)
    return [found[i * n : (i + 1) * n] for i in range(maps)]


# --- what is kept ---


@pytest.mark.parametrize("rows_bytes", [kept.ROWS_BYTES, 1000])
def test_the_largest_weights_are_those_of_the_whole_pattern(
    small_lens: Lens, rows_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, and in many over a few rows each."""
    monkeypatch.setattr(kept, "ROWS_BYTES", rows_bytes)
    trace = make_trace(1, 8, 1, 12, 1, 9)
    one, some = Head(1, 3), [Head(0, 1), Head(2, 0), Head(2, 5)]
    rows = attention_rows(small_lens, trace, [one], {"rfh": some, "none": []}, 5)
    whole = torch.stack(eager_weights(small_lens, trace.measured_ids)).double().numpy()
    patterns = {
        "all": whole.mean((0, 1)),
        "rfh": np.mean([whole[head] for head in some], axis=0),
        None: whole[one],
    }
    assert len(rows) == 3 * trace.n_measured
    for row in rows:
        pattern, p = patterns[row.get("head_set")], row["position"]
        expected = sorted(np.argsort(-pattern[p, : p + 1], kind="stable")[:5])
        expected = [key for key in expected if np.round(pattern[p, key], kept.DIGITS) >= kept.LEAST]
        assert list(row["keys"]) == expected
        assert row["weights"] == pytest.approx(pattern[p, expected], abs=2e-4)
        assert row["received"] == pytest.approx(pattern[p + 1 :, p].sum(), abs=1e-4)


def test_rows_are_packed_as_the_page_unpacks_them() -> None:
    rows = Rows(np.array([1, 0, 2]), np.array([0, 1, 700]), np.array([1.0, 0.25, 0.0004]), np.array([1.5, 0.0, 2.0]))
    assert unpacked(packed([rows]), 3, 1) == [[[(0, 255)], [], [(1, 128), (700, 5)]]]
    raw = zlib.decompress(base64.b64decode(packed([rows])))
    assert np.frombuffer(raw[-6:], "<f2").tolist() == [1.5, 0.0, 2.0]
    cut = rows.cut(1)
    assert (cut.counts.tolist(), cut.keys.tolist()) == ([1, 0, 1], [0, 1])
    assert rows.cut(2) is rows


# --- what the page says ---


def test_the_data_of_a_tiny_trace_by_hand() -> None:
    trace = small_trace()
    graded = {"example": "one", "condition": "with_reasoning", "sample": 0, "gold": "4", "extracted": "4"}
    data = data_of(explorer({"heads": heads_run([trace], answers=[{**graded, "correct": True}])}, ["wait"]))
    assert data["model"] == "made"
    assert [one["id"] for one in data["maps"]] == ["all", "rfh", "1,0"]
    assert data["maps"][1]["heads"] == [[1, 0]]
    assert data["masses"] == [[0.1, 0.2], [0.3, 0.4]]
    (block,) = data["traces"]
    assert "".join(block["tokens"]) == trace.text
    assert block["segments"][3] == ["reasoning", 4, 9]
    assert block["sentences"] == [[0, 1], [1, 3], [3, 4], [4, 7], [7, 9], [9, 10], [10, 12]]
    assert block["final"] == [10, 11], "the token before the answer writes it"
    assert block["reflections"] == [7]
    assert block["answer"] == {"gold": "4", "model": "4", "correct": True}
    assert (block["curves"], block["measured"], block["notes"]) == (None, [], [])
    of_all = [row for row in attention_of(trace) if row.get("head_set") == "all"]
    found = unpacked(block["attention"], 12, 3)[0]
    for row, pairs in zip(of_all, found, strict=True):
        assert [key for key, _ in pairs] == row["keys"].tolist()
        assert [(code / 255) ** 2 for _, code in pairs] == pytest.approx(row["weights"], abs=0.005)


def test_given_traces_are_graded_where_their_file_knows_the_answer(tmp_path: Path) -> None:
    small = ["model=planted", *NO_PROBES, "experiment.resamples=20"]
    ok(*small, "data.limit=3", f"hydra.run.dir={tmp_path / 'own'}")
    own = tables_of(tmp_path / "own")
    texts, answers = own("traces")["text"], own("answers")["extracted"]
    golds = [answers[0], f"{answers[1]}0", None]
    rows = [{"id": str(i), "text": text, "gold": gold} for i, (text, gold) in enumerate(zip(texts, golds, strict=True))]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, given = tmp_path / "run", ["data=traces", f"data.path={tmp_path / 'traces.jsonl'}"]
    ok(*small, *given, "experiment.explore.traces=3", f"hydra.run.dir={out}")
    blocks = data_of(explorer({"heads": tables_of(out)}, []))["traces"]
    assert [block["answer"]["correct"] for block in blocks] == [True, False, None]
    assert [block["answer"]["model"] for block in blocks] == answers.tolist()


def test_without_grades_the_answer_is_read_and_not_judged() -> None:
    (block,) = data_of(explorer({"heads": heads_run([small_trace()])}, []))["traces"]
    assert block["answer"] == {"gold": None, "model": "4", "correct": None}


def part(trace: Trace, **rows: Any) -> Tables:
    return tables(traces=[{"example": trace.example, "token_ids": trace.token_ids}], **rows)


def test_effects_stand_beside_the_text_that_they_were_measured_on() -> None:
    trace = small_trace()
    at = {"example": "one", "position": 4, "position_end": 5, "token": " 2"}
    force = {**at, "intervention": "force_token"}
    forced = [
        {**force, "forced": forced, "control": control, "metric": metric, "value": value}
        for forced, control, metric, value in (
            ("3", None, "jaccard", 0.25), ("9", None, "jaccard", 0.75), (" 2", "own_token", "jaccard", 0.9),
            ("3", None, "answer_changed", 1.0), ("9", None, "answer_changed", None),
            (" 2", "own_token", "answer_changed", 0.0),
        )
    ]  # fmt: skip
    change = {**at, "intervention": "change_number", "forced": "7", "metric": "answer_changed", "value": 1.0}
    patch = {**at, "intervention": "patch_resid_pre", "role": "changed", "forced": "7", "metric": "nld"}
    patches = [{**patch, "layer": layer, "value": value} for layer, value in ((1, 0.5), (0, 1.0))]
    sentence = {"example": "one", "sentence": 0, "start": 4, "end": 7, "suppressed": 2.5, "demanded": -0.5}
    parts = {
        "heads": heads_run([trace]),
        "perturb": part(trace, effects=forced),
        "key_tokens": part(trace, effects=[change, *patches]),
        "sentences": part(trace, sentences=[sentence]),
        "patching": part(trace),
    }
    (block,) = data_of(explorer(parts, []))["traces"]
    assert block["measured"] == ["key_tokens", "perturb", "sentences"]
    (one,) = block["forced"]
    assert (one["at"], one["tokens"], one["n"]) == (4, ["3", "9"], 1), "one rollout's answer is not known"
    assert (one["jaccard"], one["jaccard_own"], one["answer_changed"], one["answer_changed_own"]) == (0.5, 0.9, 1, 0)
    (one,) = block["changed"]
    assert (one["kind"], one["old"], one["new"], one["answer_changed"]) == ("change_number", " 2", "7", 1)
    (one,) = block["patched"]
    assert (one["role"], one["layers"], one["nld"]) == ("changed", [0, 1], [1.0, 0.5])
    assert block["sentences_tried"] == [{"start": 4, "end": 7, "suppressed": 2.5, "demanded": -0.5, "resampled": None}]
    (note,) = block["notes"]
    assert note.startswith("patching measured contrast pairs of its own")


def test_effects_on_another_text_are_named_and_not_shown() -> None:
    trace = small_trace()
    effect = {"example": "one", "intervention": "change_number", "position": 4, "position_end": 5, "value": 1.0}
    other = tables(
        traces=[{"example": "one", "token_ids": (1, 2, 3)}], effects=[{**effect, "metric": "answer_changed"}]
    )
    (block,) = data_of(explorer({"heads": heads_run([trace]), "key_tokens": other, "perturb": tables()}, []))["traces"]
    assert "changed" not in block
    assert "forced" not in block
    assert block["notes"] == [
        "perturb did not measure this trace",
        "key_tokens measured another text under this name: nothing of it is shown here",
    ]


def test_curves_are_those_of_the_rhythm() -> None:
    tokens = [
        {"example": "one", "position": p, "waad": p / 2, "fai_to_end": 1e-9 * p, "entropy": None, "waad_peak": p == 5,
         "fai_peak": False} for p in range(4, 12)
    ]  # fmt: skip
    parts = {"heads": heads_run([small_trace()]), "rhythm": part(small_trace(), tokens=tokens)}
    curves = data_of(explorer(parts, []))["traces"][0]["curves"]
    assert (curves["start"], curves["waad"][0], curves["fai_to_end"][1]) == (4, 2.0, 5e-9)
    assert curves["entropy"] == [None] * 8
    assert curves["peaks"] == {"waad": [5], "fai_to_end": []}


@pytest.fixture(scope="module")
def hostile() -> str:
    trace = hostile_trace()
    return explorer({"heads": heads_run([trace], attention_of(trace, largest=16))}, ["wait"])


def test_a_hostile_trace_is_text_and_the_page_is_small(hostile: str) -> None:
    assert len(hostile.encode()) < pages.MAX_BYTES
    body = hostile.split("<body>")[1]
    assert re.findall(r"<script[^>]*>", body) == ['<script type="application/json" id="data">', "<script>"]
    assert body.count("</script>") == 2
    assert "onerror" not in re.sub(r'id="data">.*?</script>', "", body)
    assert not re.search(
        r"(?:src|href)=|https?:(?!//www\.w3\.org)|@import|url\(", re.sub(r'id="data">.*?</script>', "", hostile)
    )
    (block,) = data_of(hostile)["traces"]
    assert not {"\u202e", "\x00"} & set("".join(block["tokens"])), "nothing turns the direction of writing"
    assert HOSTILE[0] in block["tokens"]
    assert HOSTILE[5] in block["tokens"]


def test_only_the_pages_own_style_and_script_are_obeyed(hostile: str) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', hostile)[1])
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", hostile, re.DOTALL)[1]
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy


def test_eight_traces_of_two_thousand_tokens_fit() -> None:
    """Thirteen maps of sixteen weights a row, as a run with eight heads keeps them. Random keys are the worst case."""
    rng, n, words = np.random.default_rng(0), 2000, [f" {i % 97}" for i in range(2000)]
    maps = [{"head_set": "all"}, *({"layer": layer, "head": head} for layer in range(6) for head in range(2))]
    traces = [trace_of(words, [0, 1, 200, 201, 1800, 1801, n], f"t{i}") for i in range(8)]
    rows = []
    for trace, named in ((trace, named) for trace in traces for named in maps):
        keys = np.floor(np.sort(rng.random((n, 16)), axis=1) * np.arange(1, n + 1)[:, None]).astype(int)
        weights = rng.exponential(size=(n, 16)) / 20
        for p in range(n):
            row = {"position": p, "keys": keys[p], "weights": weights[p], "received": float(weights[p, 0])}
            rows.append({"example": trace.example, **named, **row})
    page = explorer({"heads": heads_run(traces, rows)}, [])
    data = data_of(page)
    assert len(page.encode()) <= pages.MAX_BYTES
    assert (len(data["traces"]), data["left_out"]) == (8, 0)
    assert data["largest"] >= 12


def test_what_does_not_fit_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [small_trace(name) for name in "abc"]
    run = {"heads": heads_run(traces)}
    whole = explorer(run, [])
    monkeypatch.setattr(pages, "MAX_BYTES", len(whole.encode()) - 1)
    monkeypatch.setattr(pages, "LEAST_WEIGHTS", 4)
    data = data_of(explorer(run, []))
    assert [block["name"] for block in data["traces"]] == ["a", "b"]
    assert data["left_out"] == 1
    monkeypatch.setattr(pages, "LEAST_WEIGHTS", 1)
    data = data_of(explorer(run, []))
    assert (len(data["traces"]), data["largest"] < 4, data["left_out"]) == (3, True, 0)
    assert all(len(row) <= data["largest"] for rows in unpacked(data["traces"][0]["attention"], 12, 3) for row in rows)


def test_the_same_tables_give_the_same_bytes() -> None:
    assert explorer({"heads": heads_run([small_trace()])}, ["wait"]) == explorer(
        {"heads": heads_run([small_trace()])}, ["wait"]
    )
    assert explorer({"heads": heads_run([small_trace()], [])}, []) is None, "a run that kept no attention has no page"


def test_the_planted_head_is_seen_to_read_the_reasoning(planted: Lens) -> None:
    (trace,) = planted_traces(planted, 1)
    rows = attention_rows(planted, trace, [Head(*CIRCUIT.rfh)], {}, 8)
    reasoning, answer = trace[Segment.REASONING], trace[Segment.ANSWER]
    of_head = [row for row in rows if row.get("layer") is not None and row["position"] >= answer.start]
    inside = [
        float(row["weights"][(row["keys"] >= reasoning.start) & (row["keys"] < reasoning.end)].sum()) for row in of_head
    ]
    assert np.mean(inside) > 0.5
