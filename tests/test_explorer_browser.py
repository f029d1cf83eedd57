"""The explorer in a browser: what clicks, keys and addresses do, what can be read, and what never runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interp.figures.explorer.page import explorer
from tests.browser import CONTRASTS, Browser
from tests.explored import HOSTILE, attention_of, heads_run, hostile_trace, small_trace, tables


@pytest.fixture(scope="module")
def hostile() -> str:
    trace = hostile_trace()
    return explorer({"heads": heads_run([trace], attention_of(trace, largest=16))}, ["wait"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trace, other = small_trace(), small_trace("two")
    change = {"example": "one", "intervention": "change_number", "position": 4, "position_end": 5, "token": " 2"}
    changes = [{**change, "forced": "7", "metric": "answer_changed", "value": 1.0}]
    tokens = [
        {
            "example": "one",
            "position": p,
            "waad": p % 3,
            "fai_to_end": p,
            "entropy": 1,
            "waad_peak": p == 5,
            "fai_peak": False,
        }
        for p in range(4, 12)
    ]
    keys = {"traces": [{"example": "one", "token_ids": trace.token_ids}]}
    parts = {
        "heads": heads_run([trace, other]),
        "key_tokens": tables(**keys, effects=changes),
        "rhythm": tables(**keys, tokens=tokens),
    }
    file = tmp_path_factory.mktemp("page") / "explore.html"
    file.write_text(explorer(parts, ["wait"]), encoding="utf-8")
    return file


HASH = "location.hash"
COLOURED = "[...document.querySelectorAll('.t')].filter(t => t.style.backgroundColor).map(t => +t.dataset.p)"


def test_a_click_shows_where_a_token_looks_and_who_looks_at_it(browser: Browser, small_page: Path) -> None:
    browser.open(small_page)
    assert browser.run(HASH) == "#trace=0&head=all"
    assert browser.run("document.querySelector('#text').innerText").replace("\n", "").count("answer is") == 1
    browser.click('.t[data-p="6"]')
    assert browser.run(HASH) == "#trace=0&token=6&head=all"
    rows = [row for row in attention_of(small_trace()) if row.get("head_set") == "all"]
    back = {int(key) for key in rows[6]["keys"]} - {0, 6}
    ahead = {row["position"] for row in rows[7:] if 6 in row["keys"]}
    assert set(browser.run(COLOURED)) == back | ahead
    shown = browser.run("[...document.querySelectorAll('#back .at')].map(one => +one.textContent)")
    weights = dict(zip(rows[6]["keys"].tolist(), rows[6]["weights"], strict=True))
    assert shown == sorted(back, key=lambda key: -weights[key])[:6]
    browser.click("#ahead button")
    assert browser.run(HASH).startswith("#trace=0&token=")
    assert browser.said == []
    assert browser.asked == [small_page.as_uri()]


def test_sentences_are_chosen_folded_and_walked_through(browser: Browser, small_page: Path) -> None:
    browser.open(small_page)
    browser.click('.n[data-s="3"]')
    assert browser.run(HASH) == "#trace=0&sentence=3&head=all"
    folded = "document.querySelector('.n[data-s=\"3\"]').getAttribute('aria-expanded')"
    assert browser.run(folded) == "true"
    browser.click('.n[data-s="3"]')
    assert browser.run(folded) == "false"
    assert browser.run("document.querySelector('.t[data-p=\"5\"]').getClientRects().length") == 0
    browser.press("f")
    assert browser.run(folded) == "true"
    steps = {"Down": "sentence=4", "Up": "sentence=3", "Right": "token=4", "Left": "token=3"}
    for direction, place in steps.items():
        browser.press(f"Arrow{direction}")
        assert browser.run(HASH) == f"#trace=0&{place}&head=all"
    browser.press("ArrowDown")
    assert "sentence 2, think" in browser.run("document.querySelector('#said').textContent")
    browser.press("a")
    assert browser.run(HASH) == "#trace=0&head=all"


def test_heads_are_chosen_on_the_map_and_by_keys(browser: Browser, small_page: Path) -> None:
    browser.open(small_page, "#trace=0&token=8")
    before = browser.run(COLOURED)
    browser.click("#masses button")
    assert browser.run(HASH) == "#trace=0&token=8&head=1,0"
    assert browser.run("document.querySelector('#masses button').getAttribute('aria-pressed')") == "true"
    assert browser.run(COLOURED) != before
    browser.press("H")
    assert browser.run(HASH) == "#trace=0&token=8&head=rfh"
    browser.press("]")
    browser.wait("document.documentElement.dataset.ready === '1'")
    assert browser.run(HASH) == "#trace=1&head=rfh"


def test_layers_go_upwards_and_weights_have_the_digits_that_a_byte_can_tell(browser: Browser, small_page: Path) -> None:
    browser.open(small_page, "#trace=0&token=8")
    (upper,) = browser.run("[...document.querySelectorAll('#masses button')].map(b => [b.title, b.offsetTop])")
    assert "(1,0)" in upper[0]
    assert upper[1] == 0, "layer 1 of 2"
    shown = browser.run(
        "[...document.querySelectorAll('#back button, #ahead button')].map(b => b.lastChild.textContent)"
    )
    large = [text for text in shown if float(text) >= 0.1]
    assert large
    assert all(len(text.partition(".")[2]) == 2 for text in large)


def test_an_address_names_a_place(browser: Browser, small_page: Path) -> None:
    browser.open(small_page, "#trace=1&token=9&head=1,0")
    assert browser.run("document.querySelector('.q').dataset.p") == "9"
    assert browser.run("document.querySelector('#map').selectedOptions[0].textContent") == "head (1,0)"
    browser.run("location.hash = '#trace=0&sentence=4&head=rfh'")
    browser.wait("document.documentElement.dataset.ready === '0'")
    assert browser.run("document.querySelector('.q').dataset.s") == "4"
    browser.open(small_page, "#trace=77&token=x&head=%")
    assert browser.run(HASH) == "#trace=0&head=all", "what it names wrongly is not there"
    assert browser.said == []


def test_effects_and_curves_go_with_the_text(browser: Browser, small_page: Path) -> None:
    browser.open(small_page, "#trace=0&token=4")
    assert "The number changed: “2” → “7”: answer changed." in browser.run(
        "document.querySelector('#effects').textContent"
    )
    assert browser.run("[...document.querySelectorAll('.m')].map(one => one.dataset.p)") == ["4"]
    box = browser.run("(b => [b.x, b.y, b.width, b.height])(document.querySelector('#curves').getBoundingClientRect())")
    where = {"x": box[0] + box[2] * 5.5 / 12, "y": box[1] + box[3] / 2}
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", **where)
    assert browser.run("document.querySelector('.h').dataset.p") == "5"
    assert "WAAD 2.00 (peak)" in browser.run("document.querySelector('#values').textContent")
    for kind in ("mousePressed", "mouseReleased"):
        browser.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
    assert browser.run(HASH) == "#trace=0&token=5&head=all"
    browser.press("]")
    browser.wait("document.documentElement.dataset.ready === '1'")
    assert browser.run("document.querySelector('#curves').hidden")
    assert "key_tokens did not measure this trace" in browser.run("document.querySelector('#notes').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, small_page: Path, scheme: str) -> None:
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(small_page, "#trace=0&sentence=3")
    browser.press("?")
    assert browser.run("document.documentElement.dataset.theme") == scheme
    assert browser.run(CONTRASTS) == []
    browser.click("#theme")
    assert browser.run("document.documentElement.dataset.theme") != scheme
    assert browser.run(CONTRASTS) == []
    assert browser.said == []


def test_everything_that_can_be_used_has_a_name(browser: Browser, small_page: Path) -> None:
    browser.open(small_page)
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "combobox", "img", "image", "region", "status", "complementary"}
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in named]
    assert {"button", "combobox", "region"} <= {node["role"]["value"] for node in seen}
    unnamed = [node["role"]["value"] for node in seen if not node.get("name", {}).get("value")]
    assert [role for role in unnamed if role != "status"] == []
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.run("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size") == browser.run(
        "document.querySelectorAll('[id]').length"
    )


def test_nothing_of_a_hostile_trace_runs(browser: Browser, hostile: str, tmp_path: Path) -> None:
    file = tmp_path / "explore.html"
    file.write_text(hostile, encoding="utf-8")
    browser.open(file, "#trace=0&token=9990")
    assert browser.run("document.querySelectorAll('#text img, #text script, #text b').length") == 0
    assert browser.run("document.querySelector('.t[data-p=\"0\"]').textContent") == HOSTILE[0]
    assert browser.said == []
    assert browser.asked == [file.as_uri()]


def test_a_click_in_ten_thousand_tokens_is_answered_at_once(browser: Browser, hostile: str, tmp_path: Path) -> None:
    file = tmp_path / "explore.html"
    file.write_text(hostile, encoding="utf-8")
    browser.open(file)
    for p in (9990, 5000, 200, 7001, 9003):
        assert browser.seconds(f"document.querySelector('.t[data-p=\"{p}\"]').click()") < 0.1
        assert browser.run(HASH) == f"#trace=0&token={p}&head=all"
