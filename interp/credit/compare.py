"""Trainings with credit side by side: arms over seeds, each beside plain GRPO or another arm. (Paper B, section 5)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from interp.credit.contrasts import contrast_line, contrast_rows, seed_rows
from interp.credit.gamma import NEEDS, CreditRule, Strategy
from interp.credit.gates import gates, power_lines
from interp.credit.study import REFERENCE, Training, by_arm, called, curve_rows, over_both, over_seeds, study_rows
from interp.errors import UserError
from interp.rhythm.published import CREDIT
from interp.rhythm.waad_fai import Settings
from interp.runs.compared import TIMING, Asked, Run, RunsCompared, differing, option
from interp.runs.headlines import Headline
from interp.runs.names import measured
from interp.runs.store import read_json
from interp.runs.verdicts import Sign, Verdict, verdict
from interp.stats import Estimate
from interp.text.numbers import difference_text

ARM_OPTIONS = frozenset(
    f"experiment.{name}"
    for name in (
        *("strategy", "q", "end", "gamma_amp", "alpha", "k", "tau_waad", "tau_delta", "once", "signs", "preserve_mass"),
        *("unit", "first_q"),
        *("heads", "layers", "share", "sinks", "window", "horizon", "ranking_traces", "rerank_every"),
    )
)
"""Options that an arm may differ in; all others must be the same, or the trainings do not compare."""
IGNORED = frozenset(
    {"seed", "threads", "run", "runs", "experiment.eval_batch", "experiment.save_every", "experiment.cosine_every"}
)

LATER = {"unit": "token", "first_q": None, "test_samples": 1}
"""Options that older runs lack, and what those did: an arm is not named by them where they are so."""
RULE = ("unit", "q", "end", "gamma_amp", "alpha", "k", "tau_waad", "tau_delta", "once", "signs", "preserve_mass")
"""Fields of a rule that the paper fixes, or this project where it is silent: other values are another treatment."""
LOOKED_AT = {"heads": "targeted", "layers": "five", "share": 0.3, "sinks": "kept"}
"""The same of whose attention is looked at."""
BUILT_IN = "the model was built so that the rule is right"
"""Why trainings on `decisions` test no claim of the paper: they say what credit can do, not that attention finds it."""


def compare(runs: Sequence[Run], asked: Asked) -> RunsCompared:
    """Tables `study`, `study_curves`, `study_seeds`, `contrasts`, and `gates` where trainings with oracle credit are
    among them. Raises UserError for runs that do not compare, and for a reference that is none of their arms."""
    names = arms([run.options for run in runs])
    places = Counter((name, run.options["seed"]) for name, run in zip(names, runs, strict=True))
    twice = [place for place, n in places.items() if n > 1]
    if twice:
        raise UserError(
            f"several runs of {twice[0][0]} have seed {twice[0][1]}, and differ in nothing that it reads: keep one"
        )
    trainings = [
        Training(name, int(run.options["seed"]), run.table("training"), _share(run))
        for name, run in zip(names, runs, strict=True)
    ]
    names_of_data = {run.options["data"]["name"] for run in runs}
    options = [run.options for run in runs]
    other = BUILT_IN if names_of_data == {"decisions"} else other_rule(options)
    published = CREDIT if names_of_data == {"countdown"} and other is None else {}
    reference = asked.reference or REFERENCE
    if asked.reference and asked.reference not in names:
        raise UserError(
            f"experiment.reference={asked.reference} is no arm of these trainings: there are "
            + "; ".join(sorted({*names}))
        )
    rows, contrasts = study_rows(trainings, published, reference), contrast_rows(trainings, reference)
    treatments = [table for table in (run.table("treatment") for run in runs) if len(table)]
    passed = gates(treatments, trainings) if treatments else []
    headlines = [
        Headline(
            f"held-out accuracy, {row['arm']}",
            Estimate(row["accuracy"], row["seeds"], row["low"], row["high"]),
            "before training",
            Estimate(row["start"], row["seeds"]),
        )
        for row in rows
    ]
    lines = [_line(row) for row in rows if row.get("difference") is not None]
    if reference not in names:
        lines.append("no run of plain GRPO (experiment.strategy=uniform) among them: no differences")
    if passed:
        # What decides comes first: a screen has room for no more.
        passed = sorted(passed, key=lambda gate: gate.passed is None)
        lines = [gate.line for gate in passed] + power_lines(trainings) + lines
    lines += [contrast_line(row) for row in contrasts if reference not in (row["arm"], row["other"]) or passed]
    model, data = measured(runs[0].options)
    return RunsCompared(
        {
            "study": rows,
            "study_curves": list(curve_rows(trainings)),
            "study_seeds": list(seed_rows(trainings)),
            "contrasts": contrasts,
            "gates": [gate.row for gate in passed],
        },
        headlines,
        lines,
        f"{model} on {data}",
        by_run=False,
        verdicts=verdicts(trainings, other),
    )


def verdicts(trainings: Sequence[Training], untested: str | None = None) -> list[Verdict]:
    """The paper's claims on arms that were trained here, seed by seed; `untested` says why these do not test them."""
    members = by_arm(trainings)
    turned = f"{Strategy.COUPLED}, end bottom"  # the same arm under another name
    wanted = (
        ("B6", Strategy.COUPLED, REFERENCE, Sign.HIGHER),
        ("B6.random", Strategy.COUPLED, Strategy.RANDOM, Sign.HIGHER),
        ("B6.bottom", turned if turned in members else Strategy.BOTTOM, REFERENCE, Sign.LOWER),
    )
    found = []
    for claim, arm, other, sign in wanted:
        missing = [name for name in (arm, other) if name not in members]
        if untested or missing:
            found.append(verdict(claim, [], why=untested or f"no training of {missing[0]}"))
            continue
        ours, theirs = ({one.seed: one.final for one in members[name]} for name in (arm, other))
        compared = over_both(ours, theirs)
        final = over_seeds(list(ours.values()))
        number = Headline(f"held-out accuracy, {arm}", final, other, over_seeds(list(theirs.values())), compared)
        found.append(verdict(claim, [(number, sign)]))
    return found


def other_rule(options: Sequence[dict]) -> str | None:
    """How all trainings credit otherwise than the paper, where they do so alike: no arm is named by that."""
    rule, windows = CreditRule(), Settings()
    strategies = [str(one["experiment"].get("strategy", rule.strategy)) for one in options]
    own: dict[str, object] = {name: getattr(rule, name) for name in RULE}
    own |= {"window": windows.window, "horizon": [windows.h_lo, windows.h_hi], **LOOKED_AT}
    for name, default in own.items():
        values = {
            str(one["experiment"].get(name, default))
            for one, strategy in zip(options, strategies, strict=True)
            if reads(strategy, name)
        }
        if len(values) == 1 and values != {str(default)}:
            return f"all trainings credit by {name}={values.pop()}, not by {default}"
    return None


def arms(options: Sequence[dict]) -> list[str]:
    """Each run's arm. Raises UserError for runs that differ in more than arms and seeds.

    The arm is named by what differs among those whose strategy reads it, plain GRPO always by its strategy alone:
    nothing else changes it.
    """
    options = [{**one, "experiment": {**LATER, **one["experiment"]}} for one in options]
    names = [name for name in differing(options) if name not in IGNORED]
    foreign = [name for name in names if name not in ARM_OPTIONS]
    if foreign:
        raise UserError(f"these trainings do not compare: they differ in {', '.join(foreign)}")
    strategies = [str(option(one, "experiment.strategy")) for one in options]
    told_by = [name for name in names if len(_values(options, strategies, name)) > 1]
    rests = [_rest(one, strategy, told_by) for one, strategy in zip(options, strategies, strict=True)]
    # The same strategy everywhere goes without saying, where something else is said of each.
    told = "experiment.strategy" in names or not all(rests)
    return [
        REFERENCE if strategy == REFERENCE else ", ".join([*([strategy] if told else []), *rest])
        for strategy, rest in zip(strategies, rests, strict=True)
    ]


def _rest(options: dict, strategy: str, names: Sequence[str]) -> list[str]:
    """What an arm is told by beside its strategy."""
    values = {name.removeprefix("experiment."): option(options, name) for name in names}
    return [
        f"{name} {_text(value)}"
        for name, value in values.items()
        if reads(strategy, name) and (name not in LATER or value != LATER[name])
    ]


def reads(strategy: str, name: str) -> bool:
    """Whether an option enters what a strategy makes of gamma."""
    signals = NEEDS[Strategy(strategy)]
    match name:
        case "strategy":
            return False  # told by itself
        case "q" | "end":
            return strategy not in (Strategy.UNIFORM, Strategy.SOFT, Strategy.ORACLE)
        case "gamma_amp":
            return strategy not in (Strategy.UNIFORM, Strategy.SOFT)
        case "first_q":
            return strategy == Strategy.FIRST
        case "alpha" | "k" | "tau_waad" | "tau_delta" | "once":
            return {"waad", "fai"} <= {*signals}
        case "heads" | "layers" | "share" | "sinks" | "window" | "horizon" | "ranking_traces" | "rerank_every":
            return bool({"waad", "fai"} & {*signals})
        case _:
            return strategy != Strategy.UNIFORM


def _values(options: Sequence[dict], strategies: Sequence[str], name: str) -> set[str]:
    """An option's values among the runs whose strategy reads it."""
    own = name.removeprefix("experiment.")
    return {str(option(one, name)) for one, strategy in zip(options, strategies, strict=True) if reads(strategy, own)}


def _text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _share(run: Run) -> float:
    return float(read_json(run.directory / TIMING)["share"])


def _line(row: dict) -> str:
    found = difference_text(row["difference"], row.get("difference_low"), row.get("difference_high"))
    gap = f"{row['arm']} minus {called(row['reference'])}: {found}"
    if row.get("p_adjusted") is not None:
        gap += f", adjusted p = {row['p_adjusted']:.3g}"
    return f"{gap} ({row['pairs']} seeds)"
