"""The tables of `rhythm`: what one trace gives, and couplings, lags and the rest from the tables of all traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float

from interp.rhythm.couplings import (
    Coupling,
    Curves,
    PeakRule,
    Peaks,
    behind_possible,
    couple,
    coupled,
    detect,
    lag_curve,
    onset_window,
    partial_effect,
)
from interp.rhythm.head_sets import HeadSets
from interp.rhythm.waad_fai import HeadCurves, Sinks, response_of
from interp.runs.columns import (
    BOOL,
    EXAMPLE,
    FLOAT,
    INT,
    LAYERS,
    NO_INTERVAL,
    SINKS,
    TEXT,
    UNDEFINED,
    Column,
    Table,
    ends,
)
from interp.runs.store import records
from interp.stats import Estimate, adjust, bootstrap_mean, or_null, rng_for, sign_flips
from interp.text.token_kinds import Boundary, TokenType, boundary_positions, sentence_numbers, token_type
from interp.text.trace import Trace

TOKENS_TABLE = Table(
    "tokens",
    EXAMPLE,
    Column("position", INT, "position in the whole sequence, from 0"),
    Column("token", TEXT, "the token's text"),
    Column("segment", TEXT, "segment of the token", null="a final end-of-sequence token"),
    Column("waad", FLOAT, "windowed average attention distance, 0..W (Paper B, Def. 4.1)", null="undefined here"),
    Column("fai", FLOAT, "future attention influence, 0..1 (Paper B, Def. 4.2)", null="its window is empty"),
    Column("fai_to_end", FLOAT, "the same, from here to the end of the response", null="the last token"),
    Column("receiver_fai", FLOAT, "`fai_to_end` by receiver heads", null="the last token, or no receiver heads"),
    Column("waad_peak", BOOL, "whether `waad` has a peak here"),
    Column("fai_peak", BOOL, "whether `fai_to_end` has a peak here"),
    Column("receiver_peak", BOOL, "whether `receiver_fai` has a peak here"),
    Column("type", TEXT, "`word`, `number`, `punctuation`, `line_break` or `other`"),
    Column("sentence", INT, "number of the token's sentence in the response, from 0"),
    Column("sentence_start", BOOL, "whether it begins a sentence"),
    Column("clause_start", BOOL, "whether it begins a sentence or a part of one"),
    Column("step_start", BOOL, "whether it begins a line"),
    Column("entropy", FLOAT, "entropy of the prediction of this token, in nats", null="the first token"),
    Column(
        "answer_surprisal",
        FLOAT,
        "surprisal of the trace's answer where it is demanded before this token's sentence, in nats",
        null="outside the reasoning, or not measured",
    ),
)
CURVES_TABLE = Table(
    "curves",
    EXAMPLE,
    LAYERS,
    SINKS,
    Column("position", INT, "position of the first value"),
    *(
        Column(name, pa.list_(pa.float32()), f"as in `tokens`, one value a token of the response; {UNDEFINED}")
        for name in ("waad", "fai", "fai_to_end", "receiver_fai", "receiver_fai_to_end")
    ),
)
COUPLINGS_TABLE = Table(
    "couplings",
    Column("coupling", TEXT, "which coupling of Paper B, Table 2: see interp/rhythm/couplings.py"),
    LAYERS,
    SINKS,
    Column("horizon", TEXT, "`to_end` or `near`: which FAI", null="does not use FAI"),
    Column("rule", TEXT, "how peaks are found: `prominence` or `quantile`"),
    Column("share", FLOAT, "share of tokens that are peaks", null="`prominence`"),
    Column("value", FLOAT, "mean over traces of the value at events"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("baseline", FLOAT, "the same at all tokens that may be events, which random events would give"),
    Column("lift", FLOAT, "`value` / `baseline` - 1", null="the baseline is 0"),
    *ends("lift_", "its 95 % bootstrap interval over traces", null=f"{NO_INTERVAL}, or unbounded"),
    *ends("null_", "the middle 95 % of `value` under circular shifts"),
    Column("p_shift", FLOAT, "two-sided p-value against circular shifts of each trace"),
    Column("p_sentence", FLOAT, "the same against permutations within sentences", null="not computed"),
    Column("p_adjusted", FLOAT, "p_shift after Benjamini-Hochberg over the table"),
    Column("n", INT, "number of traces"),
    Column("n_events", INT, "number of events in all of them"),
)
LAGS_TABLE = Table(
    "lags",
    Column("around", TEXT, "the events: `waad_peak`"),
    Column("curve", TEXT, "the curve that is averaged around them"),
    Column("lag", INT, "tokens after the event; negative = before it"),
    Column("value", FLOAT, "mean over traces of the curve there, relative to its mean over the trace"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    *ends("null_", "the middle 95 % under circular shifts"),
    Column("n", INT, "number of traces"),
)
PARTIAL_EFFECTS_TABLE = Table(
    "partial_effects",
    Column("coupling", TEXT, "as in `couplings`"),
    Column("given", TEXT, "what is held constant"),
    Column("value", FLOAT, "mean over traces of the event's coefficient, in standard deviations of the ranks"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("p", FLOAT, "two-sided sign-flip p-value over traces", null="n < 2"),
    Column("n", INT, "number of traces"),
)
TOKEN_TYPES_TABLE = Table(
    "token_types",
    Column("type", TEXT, "as in `tokens`"),
    Column("measure", TEXT, "`share` of tokens or of peaks, or the mean of a curve"),
    Column("value", FLOAT, "mean over traces"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("n", INT, "number of traces"),
)
BOUNDARIES_TABLE = Table(
    "boundaries",
    Column("boundary", TEXT, "`sentence`, `clause` or `step`"),
    Column("measure", TEXT, "`precision` or `recall` of WAAD peaks"),
    Column("tolerance", INT, "tokens that a hit may be off"),
    Column("value", FLOAT, "mean over traces"),
    *ends("", "its 95 % bootstrap interval over traces", null=NO_INTERVAL),
    Column("chance", FLOAT, "the same for peaks at random places"),
    Column("p", FLOAT, "two-sided sign-flip p-value of the difference over traces", null="n < 2"),
    Column("n", INT, "number of traces"),
)


HORIZONS = {"to_end": ("fai_to_end", "receiver_fai_to_end"), "near": ("fai", "receiver_fai")}
"""FAI and receiver FAI columns of curves.parquet, by horizon."""


def curve_rows(trace: Trace, curves: Mapping[Sinks, HeadCurves], sets: Sequence[HeadSets]) -> list[dict[str, Any]]:
    """The rows of curves.parquet for one trace."""
    return [
        {
            "example": trace.example,
            "layers": one.layers,
            "sinks": one.sinks,
            "position": response_of(trace).start,
            "waad": curves[one.sinks].over(one.local, "waad"),
            "fai": curves[one.sinks].over(one.far, "fai"),
            "fai_to_end": curves[one.sinks].over(one.far, "fai_to_end"),
            "receiver_fai": curves[one.sinks].over(one.receiver, "fai"),
            "receiver_fai_to_end": curves[one.sinks].over(one.receiver, "fai_to_end"),
        }
        for one in sets
    ]


def token_rows(
    trace: Trace, curve: Mapping[str, Any], entropy: Float[np.ndarray, " token"], peaks: Peaks
) -> list[dict[str, Any]]:
    """The rows of tokens.parquet for one trace: the first set of curves, entropy, peaks and the text's structure."""
    response = response_of(trace)
    starts = {boundary: boundary_positions(trace, boundary, response) for boundary in Boundary}
    sentence = sentence_numbers(starts[Boundary.SENTENCE])
    columns = {
        "waad": curve["waad"],
        "fai": curve["fai"],
        "fai_to_end": curve["fai_to_end"],
        "receiver_fai": curve["receiver_fai_to_end"],
        "entropy": entropy,
    }
    marks = {
        "waad_peak": peaks.of(curve["waad"]),
        "fai_peak": peaks.of(curve["fai_to_end"]),
        "receiver_peak": peaks.of(curve["receiver_fai_to_end"]),
        **{f"{boundary}_start": marked for boundary, marked in starts.items()},
    }
    return [
        {
            "example": trace.example,
            "position": position,
            "token": trace.token_text(position),
            "segment": trace.segment_at(position),
            "type": token_type(trace.token_text(position)),
            "sentence": int(sentence[i]),
            **{name: or_null(values[i]) for name, values in columns.items()},
            **{name: bool(marked[i]) for name, marked in marks.items()},
        }
        for i, position in enumerate(response)
    ]


@dataclass(frozen=True)
class Analysis:
    """What is computed from the curves of all traces."""

    peaks: Peaks = field(default_factory=Peaks)
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4)
    """Shares of tokens that are peaks, for the dependence on that choice."""
    lags: int = 10
    sentence_draws: int = 200
    tolerances: Sequence[int] = (0, 1, 2)
    seed: int = 0


def curves_of(row: Mapping[str, Any], tokens: pd.DataFrame, fai: str, receiver: str) -> Curves:
    """One trace's curves from a row of curves.parquet and the trace's rows of tokens.parquet."""
    return Curves(
        np.asarray(row["waad"], dtype=float),
        np.asarray(row[fai], dtype=float),
        np.asarray(row[receiver], dtype=float),
        tokens["entropy"].to_numpy(dtype=float),
        tokens["sentence"].to_numpy(),
    )


def coupling_rows(curves: pd.DataFrame, tokens: pd.DataFrame, analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of couplings.parquet: every set of layers, handling of sinks and horizon; other shares for the first."""
    by_example = dict(tuple(tokens.groupby("example", sort=False)))
    rows = []
    for i, ((layers, sinks), part) in enumerate(curves.groupby(["layers", "sinks"], sort=False)):
        choices = [analysis.peaks]
        if i == 0:
            choices += [Peaks(PeakRule.QUANTILE, share=share) for share in analysis.shares]
        for horizon, columns in HORIZONS.items():
            traces = [curves_of(row, by_example[row["example"]], *columns) for row in records(part)]
            for coupling in Coupling:
                if coupling == Coupling.ENTROPY and horizon != next(iter(HORIZONS)):
                    continue  # it has nothing to do with FAI
                for peaks in choices:
                    found = _couple(traces, coupling, peaks, analysis, layers, sinks, horizon)
                    if found is not None:
                        share = peaks.share if peaks.rule == PeakRule.QUANTILE else None
                        about = {
                            "coupling": coupling,
                            "layers": layers,
                            "sinks": sinks,
                            "horizon": None if coupling == Coupling.ENTROPY else horizon,
                            "rule": peaks.rule,
                            "share": share,
                        }
                        rows.append({**about, **found})
    adjust(rows, "p_shift")
    return rows


def _couple(
    traces: Sequence[Curves], coupling: Coupling, peaks: Peaks, analysis: Analysis, *labels: object
) -> dict[str, Any] | None:
    pairs = [pair for curves in traces if (pair := coupled(coupling, curves, peaks)) is not None]
    draws = analysis.sentence_draws if peaks is analysis.peaks else 0
    result = couple(pairs, analysis.seed, coupling, peaks.rule, *labels, sentence_draws=draws)
    return None if result is None else result.as_row()


def lag_rows(tokens: pd.DataFrame, analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of lags.parquet: FAI, receiver FAI and entropy around WAAD peaks."""
    traces = [part for _, part in tokens.groupby("example", sort=False)]
    rows = []
    for curve in ("fai_to_end", "receiver_fai", "entropy"):
        pairs = [
            (t["waad_peak"].to_numpy(dtype=bool), _only(_possible(t, "waad", analysis.peaks), t[curve])) for t in traces
        ]
        for point in lag_curve(pairs, range(-analysis.lags, analysis.lags + 1), analysis.seed, curve):
            where = {"around": "waad_peak", "curve": curve, "lag": point.lag}
            band = {"null_low": point.null_low, "null_high": point.null_high}
            rows.append({**where, **_columns(point.ratio), **band})
    return rows


def partial_rows(tokens: pd.DataFrame, analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of partial_effects.parquet: each coupling given nothing, and given the token's position in the response
    (linear and quadratic), the logarithm of its frequency in this run, and its type."""
    frequency = np.log(tokens.groupby("token")["token"].transform("size").to_numpy(dtype=float))
    types = [t for t in TokenType if t != TokenType.WORD]  # words are what the others are compared with
    wanted: dict[tuple[Coupling, str], list[float]] = {}
    for _, part in tokens.assign(frequency=frequency).groupby("example", sort=False):
        waad, receiver = (part[f"{name}_peak"].to_numpy(dtype=bool) for name in ("waad", "receiver"))
        along = np.linspace(-1, 1, len(part))
        present = [part["type"].eq(t).to_numpy(dtype=float) for t in types if part["type"].eq(t).any()]
        given = np.column_stack([along, along**2, part["frequency"], *present])
        may = {name: _possible(part, name, analysis.peaks) for name in ("waad", "receiver_fai")}
        fai = part["fai_to_end"]
        of = {
            Coupling.ENTROPY: (_only(may["waad"], part["entropy"]), waad),
            Coupling.RECEIVER: (_only(may["receiver_fai"], fai), receiver),
            Coupling.FOLLOWING: (_only(behind_possible(may["waad"]), fai), onset_window(waad)),
        }
        for coupling, (outcome, event) in of.items():
            for name, covariates in (("nothing", given[:, :0]), ("position, frequency, type", given)):
                value = partial_effect(outcome, event, covariates)
                wanted.setdefault((coupling, name), []).append(value)
    rows = []
    for (coupling, name), values in wanted.items():
        estimate, p = _tested(np.array(values), analysis.seed, "partial", coupling, name)
        if estimate["n"]:
            rows.append({"coupling": coupling, "given": name, **estimate, "p": p})
    return rows


def _possible(tokens: pd.DataFrame, curve: str, peaks: Peaks) -> Bool[np.ndarray, " token"]:
    """Which tokens of a trace may be peaks of one of its curves."""
    return peaks.possible(tokens[curve].to_numpy(dtype=float))


def _only(kept: Bool[np.ndarray, " token"], curve: pd.Series) -> Float[np.ndarray, " token"]:
    """NaN at the others."""
    return np.where(kept, curve.to_numpy(dtype=float), np.nan)


def type_rows(tokens: pd.DataFrame, analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of token_types.parquet."""
    examples = [part for _, part in tokens.groupby("example", sort=False)]
    rows = []
    for kind in (kind for kind in TokenType if tokens["type"].eq(kind).any()):
        measured: dict[str, list[float]] = {}
        for part in examples:
            here = part["type"].eq(kind)
            measured.setdefault("share of tokens", []).append(here.mean())
            for peak in ("waad_peak", "fai_peak", "receiver_peak"):
                marked = part[peak].astype(bool)
                measured.setdefault(f"share of {peak}s", []).append(here[marked].mean() if marked.any() else np.nan)
            for curve in ("waad", "fai_to_end", "entropy"):
                measured.setdefault(curve, []).append(part.loc[here, curve].astype(float).mean())
        for measure, values in measured.items():
            estimate = bootstrap_mean(np.array(values), rng_for(analysis.seed, "types", kind, measure))
            if estimate.n:
                rows.append({"type": kind, "measure": measure, **_columns(estimate)})
    return rows


def boundary_rows(tokens: pd.DataFrame, analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of boundaries.parquet: how well WAAD peaks find the beginnings of sentences, clauses and lines."""
    examples = [part for _, part in tokens.groupby("example", sort=False)]
    rows = []
    for boundary in Boundary:
        for tolerance in analysis.tolerances:
            found = [
                detect(
                    part["waad_peak"].to_numpy(dtype=bool),
                    part[f"{boundary}_start"].to_numpy(dtype=bool),
                    _possible(part, "waad", analysis.peaks),
                    tolerance,
                )
                for part in examples
            ]
            known = [one for one in found if one is not None]
            for measure in ("precision", "recall") if known else ():
                values = np.array([getattr(one, measure) for one in known])
                chance = np.array([getattr(one, f"chance_{measure}") for one in known])
                labels = (boundary, tolerance, measure)
                _, p = _tested(values - chance, analysis.seed, "boundaries", *labels)
                estimate = bootstrap_mean(values, rng_for(analysis.seed, "boundary", *labels))
                rows.append(
                    {
                        "boundary": boundary,
                        "measure": measure,
                        "tolerance": tolerance,
                        **_columns(estimate),
                        "chance": float(chance.mean()),
                        "p": p,
                    }
                )
    return rows


def _columns(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _tested(values: np.ndarray, seed: int, *labels: object) -> tuple[dict[str, Any], float | None]:
    """Mean over traces with its interval, and the sign-flip p-value of its being 0."""
    known = values[~np.isnan(values)]
    rng = rng_for(seed, *labels)
    p = sign_flips(known, rng)[0] if len(known) >= 2 else None
    return _columns(bootstrap_mean(known, rng)), p
