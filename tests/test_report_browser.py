"""The report in a browser: words are explained by mouse and by keys, everything can be read, nothing is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from interp.figures import style
from interp.runs.about import About
from interp.runs.glossary import GLOSSARY
from interp.runs.report import Part, Report, report_page
from interp.runs.verdicts import Verdict, complete
from tests.browser import CONTRASTS, LOADED, Browser

ABOUT = {
    "heads": About(
        "Where do answers look?",
        "The mass of answer tokens.",
        figures={"map": "Masses by head; boxes: RFHs.", "map_appendix": "Appendix: all of them.", "few": "A table."},
        published="FAI is high.",
        beside={"mass": ".138"},
    ),
    "credit": About("Does credit help?", "GRPO with credit."),
}


def number(name: str, value: float, difference: float, p: float) -> dict[str, Any]:
    ends = {"low": None, "high": None, "n": 9}
    control = {"kind": "an even head", "value": 0.1, **ends}
    comparison = {"test": "paired", "value": difference, **ends, "p": p}
    return {"name": name, "value": value, **ends, "control": control, "comparison": comparison}


def verdict(claim: str, outcome: str, number: dict[str, Any], expected: str) -> Verdict:
    return Verdict.from_json(
        {"claim": claim, "outcome": outcome, "decided_by": number, "expected": expected, "why": None}
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    figure, axis = style.subplots(figsize=(3, 2))
    axis.plot([0, 1])
    for name in ("map", "map_appendix"):
        style.save(figure, directory / "heads" / "figures", name)
    (directory / "heads" / "figures" / "few.csv").write_text("condition,value,low,high\nwith_reasoning,.5123,.4,.6\n")
    (directory / "heads" / "figures" / "many.csv").write_text("a\n" + "1\n" * 99)
    numbers = [
        number("mass answer->reasoning, top heads", 0.5, 0.4, 0.001),
        number("NLD, the phrase's answer, layer 0", 0.2, -0.1, 0.2),
    ]
    lines = [f"WAAD {i} shifted in a circle" for i in range(20)]
    summary = {"headlines": numbers, "lines": lines, "skipped": {"too long": 1}}
    parts = [
        Part("heads", directory / "heads", summary),
        Part("credit", directory / "credit", missing="It was not asked."),
    ]
    verdicts = [
        verdict("A3", "agrees", numbers[0], "higher"),
        verdict("A5", "opposite", numbers[1], "higher"),
        verdict("B2", "undecided", numbers[1], "lower"),
    ]
    made = {"versions": {"torch": "2"}, "model": None, "seed": 0, "git_commit": None, "device": None, "command": "run"}
    page = report_page(Report("A report", parts, made, ["A note."], complete(verdicts, {})), ABOUT)
    (directory / "report.html").write_text(page, encoding="utf-8")
    return directory / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


FOCUS = "document.activeElement"
SAYS = "getComputedStyle(document.querySelector({}), '::after').content"
MEANING = {term.name: term.meaning for term in GLOSSARY}


def says(browser: Browser, selector: str) -> str:
    """What stands beside an element at the moment."""
    content: str = browser.run(SAYS.format(json.dumps(selector)))
    return json.loads(content) if content.startswith('"') else ""


def test_a_word_is_explained_when_it_is_pointed_at_and_when_keys_reach_it(browser: Browser, report: Path) -> None:
    browser.open(report, ready=LOADED)
    first = "a.term"
    assert says(browser, first) == ""
    box = f"document.querySelector('{first}').getBoundingClientRect()"
    x, y = browser.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert says(browser, first) in MEANING.values()
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    reached = set()
    for _ in range(60):
        browser.press("Tab")
        if browser.run(f"{FOCUS}.matches('a.term')"):
            said = browser.run(f"getComputedStyle({FOCUS}, '::after').content")
            word = browser.run(f"{FOCUS}.getAttribute('aria-describedby')")
            assert json.loads(said) == browser.run(f"document.getElementById('{word}').textContent")
            reached.add(word)
    assert {"word-rfh", "word-mass", "word-nld", "word-phrase", "word-even-head"} <= reached
    assert browser.said == []
    assert [one for one in browser.asked if not one.startswith("data:image/png")] == [report.as_uri()]


def test_a_word_leads_to_the_glossary(browser: Browser, report: Path) -> None:
    browser.open(report, ready=LOADED)
    assert not browser.run("document.querySelector('details:has(dl)').open")
    browser.click("a.term[href='#word-nld']")
    browser.wait("document.querySelector('details:has(dl)').open")
    assert browser.run("document.querySelector('dd:target').textContent") == MEANING["NLD"]
    listed = browser.run("[...document.querySelectorAll('dl dt')].map(one => one.textContent)")
    assert listed == [term.name for term in GLOSSARY]


def test_the_first_screen_says_what_became_of_each_claim(browser: Browser, report: Path) -> None:
    browser.open(report, ready=LOADED)
    bottom = browser.run("document.querySelector('.glance').getBoundingClientRect().bottom")
    assert bottom < 768
    told = browser.run("[...document.querySelectorAll('.glance .outcome')].map(one => one.textContent)")
    assert told == ["A3 agrees", "A5 opposite", "B2 undecided"]
    ways = browser.run("[...document.querySelectorAll('#claim-A5 .way')].map(one => one.textContent)")
    assert ways == ["▲ higher", "▼ lower"], "published, and here"


def test_what_everybody_needs_to_read_it_is_there(browser: Browser, report: Path) -> None:
    browser.open(report, ready=LOADED)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.run(CONTRASTS) == []
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3')].map(one => +one.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.run("[...document.images].every(one => one.alt && one.naturalWidth > 0)")
    assert browser.run("[...document.querySelectorAll('table')].every(one => one.querySelector('th[scope=col]'))")
    assert browser.run("[...document.querySelectorAll('[id]')].length") == browser.run(
        "new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size"
    )
    assert browser.run(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every(one => document.querySelector(one.hash))"
    )
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    used = [n for n in nodes if not n["ignored"] and n["role"]["value"] in ("link", "image", "img", "navigation")]
    assert used
    assert all(node.get("name", {}).get("value") for node in used)
    assert browser.run("document.documentElement.lang") == "en"


def test_large_tables_are_named_and_small_ones_shown_with_readable_names(browser: Browser, report: Path) -> None:
    browser.open(report, ready=LOADED)
    text = browser.run("document.body.textContent")
    assert "99 rows: heads/figures/many.csv" in text
    assert "with reasoning" in text
    assert "0.512 [0.400, 0.600]" in text
    assert browser.run("[...document.querySelectorAll('details img')].map(one => one.alt)") == [
        "Appendix: all of them."
    ]
    wide = browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert wide, "nothing is cut at the right"
