"""Figure 5 of Paper A as a page: click an answer token and see where it looks. One file, no network, no library."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.figures import style
from interp.figures.maps import dense, mapped_heads
from interp.figures.tokens import deciding_positions, shades
from interp.heads.trajectories import reflection_positions
from interp.text.trace import Segment, Trace

MAX_BYTES = 4 * 2**20
"""Weights kept for each trace; of longer ones the last answer tokens, and always those that write the final answer."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1500px; padding: 0 1rem; color: #111; }
.panels { display: flex; gap: 1.5rem; flex-wrap: wrap; }
.panel { flex: 1 1 520px; min-width: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.7 ui-monospace, monospace; border: 1px solid #bbb;
  padding: .7rem; max-height: 75vh; overflow-y: auto; }
.t { border-radius: 2px; }
.a { cursor: pointer; border-bottom: 1px dotted #888; }
.q { outline: 2px solid ORANGE; }
.r { text-decoration: underline wavy ORANGE; }
.legend { color: #444; }
.bar { display: inline-block; width: 120px; height: .8em; background: linear-gradient(to right, #fff, BLUE);
  border: 1px solid #999; }
"""

_SCRIPT = """
for (const section of document.querySelectorAll("section")) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const decode = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const panels = [...section.querySelectorAll(".panel")];
  panels.forEach((panel, i) => {
    panel.rows = data.rows[i].map(decode);
    panel.tokens = [...panel.querySelectorAll(".t")];
  });
  const show = chosen => {
    panels.forEach((panel, i) => panel.tokens.forEach((token, position) => {
      let weight = 0;
      for (const row of chosen)
        if (position < panel.rows[row].length) weight += panel.rows[row][position] / 255 * data.top[i][row];
      weight /= chosen.length;
      token.dataset.w = weight;
      token.classList.toggle("q", chosen.includes(position - data.first));
    }));
    panels.forEach(panel => {
      const top = Math.max(1e-9, ...panel.tokens.slice(1).map(t => +t.dataset.w));
      panel.tokens.forEach((token, position) => {
        const shade = position ? token.dataset.w / top : 0;
        token.style.backgroundColor = `rgba(0,114,178,${shade.toFixed(3)})`;
        token.style.color = shade > .6 ? "#fff" : "";
        token.title = `position ${position}: weight ${(+token.dataset.w).toFixed(4)}`;
      });
      panel.querySelector(".top").textContent = top.toFixed(4);
    });
  };
  section.addEventListener("click", event => {
    const row = +event.target.dataset.p - data.first;
    if (event.target.dataset.p !== undefined && row >= 0) show([row]);
  });
  section.querySelector("button").addEventListener("click", () => show(data.chosen));
}
"""


def token_page(maps: pd.DataFrame, traces: Sequence[Trace], words: Sequence[str], model: str) -> str:
    """The page's HTML. Without scripts it shows the queries that write the final answer, as the picture does."""
    look = _STYLE.replace("ORANGE", style.ORANGE).replace("BLUE", style.BLUE)
    sections = "\n".join(_section(maps, trace, words) for trace in traces)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(model)}: where answer tokens look</title>
<style>{look}</style></head><body>
<h1>{html.escape(model)}: where answer tokens look</h1>
<p class="legend">Each token is coloured by the attention that the outlined tokens pay to it, from none
<span class="bar"></span> to the largest weight of the panel; the first token, a sink, stays white.
Click a dotted answer token to see its own attention. Wavy underline: reflection words.
Attention is not influence: a head may look and write nothing.</p>
{sections}
<script>{_SCRIPT}</script></body></html>
"""


def _section(maps: pd.DataFrame, trace: Trace, words: Sequence[str]) -> str:
    answer = trace[Segment.ANSWER]
    heads = [None, *mapped_heads(maps)]
    limit = max(1, MAX_BYTES // (trace.n_measured * len(heads)))
    deciding = deciding_positions(trace)
    first = min(deciding.start, max(answer.start, answer.end - limit))
    kept = [dense(maps, trace.example, head)[first - answer.start :] for head in heads]
    chosen = [position - first for position in deciding]
    reflections = set(reflection_positions(trace, words).tolist())
    panels = []
    for head, weights in zip(heads, kept, strict=True):
        shade = shades(weights[chosen].mean(axis=0))
        marked = (first, deciding, reflections)
        spans = "".join(_token(trace, i, float(shade[i]), *marked) for i in range(trace.n_measured))
        largest = weights[chosen].mean(axis=0)[1:].max()
        name = "mean over all heads" if head is None else f"head (layer {head.layer}, head {head.head})"
        panels.append(
            f'<div class="panel"><h3>{name}</h3><p class="legend">largest weight: '
            f'<span class="top">{largest:.4f}</span></p><div class="text">{spans}</div></div>'
        )
    tops = [np.maximum(weights.max(axis=1), 1e-9) for weights in kept]
    data = {
        "first": first,
        "chosen": chosen,
        "top": [[round(float(value), 6) for value in top] for top in tops],
        "rows": [
            [_packed(row[: first + i + 1] / top[i]) for i, row in enumerate(weights)]
            for weights, top in zip(kept, tops, strict=True)
        ],
    }
    cut = "" if first == answer.start else f" Weights are kept for the last {answer.end - first} answer tokens."
    return (
        f"<section><h2>{html.escape(trace.example)}</h2><p><button>final answer</button>{cut}</p>"
        f'<div class="panels">{"".join(panels)}</div>'
        f'<script type="application/json">{json.dumps(data)}</script></section>'
    )


def _packed(shares: np.ndarray) -> str:
    return base64.b64encode(np.round(shares * 255).astype(np.uint8).tobytes()).decode()


def _token(trace: Trace, position: int, shade: float, first: int, deciding: range, reflections: set[int]) -> str:
    classes = "t"
    classes += " a" if position >= first else ""
    classes += " q" if position in deciding else ""
    classes += " r" if position in reflections else ""
    text = trace.spaced_text(position) or ("⟨bos⟩" if position == 0 else "")
    colour = ";color:#fff" if shade > 0.6 else ""
    return (
        f'<span class="{classes}" data-p="{position}" style="background-color:rgba(0,114,178,{shade:.3f}){colour}">'
        f"{html.escape(text)}</span>"
    )
