"""`experiment=paper`: one command to a report that stands by itself, however often it was interrupted."""

from __future__ import annotations

import html
import json
import multiprocessing
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from experiments.base.options import typed
from experiments.paper import parts_of_papers
from interp.model.checkpoints import CHECKPOINTS
from interp.organisms.word_problems import Split, make_problem, solve
from interp.runs.about import About
from interp.runs.claims import CLAIMS
from interp.runs.names import readable_text
from interp.runs.report import Part, Report, report_page, sentence
from interp.runs.store import read_table
from tests.command import ROOT, SMALL_PAPER, ok, published_beside, run

SMALL = ["experiment=paper", *SMALL_PAPER, "progress=false"]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("paper") / "run"
    ok(*SMALL, "figures=true", f"hydra.run.dir={directory}")
    return directory


def tables(directory: Path) -> dict[str, bytes]:
    """Every table and summary of a run, by its place."""
    files = [*directory.rglob("*.parquet"), *directory.rglob("summary.json"), directory / "traces.jsonl"]
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_every_part_measures_the_same_traces(paper: Path) -> None:
    shared = [json.loads(line)["id"] for line in (paper / "traces.jsonl").read_text().splitlines()]
    environment = json.loads((paper / "heads" / "environment.json").read_text())
    assert environment["options"]["data"]["path"] == str(paper / "traces.jsonl")
    measured = read_table(paper / "heads", "traces")["example"].tolist()
    assert measured == shared[:2]
    assert (paper / "figures" / "a_fig3_head_masses.png").is_file()
    assert (paper / "figures" / "a_fig4_maps.pdf").is_file()
    assert (paper / "figures" / "a_table3_effect.tex").is_file()
    summary = json.loads((paper / "summary.json").read_text())
    assert {headline["name"].split(":")[0] for headline in summary["headlines"]} == {"evaluate", "heads"}
    assert set(summary["missing"]) == set(parts_of_papers()) - {"evaluate", "heads"}


def test_one_ranking_of_heads_serves_the_whole_report(tmp_path: Path) -> None:
    options = [*SMALL, "+experiment.options.patching.layers=0", "experiment.quick=true", "figures=false"]
    options += ["experiment.parts=[evaluate,heads,patching]", "experiment.pairs=9"]
    ok(*options, f"hydra.run.dir={tmp_path / 'a'}")
    ranked, patched = (json.loads((tmp_path / "a" / p / "summary.json").read_text()) for p in ("heads", "patching"))
    assert patched["rfhs"] == ranked["top_heads"]
    used = json.loads((tmp_path / "a" / "patching" / "environment.json").read_text())["options"]
    assert (used["data"]["limit"], used["experiment"]["maps"], used["experiment"]["layers"]) == (9, 0, 0)
    shutil.rmtree(tmp_path / "a" / "patching")
    (tmp_path / "a" / "summary.json").unlink()
    ok(*options, f"resume={tmp_path / 'a'}")
    again = json.loads((tmp_path / "a" / "patching" / "summary.json").read_text())
    assert again["rfhs"] == ranked["top_heads"]


def test_what_a_quick_report_leaves_out_are_options_of_its_parts() -> None:
    for name, record in parts_of_papers().items():
        assert record.in_paper is not None
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            options = compose("config", [f"experiment={name}"]).experiment
        before = set(options)
        options.merge_with(record.in_paper.quick)
        typed(record.options, options, name)
        assert set(options) == before
        assert name != "heads" or options.haystack.lengths, "a claim needs retrieval heads"


def test_the_report_stands_by_itself(paper: Path) -> None:
    page = (paper / "report.html").read_text()
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert sources
    beside = "figures/explore.html"
    assert all(source.startswith(("data:image/png;base64,", "#")) or source == beside for source in sources)
    assert sources.count(beside) == 1
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Paper A, section 4" in page
    verdicts = json.loads((paper / "summary.json").read_text())["verdicts"]
    glance = page[page.index('<ol class="glance"') : page.index("The explorer")]
    end = page.index('<h2 id="not-run">')
    for one in verdicts:
        link = f'<a href="#claim-{one["claim"]}"><span class="outcome">{one["claim"]} {one["outcome"]}</span></a>'
        tested = one["outcome"] != "not tested here"
        assert (link in glance) == tested
        assert (page.index(f'id="claim-{one["claim"]}"') < end) == tested, "what was not run stands at the end"
    assert page.index("A training takes longer than a report should") > end


def test_published_and_found_stand_side_by_side_with_their_direction(paper: Path) -> None:
    page = (paper / "report.html").read_text()
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for part in ("evaluate", "heads"):
        section = page[page.index(f'<h2 id="{part}">') :].split("<h2")[1]
        rows = [html.unescape(re.sub(r"<[^>]*>", "", row)) for row in section.split("<tr>")]
        published = parts_of_papers()[part].about.beside
        for key, name in published_beside(part, paper / part).items():
            assert any(row.startswith(readable_text(name)) and published[key] in row for row in rows), key
    verdicts = json.loads((paper / "summary.json").read_text())["verdicts"]
    compared = [one for one in verdicts if one["decided_by"] and one["decided_by"]["comparison"]]
    assert compared
    for one in compared:
        row = page[page.index(f'<tr id="claim-{one["claim"]}"') :].split("</tr>")[0]
        published, here = row.split("<td>")[2:4]
        difference = one["decided_by"]["comparison"]["value"]
        assert one["expected"] in published
        decided = one["outcome"] in ("agrees", "opposite")
        assert (("▲ higher" if difference > 0 else "▼ lower") in here) is decided
        assert one["outcome"] in here
    for raw in ("answer_reasoning", "end_think", "resid_pre", "with_reasoning", "per_token", "p_permutation"):
        assert not re.search(rf"\b{raw}\b", text), raw


def test_no_number_of_a_part_is_told_twice(paper: Path) -> None:
    page = (paper / "report.html").read_text()
    for part in ("evaluate", "heads"):
        section = page[page.index(f'<h2 id="{part}">') :].split("<h2")[1]
        names = re.findall(r"<tr><td>(.*?)</td>", section.split("</table>")[0])
        summary = json.loads((paper / part / "summary.json").read_text())
        assert len(names) == len(set(names)) == len(summary["headlines"])


def test_the_explorer_knows_what_all_parts_know(paper: Path, tmp_path: Path) -> None:
    page = (paper / "figures" / "explore.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    answers = read_table(paper / "evaluate", "answers")
    graded = answers[answers["condition"] == "with_reasoning"].set_index("example")
    for block in data["traces"]:
        row = graded.loc[block["name"]]
        assert block["answer"] == {"gold": row["gold"], "model": row["extracted"], "correct": bool(row["correct"])}
    assert not (paper / "heads" / "figures" / "explore.html").exists(), "one for the whole run is enough"
    ok("experiment=figures", f"run={paper}", f"hydra.run.dir={tmp_path / 'again'}")
    assert (tmp_path / "again" / "figures" / "explore.html").read_text() == page


def test_the_report_opens_in_a_browser_without_network(paper: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    check = """<script>addEventListener("load", () => { const all = [...document.images];
      document.title = `shown ${all.filter(i => i.complete && i.naturalWidth > 50).length} of ${all.length}`; });
      addEventListener("error", e => document.title = `error ${e.message}`);</script>"""
    page = tmp_path / "page.html"
    page.write_text((paper / "report.html").read_text().replace("<body>", f"<body>{check}", 1))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    shown = re.search(r"<title>shown (\d+) of (\d+)</title>", done.stdout)
    assert shown, done.stdout[:500]
    assert shown[1] == shown[2]
    assert int(shown[1]) > 8
    assert "CONSOLE" not in done.stderr


def test_killed_three_times_it_ends_with_the_same_tables(paper: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, as often as it takes runs to end; each one's tables equal the uninterrupted run's."""
    context = multiprocessing.get_context("forkserver")  # which imports everything once
    context.set_forkserver_preload(["tests.command", "experiments.heads", "experiments.evaluate", "experiments.paper"])
    rng, theirs, kills, ended = random.Random(0), tables(paper), 0, 0
    while kills < 3 or not ended:
        directory = tmp_path / str(ended)
        began = (directory / "environment.json").is_file()
        child = context.Process(
            target=run, args=(*SMALL, f"resume={directory}" if began else f"hydra.run.dir={directory}")
        )
        child.start()
        child.join(rng.uniform(0.5, 4) if kills < 3 else 200)
        if child.is_alive():
            child.kill()
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0
        if (directory / "summary.json").is_file():
            ours = tables(directory)
            assert ours.keys() == theirs.keys()
            assert [name for name in ours if ours[name] != theirs[name]] == []
            ended += 1


def test_given_traces_are_measured_as_they_are(paper: Path, tmp_path: Path) -> None:
    given = [f"data.path={paper / 'traces.jsonl'}", "experiment.parts=[heads]", f"hydra.run.dir={tmp_path / 'r'}"]
    ok(*SMALL, "data=traces", *given)
    assert (tmp_path / "r" / "heads" / "heads.parquet").read_bytes() == (paper / "heads" / "heads.parquet").read_bytes()


def test_an_untrained_model_agrees_with_nothing(tmp_path: Path) -> None:
    """Its heads differ, its curves have peaks and cut heads change its words: none of it is what the papers say."""
    set_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CHECKPOINTS / "word-reasoner")).save_pretrained(
        tmp_path / "model"
    )
    AutoTokenizer.from_pretrained(CHECKPOINTS / "word-reasoner").save_pretrained(tmp_path / "model")
    made = (make_problem(5, Split.HELD_OUT, i) for i in range(12))
    solved = [(problem, *solve(problem, random.Random(i))) for i, problem in enumerate(made)]
    texts = [f"<bos> {one.question} <think> {thought} </think> {answer} <eos>" for one, thought, answer in solved]
    rows = [{"text": text} for text in texts]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    done = ok(
        *("experiment=paper", "model=huggingface", f"model.path={tmp_path / 'model'}", "data=traces", "figures=false"),
        *(f"data.path={tmp_path / 'traces.jsonl'}", "experiment.traces=12", "experiment.parts=[heads,rhythm,ablate]"),
        *("+experiment.options.heads.haystack.lengths=[]", "+experiment.options.ablate.haystack.lengths=[]"),
        *(
            f"+experiment.options.ablate.{one}"
            for one in ("doses=[2]", "random_sets=25", "kinds=[zero]", "write=false")
        ),
        *(f"+experiment.options.ablate.{one}" for one in ("lists=[rfh]", "each_head=false", "window=0")),
        *("progress=false", f"hydra.run.dir={out}"),
    )
    found = {one["claim"]: one["outcome"] for one in json.loads((out / "summary.json").read_text())["verdicts"]}
    assert found.keys() == CLAIMS.keys()
    assert "agrees" not in found.values()
    assert {"A2", "A3", "A4", "A6", "A6.edges", "B2", "B4"} <= {c for c, o in found.items() if o != "not tested here"}
    page = (out / "report.html").read_text()
    assert "given, so that the verdicts" in page
    assert "The model&#39;s weights are random" in page
    assert "the model's weights are random" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("experiment.parts=[head]", "experiment.parts=head is not known: use evaluate, heads"),
        ("experiment.parts=[]", "must name some of"),
        ("experiment.traces=0", "must be at least 1"),
        ("+experiment.options.heads.top=3", "experiment.options.heads"),
        ("experiment.parts=[heads]", "add evaluate to experiment.parts"),
        ("+experiment.options.perturb.k=3", "experiment.options.perturb is of a part that is not run: add perturb to"),
        ("data.limit=3", "data.limit is not read by a report: set experiment.questions"),
    ],
)
def test_wrong_options_end_in_one_line(wrong: str, message: str, tmp_path: Path) -> None:
    done = run(*SMALL, wrong, cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    assert message in errors[0]


def number(value: float, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"name": "share", "value": value, "n": 4, "low": low, "high": high, "control": None, **more}


def test_sentences_say_what_differs() -> None:
    chance = {**number(0.3, 0.2, 0.41), "kind": "an even head"}
    compared = {"test": "paired", **number(0.2, 0.1, 0.3), "p": 0.004}
    one = {**number(0.5, 0.4, 0.6, control=chance), "comparison": compared}
    assert sentence(one).endswith("differs by +0.200 [+0.100, +0.300], p = 0.004, n = 4 pairs</span>.")
    few = {**one, "comparison": {**compared, "test": "sets", "p": 0.06}}
    assert sentence(few).endswith("— undecided with 4 sets (p = 0.06, difference +0.200).")
    assert sentence(number(0.5, 0.4, 0.6)) == "share: <b>0.500 [0.400, 0.600]</b> (n = 4)."


def test_text_of_models_is_escaped(tmp_path: Path) -> None:
    found = {"headlines": [number(0.5)], "lines": ["<script>alert(1)</script>"]}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "words.csv").write_text("token\n<b>x</b>\n")
    made = {"versions": {}, "model": None, "seed": 0, "git_commit": None, "device": None, "command": "<run>"}
    page = report_page(Report("a & b", [Part("heads", tmp_path, found)], made), {"heads": About("Where?", "Looks.")})
    assert "<script>" not in page
    assert "<b>x</b>" not in page
    assert "&lt;run&gt;" in page
