"""The tables of trainings, of credit, and of runs side by side."""

from __future__ import annotations

from interp.runs.columns import EXAMPLE, FLOAT, INT, TEXT, Column

TABLES: dict[str, tuple[Column, ...]] = {
    "training": (
        Column("step", INT, "optimizer steps done"),
        Column(
            "measure",
            TEXT,
            "what was measured: `accuracy` and the like on held-out problems; in `credit` also of the step's own "
            "responses `reward` (0..1), `entropy` (nats), `length` (tokens), `groups_without_signal` (0..1: all "
            "responses right or all wrong), `credited_share` (0..1: tokens whose advantage gamma changed), and "
            "`gradient_norm`",
        ),
        Column("value", FLOAT, "its value"),
        Column("n", INT, "number of problems or responses behind it"),
        Column("low", FLOAT, "lower end of the 95 % interval", null="n < 2, or no interval is made"),
        Column("high", FLOAT, "upper end of the 95 % interval", null="n < 2, or no interval is made"),
    ),
    "credited": (
        EXAMPLE,
        Column("position", INT, "position in the whole sequence, from 0"),
        Column("token", TEXT, "the token's text"),
        Column("segment", TEXT, "segment of the token", null="a final end-of-sequence token"),
        Column("waad", FLOAT, "WAAD over the local heads, 0..W (Paper B, Def. 4.1)", null="undefined here"),
        Column("fai", FLOAT, "FAI over the global heads, 0..1 (Paper B, Def. 4.2)", null="its window is empty"),
        Column("entropy", FLOAT, "entropy of the prediction of this token, in nats", null="undefined here"),
        Column("gamma", FLOAT, "factor on the token's advantage (Paper B, section 5)"),
    ),
    "study": (
        Column("arm", TEXT, "what was tried: the options in which the trainings differ"),
        Column("seeds", INT, "number of trainings"),
        Column("accuracy", FLOAT, "held-out accuracy at the end, mean over seeds"),
        Column("low", FLOAT, "lower end of its 95 % t interval over seeds", null="one seed"),
        Column("high", FLOAT, "upper end of it", null="one seed"),
        Column("start", FLOAT, "held-out accuracy before training"),
        Column("best", FLOAT, "highest held-out accuracy of each training, mean over seeds"),
        Column("difference", FLOAT, "accuracy minus that of plain GRPO, paired by seed", null="plain GRPO, or no pair"),
        Column("difference_low", FLOAT, "lower end of its 95 % t interval over seeds", null="fewer than two pairs"),
        Column("difference_high", FLOAT, "upper end of it", null="fewer than two pairs"),
        Column("pairs", INT, "number of seeds behind the difference", null="plain GRPO, or no pair"),
        Column("p", FLOAT, "two-sided paired t test", null="fewer than two pairs, or all differences are equal"),
        Column("p_adjusted", FLOAT, "p after Benjamini-Hochberg over the arms", null="as p"),
        Column("credit_share", FLOAT, "share of a step's time that measuring credit took (Paper B, Table 8)"),
        Column("published", FLOAT, "Paper B's accuracy of this arm, on its own model and task", null="none"),
    ),
    "study_curves": (
        Column("arm", TEXT, "as in `study`"),
        Column("step", INT, "optimizer steps done"),
        Column("measure", TEXT, "as in `training`; `reward_peak` is the reward's running peak average"),
        Column("value", FLOAT, "mean over seeds"),
        Column("n", INT, "number of seeds"),
        Column("low", FLOAT, "lower end of the 95 % t interval over seeds", null="one seed"),
        Column("high", FLOAT, "upper end of it", null="one seed"),
    ),
    "numbers": (
        Column("run", TEXT, "what tells the run from the others"),
        Column("series", TEXT, "what tells it from the others but for its layers"),
        Column("layers", TEXT, "its experiment.layers", null="the experiment has no such option"),
        Column("name", TEXT, "a headline number of its summary.json"),
        Column("value", FLOAT, "its value", null="undefined"),
        Column("low", FLOAT, "lower end of its 95 % interval", null="it has none"),
        Column("high", FLOAT, "upper end of it", null="it has none"),
        Column("n", INT, "number of examples behind it"),
        Column("control", TEXT, "kind of its control", null="it has none"),
        Column("control_value", FLOAT, "the control's value", null="it has none"),
        Column("control_low", FLOAT, "lower end of the control's interval", null="it has none"),
        Column("control_high", FLOAT, "upper end of it", null="it has none"),
    ),
}
