"""Figure 5 of Paper A as a picture: the text of a trace, coloured by the attention that chosen answer tokens pay."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from interp.figures import style
from interp.figures.maps import dense, mapped_heads
from interp.grading.extraction import answer_span
from interp.heads.scores import Head
from interp.text.trace import Segment, Trace

COLUMNS, MAX_LINES = 92, 46
"""Characters a line; lines a panel, of which the ones with most attention are kept."""


def deciding_positions(trace: Trace) -> range:
    """The queries that write the final answer: from the token before its first to the token before its last.

    The final answer is the last `\\boxed{}` or `answer is`; without either, the answer's last token.
    """
    answer = trace[Segment.ANSWER]
    text = trace.segment_text(Segment.ANSWER)
    start = trace.offsets[answer.start][0]
    found = answer_span(text)
    if found:
        begin, end = start + found[0], start + found[1]
        inside = [
            i for i in range(answer.start, answer.end) if trace.offsets[i][0] < end and trace.offsets[i][1] > begin
        ]
        first = max(inside[0] - 1, answer.start)
        return range(first, max(first + 1, inside[-1]))
    return range(max(answer.start, answer.end - 2), max(answer.start, answer.end - 2) + 1)


def shades(weights: Float[np.ndarray, "... key"]) -> Float[np.ndarray, "... key"]:
    """0..1 for colouring: relative to the largest weight behind the first position, which is a sink and gets 0."""
    rest = weights.copy()
    rest[..., 0] = 0
    return rest / np.maximum(rest.max(axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class _Piece:
    """Some characters of one token on one line."""

    line: int
    column: int
    text: str
    position: int


def _lay_out(trace: Trace) -> list[_Piece]:
    """Tokens on lines of COLUMNS characters; line breaks are kept, as a sign at the end of the line."""
    pieces, line, column = [], 0, 0
    for position in range(trace.n_measured):
        text = trace.spaced_text(position) or ("⟨bos⟩" if position == 0 else "")
        for part in text.splitlines(keepends=True) or [text]:
            shown = part.rstrip("\r\n")
            broken = len(shown) < len(part)
            shown = style.drawable(shown.replace("\t", " "))
            if column + len(shown) > COLUMNS and column > 0:
                line, column = line + 1, 0
            for chunk in textwrap.wrap(shown, COLUMNS, drop_whitespace=False, replace_whitespace=False) or [""]:
                pieces.append(_Piece(line, column, chunk, position))
                column += len(chunk)
            if broken:
                line, column = line + 1, 0
    return pieces


def token_attention(maps: pd.DataFrame, trace: Trace, model: str) -> Figure:
    """Paper A, Fig. 5: the mean attention of the deciding queries over the text, head average beside the best head.

    Colour: relative to the panel's largest weight; the first token, a sink, stays white. Orange: the deciding queries.
    Of long texts only the lines with most attention are shown, in order.
    """
    queries = deciding_positions(trace)
    first = trace[Segment.ANSWER].start
    panels: list[tuple[str, Head | None]] = [("mean over all heads", None)]
    panels += [(f"head {head}", head) for head in mapped_heads(maps)[:1]]
    weights = [
        dense(maps, trace.example, head)[queries.start - first : queries.stop - first].mean(axis=0)
        for _, head in panels
    ]
    pieces = _lay_out(trace)
    shown = _chosen_lines(pieces, [shades(w) for w in weights])
    figure, axes = style.subplots(
        1, len(panels), figsize=(6.6 * len(panels), 0.8 + 0.16 * max(4, len(shown))), squeeze=False
    )
    for (title, _), values, axis in zip(panels, weights, axes[0], strict=True):
        _draw_text(axis, pieces, shown, shades(values), queries)
        largest = values[1:].max() if len(values) > 1 else values.max()
        axis.set_title(f"{title}; darkest: weight {largest:.3f}, on the first token {values[0]:.2f}", fontsize=8)
    chosen = "".join(trace.token_text(q + 1) for q in queries if q + 1 < len(trace.offsets)).strip()
    figure.suptitle(f"{model}, {trace.example}: attention while writing “{style.label(chosen)}”", fontsize=9)
    figure.tight_layout()
    return figure


def _chosen_lines(pieces: list[_Piece], panels: list[np.ndarray]) -> list[int]:
    n_lines = pieces[-1].line + 1
    if n_lines <= MAX_LINES:
        return list(range(n_lines))
    best = np.zeros(n_lines)
    length = pieces[-1].position + 1
    strongest = np.max([np.pad(panel, (0, max(0, length - len(panel)))) for panel in panels], axis=0)
    for piece in pieces:
        if piece.position > 0:
            best[piece.line] = max(best[piece.line], strongest[piece.position])
    return sorted(int(i) for i in np.argsort(-best, kind="stable")[:MAX_LINES])


def _draw_text(
    axis: Axes, pieces: list[_Piece], lines: list[int], values: Float[np.ndarray, " key"], queries: range
) -> None:
    place = {line: i for i, line in enumerate(lines)}
    blue = np.array(to_rgb(style.BLUE))
    axis.set_xlim(0, COLUMNS)
    axis.set_ylim(max(4, len(lines)), 0)
    axis.axis("off")
    for piece in pieces:
        if piece.line not in place or not piece.text:
            continue
        y = place[piece.line]
        value = float(values[piece.position]) if piece.position < len(values) else 0.0
        axis.add_patch(Rectangle((piece.column, y), len(piece.text), 0.94, color=tuple(1 - value * (1 - blue)), lw=0))
        if piece.position in queries:
            axis.plot([piece.column, piece.column + len(piece.text)], [y + 0.97] * 2, color=style.ORANGE, lw=1.6)
        colour = "white" if value > 0.6 else "black"
        for i, letter in enumerate(piece.text):
            if letter.strip():
                axis.text(
                    piece.column + i + 0.5, y + 0.5, letter, ha="center", va="center", fontsize=7.2, color=colour,
                    family=["DejaVu Sans Mono", "DejaVu Sans"], parse_math=False,
                )  # fmt: skip
    for i, (before, after) in enumerate(pairwise(lines)):
        if after != before + 1:
            axis.plot([0, COLUMNS], [i + 1] * 2, color=style.GREY, lw=0.5, ls=(0, (1, 3)))
