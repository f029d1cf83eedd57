"""The tables of Paper B's measures: sets of heads, curves, couplings, forced tokens."""

from __future__ import annotations

import pyarrow as pa

from interp.runs.columns import EXAMPLE, FLOAT, INT, LAYERS, SINKS, TEXT, UNDEFINED, Column

TABLES: dict[str, tuple[Column, ...]] = {
    "head_sets": (
        Column("kind", TEXT, "`local`, `global` or `receiver` (Paper B, section 4.1)"),
        LAYERS,
        SINKS,
        Column("layer", INT, "layer, from 0"),
        Column("head", INT, "head, from 0"),
        Column("value", FLOAT, "what it was chosen by: mean distance in tokens, or mean kurtosis"),
    ),
    "curves": (
        EXAMPLE,
        LAYERS,
        SINKS,
        Column("position", INT, "position of the first value"),
        *(
            Column(name, pa.list_(pa.float32()), f"as in `tokens`, one value a token of the response; {UNDEFINED}")
            for name in ("waad", "fai", "fai_to_end", "receiver_fai", "receiver_fai_to_end")
        ),
    ),
    "couplings": (
        Column("coupling", TEXT, "which coupling of Paper B, Table 2: see interp/rhythm/couplings.py"),
        LAYERS,
        SINKS,
        Column("horizon", TEXT, "`to_end` or `near`: which FAI", null="does not use FAI"),
        Column("rule", TEXT, "how peaks are found: `prominence` or `quantile`"),
        Column("share", FLOAT, "share of tokens that are peaks", null="`prominence`"),
        Column("value", FLOAT, "mean over traces of the value at events"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("baseline", FLOAT, "mean over traces of the value at all tokens: what random events would give"),
        Column("lift", FLOAT, "`value` / `baseline` - 1", null="the baseline is 0"),
        Column("lift_low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2, or unbounded"),
        Column("lift_high", FLOAT, "upper end of it", null="n < 2, or unbounded"),
        Column("null_low", FLOAT, "lower end of the middle 95 % of `value` under circular shifts"),
        Column("null_high", FLOAT, "upper end of it"),
        Column("p_shift", FLOAT, "two-sided p-value against circular shifts of each trace"),
        Column("p_sentence", FLOAT, "the same against permutations within sentences", null="not computed"),
        Column("p_adjusted", FLOAT, "p_shift after Benjamini-Hochberg over the table"),
        Column("n", INT, "number of traces"),
        Column("n_events", INT, "number of events in all of them"),
    ),
    "lags": (
        Column("around", TEXT, "the events: `waad_peak`"),
        Column("curve", TEXT, "the curve that is averaged around them"),
        Column("lag", INT, "tokens after the event; negative = before it"),
        Column("value", FLOAT, "mean over traces of the curve there, relative to its mean over the trace"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("null_low", FLOAT, "lower end of the middle 95 % under circular shifts"),
        Column("null_high", FLOAT, "upper end of it"),
        Column("n", INT, "number of traces"),
    ),
    "partial_effects": (
        Column("coupling", TEXT, "as in `couplings`"),
        Column("given", TEXT, "what is held constant"),
        Column("value", FLOAT, "mean over traces of the event's coefficient, in standard deviations of the ranks"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("p", FLOAT, "two-sided sign-flip p-value over traces", null="n < 2"),
        Column("n", INT, "number of traces"),
    ),
    "token_types": (
        Column("type", TEXT, "as in `tokens`"),
        Column("measure", TEXT, "`share` of tokens or of peaks, or the mean of a curve"),
        Column("value", FLOAT, "mean over traces"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("n", INT, "number of traces"),
    ),
    "boundaries": (
        Column("boundary", TEXT, "`sentence`, `clause` or `step`"),
        Column("measure", TEXT, "`precision` or `recall` of WAAD peaks"),
        Column("tolerance", INT, "tokens that a hit may be off"),
        Column("value", FLOAT, "mean over traces"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over traces", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("chance", FLOAT, "the same for peaks at random places"),
        Column("p", FLOAT, "two-sided sign-flip p-value of the difference over traces", null="n < 2"),
        Column("n", INT, "number of traces"),
    ),
    "perturbed": (
        Column("score", TEXT, "by what positions were chosen"),
        Column("group", TEXT, "which of them: see Group in interp/perturb/overlap.py"),
        Column("metric", TEXT, "as in `effects`"),
        Column("value", FLOAT, "mean over problems of the mean over the group's positions"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over problems", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("difference", FLOAT, "mean over problems of top minus this group", null="the top itself"),
        Column("difference_low", FLOAT, "lower end of its 95 % interval", null="the top itself, or n < 2"),
        Column("difference_high", FLOAT, "upper end of it", null="the top itself, or n < 2"),
        Column("p", FLOAT, "two-sided sign-flip p-value of the difference", null="the top itself, or n < 2"),
        Column("lower", FLOAT, "share of problems in which the top has the lower value", null="the top itself"),
        Column("n", INT, "number of problems"),
    ),
    "predictors": (
        Column("score", TEXT, "a score of positions"),
        Column("metric", TEXT, "as in `effects`"),
        Column("given", TEXT, "`nothing`, or what is held constant"),
        Column("value", FLOAT, "mean over problems of the (partial) rank correlation over positions, -1..1"),
        Column("low", FLOAT, "lower end of its 95 % bootstrap interval over problems", null="n < 2"),
        Column("high", FLOAT, "upper end of it", null="n < 2"),
        Column("p", FLOAT, "two-sided sign-flip p-value of its being 0", null="n < 2"),
        Column("p_against_fai", FLOAT, "the same of `fai` minus this, in absolute correlation", null="`fai`, or n < 2"),
        Column("n", INT, "number of problems"),
    ),
}
