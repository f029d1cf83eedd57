"""Responses are kept for other runs: read where all that decides them agrees, safe against whoever writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.base import shards
from interp.model import kept
from interp.model.generate import Response, Sampling, generate
from interp.model.kept import KeptGenerator
from interp.model.lens import FINGERPRINT_VALUES, Lens, ModelSource, ModelSpec, load_lens
from interp.model.thoughts import ThoughtRule
from interp.runs.parts import STATUS, fill_part
from tests.command import NO_PROBES, SMALLEST, make_session, ok, run
from tests.test_shards import Here, equal

PROMPTS = ["<bos> look red here . <think>", "<bos> a box is here my old box blue this . <think>"]
GREEDY, SAMPLED = Sampling(max_new_tokens=12), Sampling(temperature=1.0, max_new_tokens=12)
COMMON = {"experiment": "heads", "model": "planted", "data": "made", "seed": 0}


class Counted:
    """`generate`, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: object) -> list[Response]:
        self.calls += 1
        return generate(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(kept, "generate", Counted())
    return kept.generate  # type: ignore[return-value]


def keeper(lens: Lens, folder: Path) -> KeptGenerator:
    return KeptGenerator(lens, folder, COMMON)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("unfinished-"))


HEADS = ["experiment=heads", "model=planted", "data.limit=4", *NO_PROBES, "experiment.resamples=20"]
HEADS += ["experiment.unrelated=false"]
RHYTHM = ["experiment=rhythm", "model=planted", *SMALLEST["rhythm"], "data.limit=4"]
ALIKE = ["generation=sampled", "generation.batch=2", "progress=false", "threads=1"]


def test_null_is_not_called_none(tmp_path: Path) -> None:
    done = run("experiment=heads", "model=planted", "generated=none", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "generated=null reads and keeps nothing" in done.stderr


def test_another_experiment_reads_what_was_generated_and_gives_the_same_tables(
    tmp_path: Path, counted: Counted
) -> None:
    folder = tmp_path / "kept"
    ok(*RHYTHM, *ALIKE, f"hydra.run.dir={tmp_path / 'alone'}")
    ok(*HEADS, *ALIKE, f"generated={folder}", f"hydra.run.dir={tmp_path / 'heads'}")
    assert (counted.calls, len(entries(folder))) == (2, 2)
    ok(*RHYTHM, *ALIKE, f"generated={folder}", f"hydra.run.dir={tmp_path / 'rhythm'}")
    assert counted.calls == 2
    assert "traces.parquet" in equal(tmp_path / "alone", tmp_path / "rhythm")
    logs = {name: (tmp_path / name / "run.log").read_text() for name in ("heads", "rhythm")}
    assert logs["rhythm"].count("reading responses that an earlier run kept") == 1
    assert "reading responses" not in logs["heads"]


def test_a_longer_run_generates_what_is_missing(tmp_path: Path, counted: Counted) -> None:
    folder = tmp_path / "kept"
    ok(*HEADS, *ALIKE, "data.limit=2", f"generated={folder}", f"hydra.run.dir={tmp_path / 'short'}")
    ok(*HEADS, *ALIKE, f"generated={folder}", f"hydra.run.dir={tmp_path / 'long'}")
    assert counted.calls == 2
    ok(*HEADS, *ALIKE, f"hydra.run.dir={tmp_path / 'alone'}")
    equal(tmp_path / "alone", tmp_path / "long")
    # Another company in the batch decides the last bits, so it is another entry.
    ok(*HEADS, *ALIKE, "data.limit=3", f"generated={folder}", f"hydra.run.dir={tmp_path / 'odd'}")
    assert counted.calls == 3


def test_workers_read_it_too(tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "crew_of", lambda session: Here(session.directory.resolve()))
    options = [*HEADS, *ALIKE, f"generated={tmp_path / 'kept'}"]
    ok(*options, f"hydra.run.dir={tmp_path / 'one'}")
    ok(*options, "shards=2", f"hydra.run.dir={tmp_path / 'two'}")
    assert counted.calls == 2
    equal(tmp_path / "one", tmp_path / "two")


def test_everything_that_decides_a_response_tells_entries_apart(
    planted: Lens, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = keeper(planted, tmp_path)
    first = ask(PROMPTS, SAMPLED, 0, "traces", 0)
    assert ask(PROMPTS, SAMPLED, 0, "traces", 0) == first
    assert counted.calls == 1
    rule = ThoughtRule(3, None, "<think>", "</think>", " </think> ")
    for changed in (
        lambda: ask(PROMPTS[:1], SAMPLED, 0, "traces", 0),
        lambda: ask(PROMPTS[::-1], SAMPLED, 0, "traces", 0),
        lambda: ask(PROMPTS, SAMPLED, 1, "traces", 0),
        lambda: ask(PROMPTS, SAMPLED, 0, "traces", 2),
        lambda: ask(PROMPTS, replace(SAMPLED, top_p=0.5), 0, "traces", 0),
        lambda: ask(PROMPTS, replace(SAMPLED, max_new_tokens=11), 0, "traces", 0),
        lambda: ask(PROMPTS, replace(SAMPLED, temperature=0.5), 0, "traces", 0),
        lambda: ask(PROMPTS, replace(SAMPLED, thought=rule), 0, "traces", 0),
        lambda: ask(PROMPTS, GREEDY, 0, "traces", 0),
    ):
        before = counted.calls
        changed()
        assert counted.calls == before + 1
    forced = ask(PROMPTS, replace(SAMPLED, thought=rule), 0, "traces", 0)
    assert any(one.forced for one in forced)
    assert forced == generate(planted, PROMPTS, replace(SAMPLED, thought=rule), 0, "traces", 0)
    before = counted.calls
    ask(PROMPTS, GREEDY, 5, "evaluate", 0)  # nothing is drawn, so a seed decides nothing
    assert counted.calls == before
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    ask(PROMPTS, SAMPLED, 0, "traces", 0)
    assert counted.calls == before + 1


def test_one_changed_weight_is_another_model(tmp_path: Path, counted: Counted) -> None:
    first, second = (load_lens(ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner")) for _ in range(2))
    largest = max(second.hf.parameters(), key=torch.numel)
    assert largest.numel() >= 2 * FINGERPRINT_VALUES
    largest.view(-1)[1] += 1.0  # evenly spaced values of a large matrix would not see it
    assert first.fingerprint != second.fingerprint
    for lens in (first, second):
        keeper(lens, tmp_path)(PROMPTS, GREEDY, 0)
    assert counted.calls == 2


def truncated(entry: Path) -> None:
    file = entry / "responses.parquet"
    file.write_bytes(file.read_bytes()[:-40])


def flipped(entry: Path) -> None:
    """One bit among the values."""
    file = entry / "responses.parquet"
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(bytes(content))


def without_status(entry: Path) -> None:
    (entry / STATUS).unlink()


def of_another(entry: Path) -> None:
    text = (entry / STATUS).read_text()
    (entry / STATUS).write_text(text.replace('"max_new_tokens": 12', '"max_new_tokens": 13'))


def emptied(entry: Path) -> None:
    for file in entry.iterdir():
        file.unlink()


@pytest.mark.parametrize("damage", [truncated, flipped, without_status, of_another, emptied])
def test_a_damaged_entry_is_named_and_not_used(
    damage: Callable[[Path], None],
    planted: Lens,
    tmp_path: Path,
    counted: Counted,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = keeper(planted, tmp_path)(PROMPTS, GREEDY, 0)
    (entry,) = entries(tmp_path)
    damage(entry)
    left = {file.name: file.read_bytes() for file in entry.iterdir()}
    assert keeper(planted, tmp_path)(PROMPTS, GREEDY, 0) == right
    assert counted.calls == 2
    assert f"{entry} is damaged, so its responses are generated again: remove it" in caplog.text
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == left


def test_two_writers_at_the_same_time_keep_one_entry(
    planted: Lens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has filled its folder when the first one moves its own into place."""
    one, other = keeper(planted, tmp_path), keeper(planted, tmp_path)
    found = []

    def slowly(*arguments: object) -> dict[str, object]:
        status = fill_part(*arguments)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(kept, "fill_part", fill_part)
            found.append(other(PROMPTS, GREEDY, 0))
        return status

    monkeypatch.setattr(kept, "fill_part", slowly)
    found.append(one(PROMPTS, GREEDY, 0))
    assert found[0] == found[1]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_no_entry(planted: Lens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = generate(planted, PROMPTS, GREEDY, 0)

    def killed(folder: Path, *_: object) -> None:
        (folder / "responses.parquet").write_bytes(b"PAR1")
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(kept, "generate", lambda *_: right)
        patch.setattr(kept, "fill_part", killed)
        if (child := os.fork()) == 0:
            keeper(planted, tmp_path)(PROMPTS, GREEDY, 0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert any(tmp_path.iterdir())
    assert not entries(tmp_path)
    assert keeper(planted, tmp_path)(PROMPTS, GREEDY, 0) == right
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_stops_no_run(
    planted: Lens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    ask = keeper(planted, tmp_path / "file" / "below")
    assert ask(PROMPTS, GREEDY, 0) == ask(PROMPTS, GREEDY, 0)
    assert caplog.text.count("responses cannot be kept") == 1


def test_only_runs_below_outputs_keep_responses_unasked(tmp_path: Path) -> None:
    ok(*HEADS, *ALIKE, "hydra.run.dir=elsewhere", cwd=tmp_path)
    ok(*HEADS, *ALIKE, "dry_run=true", cwd=tmp_path)
    ok(*HEADS, *ALIKE, "generated=null", cwd=tmp_path)
    assert not list(tmp_path.rglob(".generated"))
    ok(*HEADS, *ALIKE, cwd=tmp_path)
    assert len(entries(tmp_path / "outputs" / ".generated")) == 2


def test_what_changes_its_model_keeps_nothing(tmp_path: Path) -> None:
    options = [f"generated={tmp_path / 'kept'}", "model=planted"]
    assert make_session(tmp_path, "experiment=heads", *options).generated == tmp_path / "kept"
    assert make_session(tmp_path, "experiment=credit", *options).generated is None


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(*HEADS, f"generated={tmp_path / 'file'}", f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "is no folder: name another, or null" in done.stderr
    assert not (tmp_path / "out").exists()
