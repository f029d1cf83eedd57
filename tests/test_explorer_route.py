"""The route in the explorer, on the planted model, whose route is written: what is drawn, told, walked and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from experiments.paper import PaperFacts, draw
from interp.figures.explorer import page as pages
from interp.figures.explorer.page import explorer
from interp.heads.scores import Head
from interp.organisms.planted import CIRCUIT
from interp.runs.store import read_json, tables_of, written_tables
from tests.browser import CONTRASTS, Browser
from tests.command import NO_PROBES, ok
from tests.explored import HOSTILE, Tables, heads_run, small_trace
from tests.test_explorer import data_of
from tests.test_explorer_browser import HASH

RFH = f"({CIRCUIT.rfh[0]},{CIRCUIT.rfh[1]})"
N_EDGES = 6


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("patching")
    ok("experiment=patching", "model=planted", "data.limit=2", f"experiment.edges={N_EDGES}", "experiment.maps=0",
       "experiment.random_sets=0", "figures=true", f"hydra.run.dir={directory}")  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def both(patched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report with both parts: traces, whose reading head's map is kept, and routes."""
    report = tmp_path_factory.mktemp("report")
    kept = [one for one in NO_PROBES if not one.startswith("experiment.explore")]
    ok("experiment=heads", "model=planted", *kept, "experiment.resamples=20", "experiment.random_sets=3",
       "data.limit=2", f"hydra.run.dir={report / 'heads'}")  # fmt: skip
    (report / "patching").symlink_to(patched)
    rfhs = [Head(*one) for one in read_json(patched / "summary.json")["rfhs"]]
    facts = PaperFacts(["evaluate", "heads", "patching"], {"evaluate": "it was left out"}, [], rfhs)
    (drawn,) = draw(written_tables(report), facts)
    (report / "explore.html").write_text(drawn[1]())
    return report / "explore.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def alone(patched: Path) -> Path:
    """The page that a run of `patching` writes."""
    return patched / "figures" / "explore.html"


NODES = "[...document.querySelectorAll('.node')].map(one => one.dataset.node)"
EDGES = "[...document.querySelectorAll('.edge')].length"
SAID = "document.querySelector('#edge-said').textContent"
FOCUS = "document.activeElement.dataset.node"


def changed(tables: Tables, name: str, change: pd.DataFrame) -> Tables:
    return lambda asked: change if asked == name else tables(asked)


def test_the_data_are_the_tables(patched: Path, alone: Path) -> None:
    tables = tables_of(patched)
    routes, pairs = data_of(alone.read_text())["routes"], tables("pairs")
    assert routes["shape"] == [4, 4]
    assert list(CIRCUIT.rfh) in routes["rfhs"]
    assert [one["name"] for one in routes["pairs"]] == pairs["example"].tolist()
    for one, row in zip(routes["pairs"], tables("routes").to_dict("records"), strict=True):
        strong = {(e["from"], e["by"], e["to"]) for e in one["edges"] if abs(e["value"]) > 0.1}
        assert strong == {("embeddings", "v", RFH), (RFH, "answer", "answer")}
        assert (one["route"]["edges"], one["route"]["of"]) == (2, row["of"])
        assert one["route"]["tried"] == [1, 2]
        assert one["route"]["kept"][1] == pytest.approx(row["alone"], rel=1e-3)
    texts = tables("traces").set_index("example")["text"]
    for one in routes["pairs"]:
        for side in ("clean", "corrupted"):
            said = "".join(words for *_, words in one[side])
            assert said.split() == texts[f"{one['name']}/{side}"].split()
        clean, corrupted = ([words for _, differs, words in one[side] if differs] for side in ("clean", "corrupted"))
        assert len(clean) == len(corrupted) >= 2, "the colour and the number that it stands for"
        assert not set(clean) & set(corrupted)


def test_the_written_route_is_drawn_and_told(browser: Browser, alone: Path) -> None:
    browser.open(alone)
    assert browser.run(HASH) == "#route=0&top=2"
    assert browser.run(NODES) == ["embeddings", RFH, "answer"]
    assert browser.run(EDGES) == 2, "as many as the route has"
    said = browser.run("document.querySelector('#route-said').textContent")
    assert "The route: the 2 strongest of" in said
    assert "100\u00a0% of the effect alone; without them 0\u00a0% is left" in said
    names = browser.run("[...document.querySelectorAll('#edges .word')].map(one => one.textContent)")
    assert set(names) == {f"embeddings → {RFH}", f"{RFH} → answer"}
    first = names.index(f"embeddings → {RFH}")
    assert browser.run(f"document.querySelectorAll('.edge')[{1 - first}].dataset.by") == "v", "strong ones lie above"
    browser.run(f"document.querySelectorAll('#edges button')[{first}].focus()")
    told = browser.run(SAID)
    assert told.startswith(f"embeddings → {RFH} through its values. NLD 1.00 patched alone, estimate ")
    assert "by its estimate" in told
    assert browser.run("document.querySelectorAll('.edge.on').length") == 1
    assert browser.run("document.querySelectorAll('.node.on').length") == 2
    browser.run("document.activeElement.blur()")
    assert browser.run("document.querySelectorAll('.on').length") == 0
    assert browser.run("document.querySelectorAll('.rfh').length") == 1
    assert browser.said == []
    assert browser.asked == [alone.as_uri()]


def test_a_mouse_over_an_edge_tells_it_and_a_click_keeps_it(browser: Browser, alone: Path) -> None:
    browser.open(alone)
    x, y = browser.run(
        """(() => { const line = document.querySelector('.edge[data-by="answer"] .line');
        const svg = document.querySelector('#graph');
        const at = line.getPointAtLength(line.getTotalLength() / 2).matrixTransform(svg.getScreenCTM());
        return [at.x, at.y]; })()"""
    )
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.run(SAID).startswith(f"{RFH} → answer through the final norm. NLD 1.00")
    for kind in ("mousePressed", "mouseReleased"):
        browser.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=760)
    assert browser.run(SAID).startswith(f"{RFH} → answer")


def test_the_number_of_edges_is_chosen_by_keys_and_kept_in_the_address(browser: Browser, alone: Path) -> None:
    browser.open(alone)
    browser.run("document.querySelector('#top').focus()")
    browser.press("ArrowRight")
    assert browser.run(EDGES) == 3
    assert browser.run(HASH) == "#route=0&top=3"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.run(EDGES) == 1
    assert "The first 1 alone keep 0\u00a0%" in browser.run("document.querySelector('#route-said').textContent")
    browser.open(alone, f"#route=1&top={N_EDGES}")
    assert browser.run(EDGES) == N_EDGES
    assert browser.run("document.querySelector('#pair-choice').value") == "1"
    browser.open(alone, "#route=9&top=x")
    assert browser.run("document.querySelector('#pair-choice').value") == "0"
    browser.run("location.hash = '#route=1&top=1'")
    browser.wait("document.querySelector('#pair-choice').value === '1'")
    assert browser.run(EDGES) == 1


def test_arrows_walk_along_the_route(browser: Browser, alone: Path) -> None:
    browser.open(alone)
    browser.run("document.querySelector('.node[tabindex=\"0\"]').focus()")
    assert browser.run(FOCUS) == "embeddings"
    assert browser.run(SAID).startswith(f"embeddings; to {RFH} by v 1.00")
    for key, place in (("ArrowUp", RFH), ("ArrowUp", "answer"), ("ArrowDown", RFH), ("ArrowLeft", "embeddings")):
        browser.press(key)
        assert browser.run(FOCUS) == place
    browser.run("document.querySelector('#edges button').focus()")
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.dataset.e") == "1"


def test_a_head_of_the_route_is_chosen_on_the_map(browser: Browser, both: Path) -> None:
    assert list(CIRCUIT.rfh) in data_of(both.read_text())["routes"]["rfhs"]
    browser.open(both)
    assert not browser.run("document.querySelector('#route').getClientRects().length")
    browser.press("r")
    assert browser.run(HASH) == "#trace=0&head=all&route=0&top=2"
    browser.click(f'.node[data-node="{RFH}"] .dot')
    head = RFH.strip("()")
    assert browser.run(HASH) == f"#trace=0&head={head}&route=0&top=2"
    assert browser.run("document.querySelector('#map').selectedOptions[0].textContent") == f"head {RFH}"
    assert "The text shows where it looks." in browser.run(SAID)
    browser.press("ArrowRight")
    assert browser.run(HASH) == f"#trace=0&head={head}&route=0&top=2", "the arrow walked in the graph, not in the text"
    browser.click("#route-view")
    assert browser.run(HASH) == f"#trace=0&head={head}"
    pressed = "document.querySelector('#masses button[aria-pressed=\"true\"]').title"
    assert browser.run(pressed).startswith(f"head {RFH}")
    assert browser.said == []


def test_edges_that_keep_too_little_are_called_no_route(browser: Browser, patched: Path, tmp_path: Path) -> None:
    tables = tables_of(patched)
    little = changed(tables, "routes", tables("routes").assign(alone=0.63))
    file = tmp_path / "explore.html"
    file.write_text(explorer({"patching": little}, []))
    browser.open(file)
    said = browser.run("document.querySelector('#route-said').textContent")
    assert said.startswith("No route that keeps 90\u00a0% was found: the 2 strongest of")
    assert "63\u00a0% of the effect alone" in said


def test_a_run_without_edges_has_no_panel(browser: Browser, patched: Path, tmp_path: Path) -> None:
    tables = tables_of(patched)
    without = changed(tables, "edges", tables("edges").iloc[:0])
    assert explorer({"patching": without}, []) is None
    file = tmp_path / "explore.html"
    file.write_text(explorer({"heads": heads_run([small_trace()]), "patching": without}, []))
    browser.open(file)
    browser.press("r")
    assert browser.run("document.querySelectorAll('#route, #route-view, #pair').length") == 0
    assert browser.run(HASH) == "#trace=0&head=all"
    assert browser.said == []


@pytest.mark.parametrize(("width", "scheme"), [(1366, "light"), (1366, "dark"), (800, "light"), (800, "dark")])
def test_the_route_can_be_read_and_fits(browser: Browser, both: Path, alone: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 768, "deviceScaleFactor": 1, "mobile": False}
    browser.command("Emulation.setDeviceMetricsOverride", **size)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        for page in (both, alone):
            browser.open(page, f"#route=0&top={N_EDGES}")
            browser.press("?")
            assert browser.run(CONTRASTS) == []
            assert browser.run("document.documentElement.scrollWidth") <= width
            browser.press("?")
            if width > 900:
                assert browser.run("document.documentElement.scrollHeight") <= 768
            inside = """(() => { const box = document.querySelector('#graph').getBoundingClientRect();
                return box.height >= 300 && [...document.querySelectorAll('.node .dot, .axes text')].every(one => {
                const b = one.getBoundingClientRect();
                return b.left >= box.left && b.right <= box.right && b.top >= box.top && b.bottom <= box.bottom; });
                })()"""
            assert browser.run(inside)
    finally:
        browser.command("Emulation.clearDeviceMetricsOverride")


def test_all_that_can_be_used_has_a_name(browser: Browser, both: Path) -> None:
    browser.open(both, "#route=0&top=6")
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "combobox", "slider", "region", "group", "list"}
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert {"button", "slider"} <= {node["role"]["value"] for node in seen}
    assert [node["role"]["value"] for node in seen if not node.get("name", {}).get("value")] == []


def test_words_of_a_pair_are_text(browser: Browser, patched: Path, tmp_path: Path) -> None:
    tables = tables_of(patched)
    traces, pairs = tables("traces"), tables("pairs")
    domain = "</script><img src=x onerror=alert(1)>"
    for i, row in traces.iterrows():
        spoilt = row["text"].replace(row["text"].split()[1], HOSTILE[0].replace(" ", ""), 1)
        moved = len(spoilt) - len(row["text"])
        start = row["text"].index(row["text"].split()[1])
        offsets = [[a + moved * (a > start), b + moved * (b > start)] for a, b in row["offsets"]]
        traces.at[i, "text"], traces.at[i, "offsets"] = spoilt, offsets
    hostile = changed(changed(tables, "traces", traces), "pairs", pairs.assign(domain=domain))
    file = tmp_path / "explore.html"
    file.write_text(explorer({"patching": hostile}, []))
    browser.open(file)
    assert HOSTILE[0] in browser.run("document.querySelector('#pair-sides').textContent")
    assert domain in browser.run("document.querySelector('#pair-name').textContent")
    assert browser.run("document.querySelectorAll('#pair img, #pair script').length") == 0
    assert browser.said == []
    assert browser.asked == [file.as_uri()]


def test_pairs_without_room_are_left_away_and_named(
    browser: Browser, patched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = explorer({"patching": tables_of(patched)}, [])
    monkeypatch.setattr(pages, "ROUTES_SHARE", 100 / pages.MAX_BYTES)
    file = tmp_path / "explore.html"
    file.write_text(explorer({"patching": tables_of(patched)}, []))
    assert len(file.read_text()) < len(whole)
    browser.open(file)
    assert browser.run("document.querySelectorAll('#pair-choice option').length") == 1
    assert browser.run("document.querySelector('#pair-more').textContent").startswith("1 more pairs")


def test_key_value_heads_are_told_with_the_heads_that_read_them(
    patched: Path, browser: Browser, tmp_path: Path
) -> None:
    """As in a model with two key-value heads, each of which two heads read."""
    tables = tables_of(patched)
    edges = tables("edges").head(2).copy()
    edges[["through", "layer", "head", "query_head", "readers"]] = [["v", 2, 1, 2, 2], ["k", 2, 0, 0, 2]]
    file = tmp_path / "explore.html"
    file.write_text(explorer({"patching": changed(tables, "edges", edges)}, []))
    browser.open(file)
    browser.run("document.querySelector('#edges button').focus()")
    assert "the values of key-value head (2,1), which query heads 2 to 3 read" in browser.run(SAID)
    assert {"(2,0)", "(2,2)"} <= set(browser.run(NODES))
