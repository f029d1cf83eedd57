"""The explorer's page: its data out of the tables, and the files of this folder that make it one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex

from interp.errors import printable
from interp.figures import style
from interp.figures.drawing import Tables
from interp.figures.explorer.effects import effects, missing, number
from interp.figures.explorer.packing import Rows, packed
from interp.figures.explorer.routes import model_of, pair_routes
from interp.figures.tokens import deciding_positions
from interp.grading.outcomes import extract_answer
from interp.heads.scores import head_array
from interp.heads.trajectories import reflection_positions
from interp.runs.store import records
from interp.text.prompts import Condition
from interp.text.sentences import segment_sentences
from interp.text.trace import Segment, Trace

MAX_BYTES = 8_000_000
"""Of the page. Where it would be larger, fewer weights of a row are kept, then fewer traces, and the page says so."""
LEAST_WEIGHTS = 4
"""Before fewer weights of a row than these are kept, traces are left away."""
SETS = {
    "all": "mean over all heads",
    "rfh": "Reasoning-Focus heads",
    "local": "local heads",
    "global": "global heads",
    "receiver": "receiver heads",
}
COLOURS = 32
SCRIPTS = ("unpack.js", "text.js", "causes.js", "pictures.js", "route.js", "main.js")
ROUTES_SHARE = 0.25
"""Of MAX_BYTES, for the routes of pairs and their texts: pairs beyond it are left away, and the page says so."""
CURVES = {"waad": "waad_peak", "fai_to_end": "fai_peak", "entropy": None}
"""Columns of tokens.parquet, and which column marks their peaks."""


def explorer(parts: Mapping[str, Tables], words: Sequence[str], rfhs: Sequence[Sequence[int]] = ()) -> str | None:
    """The page's HTML out of the tables of `heads` and of whatever other parts of a report there are, by their names;
    None where `heads` kept no attention and `patching` no edges. `words` are reflection words, which are underlined;
    `rfhs` the Reasoning-Focus Heads of `patching`, layer and head, which are ringed on the route."""
    parts = {name: cache(table) for name, table in parts.items()}
    attention = parts["heads"]("attention") if "heads" in parts else pd.DataFrame()
    routes = _routes(parts["patching"], rfhs) if "patching" in parts else None
    if attention.empty and routes is None:
        return None
    about = parts["patching"]("edges") if attention.empty else attention
    data: dict[str, Any] = {
        "model": printable(str(about["model"].iloc[0])),
        "data": printable(str(about["data"].iloc[0])),
        "routes": routes,
        "maps": [],
        "traces": [],
        "left_out": 0,
    }
    if attention.empty:
        return _page(data)
    shown = set(attention["example"])
    traces = [Trace.from_row(row) for row in records(parts["heads"]("traces")) if row["example"] in shown]
    maps = _maps(attention, parts["heads"]("head_sets"))
    data |= {
        "maps": maps,
        "masses": _masses(parts["heads"]("heads")),
        "sequential": [to_hex(c) for c in matplotlib.colormaps[style.SEQUENTIAL](np.linspace(0, 1, COLOURS))],
        "traces": [_trace(parts, trace, words) for trace in traces],
    }
    groups = {example: rows for example, rows in attention.groupby("example", sort=False)}
    kept = [[_rows(groups[trace.example], one) for one in maps] for trace in traces]
    return _within_limit(data, kept)


def _routes(part: Tables, rfhs: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """The routes of as many pairs as there is room for, at least of one; None without edges."""
    if part("edges").empty:
        return None
    pairs = pair_routes(part)
    ends = np.cumsum([len(inside_script(pair)) for pair in pairs])
    n = max(1, int((ends <= ROUTES_SHARE * MAX_BYTES).sum()))
    heads = [[int(layer), int(head)] for layer, head in rfhs]
    return {**model_of(part), "rfhs": heads, "pairs": pairs[:n], "left_out": len(pairs) - n}


def _within_limit(data: dict[str, Any], kept: list[list[Rows]]) -> str:
    """The page, with as many weights of each row as fit into MAX_BYTES."""
    largest = max(int(rows.counts.max()) for maps in kept for rows in maps)
    while True:
        for block, maps in zip(data["traces"], kept, strict=True):
            block["attention"] = packed([rows.cut(largest) for rows in maps])
        data["largest"] = largest
        page = _page(data)
        size = len(page.encode())
        if size <= MAX_BYTES or (len(kept) == 1 and largest == 1):
            return page
        if largest > LEAST_WEIGHTS or len(kept) == 1:
            largest = max(1, min(largest - 1, int(largest * MAX_BYTES / size)))
        else:
            data["traces"], kept = data["traces"][:-1], kept[:-1]
            data["left_out"] += 1


def _page(data: Mapping[str, Any]) -> str:
    folder = files("interp.figures.explorer")
    colours = {
        "blue": style.BLUE,
        "orange": style.ORANGE,
        "green": style.GREEN,
        "red": style.RED,
        "purple": style.PURPLE,
    }
    root = ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}\n"
    look = root + (folder / "look.css").read_text(encoding="utf-8")
    script = "(() => {\n" + "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS) + "})();\n"
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            model=data["model"],
            traces=bool(data["traces"]),
            routes=data["routes"] is not None,
            rfhs=bool(data["routes"] and data["routes"]["rfhs"]),
            look=Markup(look),
            look_hash=_hash(look),
            script=Markup(script),
            script_hash=_hash(script),
            data=Markup(inside_script(data)),
        )
    )


@cache
def environment() -> Environment:
    """Escapes everything that is not the explorer's own, and knows no name that it is not given."""
    return Environment(autoescape=True, undefined=StrictUndefined, loader=PackageLoader("interp.figures.explorer", "."))


def inside_script(data: object) -> str:
    """JSON that ends no script element, whatever its strings say."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    """What the page's own policy knows its style and script by: nothing else is obeyed."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _maps(attention: pd.DataFrame, head_sets: pd.DataFrame) -> list[dict[str, Any]]:
    """The sets and heads whose rows were kept, with names."""
    found: list[dict[str, Any]] = []
    one = attention[attention["example"] == attention["example"].iloc[0]]
    for row in records(one[["head_set", "layer", "head"]].drop_duplicates()):
        name = row["head_set"]
        if isinstance(name, str):
            members = head_sets[head_sets["kind"] == name]
            heads = [[int(layer), int(head)] for layer, head in zip(members["layer"], members["head"], strict=True)]
            found.append({"id": name, "name": SETS[name], "heads": heads})
        else:
            layer, head = int(row["layer"]), int(row["head"])
            found.append({"id": f"{layer},{head}", "name": f"head ({layer},{head})", "layer": layer, "head": head})
    return found


def _rows(of_trace: pd.DataFrame, one: Mapping[str, Any]) -> Rows:
    if "layer" in one:
        return Rows.of(of_trace[(of_trace["layer"] == one["layer"]) & (of_trace["head"] == one["head"])])
    return Rows.of(of_trace[of_trace["head_set"] == one["id"]])


def _masses(heads: pd.DataFrame) -> list[list[float | None]]:
    """Mean mass answer->reasoning of each head over the run's traces, layer by layer."""
    values = head_array(heads, heads["answer_reasoning"].astype(float)).mean(axis=0)
    return [[number(value) for value in layer] for layer in values]


def _trace(parts: Mapping[str, Tables], trace: Trace, words: Sequence[str]) -> dict[str, Any]:
    """What the page knows of one trace, but for its attention."""
    final = deciding_positions(trace)
    texts = [trace.spaced_text(i) or ("⟨bos⟩" if i == 0 else "") for i in range(trace.n_measured)]
    return {
        "name": printable(trace.example),
        "tokens": [printable(text) for text in texts],
        "segments": [[span.segment, span.start, span.end] for span in trace.spans if len(span)],
        "sentences": [list(one) for segment in Segment for one in segment_sentences(trace, segment)],
        "final": [final.start, final.stop],
        "reflections": reflection_positions(trace, words).tolist(),
        "answer": _answer(parts, trace),
        "curves": _curves(parts, trace),
        **effects(parts, trace),
    }


def _answer(parts: Mapping[str, Tables], trace: Trace) -> dict[str, Any]:
    """The gold answer, the trace's own and whether it is right, as far as the run knows."""
    for name in ("heads", "evaluate"):
        answers = parts[name]("answers") if name in parts else pd.DataFrame()
        if not answers.empty:
            here = answers[(answers["example"] == trace.example) & (answers["sample"] == 0)]
            if name == "evaluate":
                here = here[here["condition"].str.startswith(Condition.WITH_REASONING)]
            if len(here) and not missing(parts[name], trace):
                row = records(here)[0]
                correct = row["correct"] if isinstance(row["correct"], bool | np.bool_) else None
                return {
                    "gold": _shown(row["gold"]),
                    "model": _shown(row["extracted"]),
                    "correct": None if correct is None else bool(correct),
                }
    return {"gold": None, "model": _shown(extract_answer(trace.segment_text(Segment.ANSWER))), "correct": None}


def _shown(text: object) -> str | None:
    return printable(text) if isinstance(text, str) else None


def _curves(parts: Mapping[str, Tables], trace: Trace) -> dict[str, Any] | None:
    """WAAD, FAI and entropy along the response with their peaks, where `rhythm` or `perturb` measured this text."""
    for name in ("rhythm", "perturb"):
        if name in parts and not missing(parts[name], trace):
            tokens = parts[name]("tokens")
            here = tokens[tokens["example"] == trace.example].sort_values("position")
            if len(here):
                return {
                    "part": name,
                    "start": int(here["position"].iloc[0]),
                    **{curve: [number(value) for value in here[curve]] for curve in CURVES},
                    "peaks": {
                        curve: here.loc[here[peak].astype(bool), "position"].astype(int).tolist()
                        for curve, peak in CURVES.items()
                        if peak is not None
                    },
                }
    return None
