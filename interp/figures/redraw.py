"""Every figure of a run from its tables and summary, by experiment: what a run draws and what is drawn again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from interp.errors import UserError, nearest
from interp.figures import ablation, evaluation, style
from interp.figures import compare as compare_figures
from interp.figures import credit as credit_figures
from interp.figures import heads as head_figures
from interp.figures import key_tokens as key_figures
from interp.figures import maps as map_figures
from interp.figures import patching as patch_figures
from interp.figures import perturb as perturb_figures
from interp.figures import rhythm as rhythm_figures
from interp.figures.token_page import token_page
from interp.figures.tokens import token_attention
from interp.figures.training import training_curve
from interp.heads.scores import Head
from interp.runs.store import records, tables_of
from interp.text.trace import Trace

Tables = Callable[[str], pd.DataFrame]


def redraw(experiment: str, table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    """Draws an experiment's figures into `directory`; `facts` is the content of its summary.json."""
    if experiment not in DRAW:
        raise UserError(f"experiment {experiment!r} has no figures to draw; {nearest(experiment, DRAW)}")
    DRAW[experiment](table, facts, directory)


def _draw_heads(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    heads, ranking = table("heads"), table("ranking")
    model, score = str(heads["model"].iloc[0]), facts["score"]
    top = [Head(*place) for place in facts["top_heads"]]
    marks = {kind: [Head(*place) for place in facts["lists"].get(kind, [])] for kind in ("induction", "retrieval")}
    style.save(head_figures.segment_masses({model: heads}), directory, "a_fig2_segment_masses")
    figure = head_figures.head_masses(heads, top, model, f"{score} score", marks)
    style.save(figure, directory, "a_fig3_head_masses")
    style.save(head_figures.layer_profile(table("layers"), score, model), directory, "a_fig3_layers")
    style.save(head_figures.ranking_stability(ranking, score, model), directory, "a_fig3_stability")
    style.save(head_figures.overlaps(table("overlaps"), model), directory, "a_fig3_overlaps")
    maps = table("maps")
    if maps.empty:
        return
    shown = set(maps["example"])
    traces = [Trace.from_row(row) for row in records(table("traces")) if row["example"] in shown]
    words = facts["reflection_words"]
    if map_figures.mapped_heads(maps):
        style.save(map_figures.attention_maps(maps, heads, traces, words, model), directory, "a_fig4_maps")
    style.save(token_attention(maps, traces[0], model), directory, "a_fig5_tokens")
    (directory / "a_fig5_tokens.html").write_text(
        token_page(maps, traces, words, model), encoding="utf-8", errors="replace"
    )


def _draw_training(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:  # noqa: ARG001 - all draw alike
    style.save(training_curve(table("training")), directory, "training")


def _draw_compare(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    if facts["compared"] == "credit":  # many trainings of few arms: the study says more than run by run
        study, curves = table("study"), table("study_curves")
        style.save(credit_figures.study_curves(curves, facts["subject"]), directory, "b_fig4_curves")
        style.save(credit_figures.study_accuracy(study, facts["subject"]), directory, "b_table3_accuracy")
        style.save_table(credit_figures.study_table(study), directory, "b_table3_accuracy")
        return
    for i, page in enumerate(compare_figures.side_by_side(table("numbers"))):
        style.save(page, directory, f"compare_numbers_{i}")
    for i, page in enumerate(compare_figures.along_layers(table("numbers"))):
        style.save(page, directory, f"compare_layers_{i}")
    if facts["compared"] != "heads":
        return
    if not table("overlaps").empty:
        figure = head_figures.overlaps(table("overlaps"), f"top heads by {facts['kind']}")
        style.save(figure, directory, "overlaps")
    runs = {label: tables_of(Path(run)) for label, run in facts["runs"].items()}
    masses = {label: of("heads") for label, of in runs.items()}
    style.save(head_figures.segment_masses(masses), directory, "a_fig2_segment_masses")
    profiles = {label: of("layers") for label, of in runs.items()}
    style.save(compare_figures.layer_profiles(profiles, facts["kind"]), directory, "a_fig3_layers")


def _draw_patching(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    effects, pairs, heads = table("effects"), records(table("pairs")), table("heads")
    model = str(effects["model"].iloc[0])
    rfhs = [Head(*place) for place in facts["rfhs"]]
    shape = (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    style.save(patch_figures.aligned_pair(pairs[0], model), directory, "a_fig6_pair")
    style.save(patch_figures.case(effects, model), directory, "a_fig7_case")
    style.save(patch_figures.hand_over_curves(effects, rfhs, model), directory, "a_fig8_hand_over")
    mapped = effects[effects["role"].isna() & effects["control"].isna()]["example"].unique()
    for i, example in enumerate(mapped):
        style.save(patch_figures.whole_map(effects, example, model), directory, f"patch_map_{i}")
    more = {
        "patch_heads": patch_figures.head_map(effects, rfhs, shape, model),
        "patch_paths": patch_figures.paths(effects, model),
        "patch_attribution": patch_figures.attribution(effects, model),
    }
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)


def _draw_evaluate(table: Tables, _: Mapping[str, Any], directory: Path) -> None:
    accuracy, paired = table("accuracy"), table("paired")
    more = {
        "a_fig1_accuracy": evaluation.accuracy_bars(accuracy, paired),
        "evaluate_outcomes": evaluation.outcomes(table("answers")),
        "evaluate_groups": evaluation.differences(paired, ("kind", "level"), "effect of reasoning"),
        "evaluate_length": evaluation.differences(paired, ("length",), "effect, by words of reasoning"),
        "evaluate_pass_at_k": evaluation.pass_at_k(accuracy),
    }
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)
    style.save_table(evaluation.filter_table(table("filters")), directory, "a_table2_filters")
    style.save_table(evaluation.effect_table(accuracy, paired), directory, "a_table3_effect")


def _draw_rhythm(table: Tables, _: Mapping[str, Any], directory: Path) -> None:
    tokens, couplings, maps = table("tokens"), table("couplings"), table("maps")
    model = str(tokens["model"].iloc[0])
    more: dict[str, Figure | None] = {
        "b_fig2_curves": rhythm_figures.curves(tokens, model),
        "rhythm_types": rhythm_figures.token_types(table("token_types"), model),
    }
    if not maps.empty:
        more["b_fig2_maps"] = rhythm_figures.maps_of_sets(maps, int(maps["position"].min()), model)
    if not couplings.empty:
        more["b_table2_couplings"] = rhythm_figures.couplings(couplings, model)
        more["b_table10_layers"] = rhythm_figures.by_layers(couplings, model)
        more["rhythm_shares"] = rhythm_figures.by_share(couplings, model)
        style.save_table(rhythm_figures.coupling_table(couplings, model), directory, "b_table2_couplings")
    if not table("lags").empty:
        more["rhythm_lags"] = rhythm_figures.lags(table("lags"), model)
    if not table("boundaries").empty:
        more["rhythm_boundaries"] = rhythm_figures.boundaries(table("boundaries"), model)
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)


def _draw_ablate(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    effects, heads = table("effects"), table("heads")
    model = str(effects["model"].iloc[0])
    lists = {kind: [Head(*place) for place in places] for kind, places in facts["lists"].items()}
    shape = (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    more = {
        "ablate_doses": ablation.doses(effects, model),
        "ablate_heads": ablation.single_heads(effects, lists, shape, model),
        "knockout_windows": ablation.windows(effects, model),
        "knockout_whole": ablation.whole(effects, model),
    }
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)


def _draw_perturb(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    perturbed, tokens = table("perturbed"), table("tokens")
    model = str(tokens["model"].iloc[0])
    more: dict[str, Figure | None] = {
        "b_fig3_problems": perturb_figures.problems(table("effects"), tokens, int(facts["k"]), model),
        "perturb_predictors": perturb_figures.predictors(table("predictors"), model),
    }
    if not perturbed.empty:
        more["b_table1_perturbed"] = perturb_figures.groups(perturbed, model)
        style.save_table(perturb_figures.group_table(perturbed), directory, "b_table1_perturbed")
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)


def _draw_key_tokens(table: Tables, _: Mapping[str, Any], directory: Path) -> None:
    effects, corrupted = table("effects"), table("corrupted")
    model = str(effects["model"].iloc[0])
    more = {
        "key_kinds": key_figures.kinds(corrupted, model),
        "key_places": key_figures.by_place(corrupted, model),
        "key_way": key_figures.way(effects, model),
    }
    for name, figure in more.items():
        if figure is not None:
            style.save(figure, directory, name)


def _draw_credit(table: Tables, facts: Mapping[str, Any], directory: Path) -> None:
    training, credited = table("training"), table("credited")
    title = f"{training['model'].iloc[0]}, {facts['strategy']} credit"
    style.save(credit_figures.learning_curve(training, title), directory, "credit_curve")
    style.save(credit_figures.credited_tokens(credited, title), directory, "credit_tokens")


DRAW: dict[str, Callable[[Tables, Mapping[str, Any], Path], None]] = {
    "heads": _draw_heads,
    "train_reasoner": _draw_training,
    "compare": _draw_compare,
    "patching": _draw_patching,
    "evaluate": _draw_evaluate,
    "rhythm": _draw_rhythm,
    "ablate": _draw_ablate,
    "perturb": _draw_perturb,
    "key_tokens": _draw_key_tokens,
    "credit": _draw_credit,
}
