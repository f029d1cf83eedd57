"""Which activations of the reasoning decide the answer, and how does it get there? (Paper A, section 5)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from experiments.base.experiment import Example, Experiment, InPaper, LeftOut, Rows
from experiments.base.pairs import pair_maker
from experiments.base.patching_options import PatchingOptions, method_of_map, patch_options_of, verified_of_map
from experiments.base.plan import Plan, measured
from experiments.base.sample import CLOSING_SECONDS
from experiments.base.session import Session
from experiments.base.steps import run_steps
from interp.data.input_check import positions_of
from interp.errors import UserError
from interp.figures import patching as figures
from interp.figures.drawing import Drawings, Tables
from interp.figures.explorer.page import explorer
from interp.figures.route import route
from interp.heads.measure import HeadMeasures, measure_heads
from interp.heads.ranking import mean_over_examples
from interp.heads.scores import Head, HeadScore, head_array, rank_heads, score_values, usual_count
from interp.model.lens import load_config
from interp.model.sites import Site
from interp.patching.align import ContrastPair, Pads, Part, Role, key_positions
from interp.patching.attribution import Method, passes
from interp.patching.edges import NEEDED, require_edges
from interp.patching.findings import PatchingFacts, findings
from interp.patching.nld import Direction
from interp.patching.pair import PairPatcher, PairRuns, PatchOptions, longest_run, run_pair
from interp.patching.preferences import preference_row
from interp.patching.relevance import require_rules
from interp.patching.route import route_findings, route_rows
from interp.patching.shares import path_sets
from interp.patching.stored import pair_of, pair_row, trace_rows
from interp.runs.about import About
from interp.runs.findings import Findings
from interp.runs.store import records
from interp.stats import Sets, rng_for
from interp.text.trace import Segment


def drafts(session: Session, options: PatchingOptions) -> Iterator[Example]:
    """Every question that is not done, with its pair, or the reason why there is none."""
    maker = pair_maker(session)
    if options.edges:
        require_edges(session.lens)
    yield from session.bar(maker.drafts(session.store.has), "pairs", total=len(maker.questions))


def measure(session: Session, options: PatchingOptions, example: Example) -> Rows | LeftOut:
    """What a pair's runs prefer; its aligned tokens and its clean trace's masses if they prefer their own answers."""
    lens, pair, maker = session.lens, example.subject, pair_maker(session)
    pads = Pads(maker.options.pads)
    if not fits(session, pair, pads):
        return LeftOut(f"longer than the {positions_of(lens.hf.config)} positions of {lens.name}")
    runs = run_pair(lens, pair, [], pads)
    bound = maker.options.min_ld
    prefers = preference_row(pair.id, runs.answers, bound)
    found: Rows = {"preferences": [prefers]}
    if prefers["clean"] == prefers["corrupted"]:
        return LeftOut("both runs have the same logit difference, so that no patch can be normalised by it", found)
    if not prefers["kept"]:
        return LeftOut(f"a run does not prefer its own answer by more than data.min_ld={bound:g}", found)
    masses = measure_heads(lens, pair.clean.trace, HeadMeasures(permutations=0), session.seed)
    for mass in masses:
        mass["example"] = pair.id
    return {"pairs": [pair_row(lens, pair)], "traces": trace_rows(pair), "heads": masses, **found}


def fits(session: Session, pair: ContrastPair, pads: Pads) -> bool:
    """Whether the model has a position for every token of the pair's runs."""
    positions = positions_of(session.lens.hf.config)
    return positions is None or longest_run(pair, pads) <= positions


def patch(session: Session, options: PatchingOptions) -> None:
    """Finds the RFHs of the kept pairs, and makes all patches."""
    patch_options, pads = patch_options_of(session, options), Pads(pair_maker(session).options.pads)
    pairs, (rfhs, shape), sites = _pairs(session), _rfhs(session, options), patch_options_sites(patch_options, options)
    sets = path_sets(rfhs, shape, options.random_sets, session.seed)
    ahead: dict[int, PairRuns] = {}

    def rows(number: int, tick: Any) -> Rows:
        runs = ahead.pop(number, None) or run_pair(session.lens, pairs[number], sites, pads)
        other = unrelated_pair(pairs, number) if options.unrelated else None
        theirs = None if other is None else run_pair(session.lens, pairs[other], sites, pads)
        ahead.clear()
        if other == number + 1 and theirs is not None:
            ahead[other] = theirs  # mostly the next pair is the unrelated one: its runs are made once for both purposes
        effects = measure_pair(session, runs, theirs, rfhs, sets, number < options.maps, patch_options, options, tick)
        tables = {}
        if options.edges:
            edges, route = route_rows(session.lens, runs, options.edges)
            tables = {"edges": edges, "routes": [route]}
        return {"effects": effects, **tables}

    steps = [(f"a-{number:06d}", partial(rows, number)) for number in range(len(pairs))]
    run_steps(session, "patches", steps, ticks=len(pairs) * patches_a_pair(session, patch_options, options, pairs[0]))


def unrelated_pair(pairs: Sequence[ContrastPair], number: int) -> int | None:
    """The next pair, in a circle, that shares neither answer with this one: activations that name an answer of this
    pair are no control. None if all others do."""

    def answers(pair: ContrastPair) -> set[int]:
        return {pair.clean.answer_id, pair.corrupted.answer_id}

    around = (i % len(pairs) for i in range(number + 1, number + len(pairs)))
    return next((i for i in around if not answers(pairs[i]) & answers(pairs[number])), None)


def _rfhs(session: Session, options: PatchingOptions) -> tuple[list[Head], tuple[int, ...]]:
    """The given heads, or the top ones on the clean traces of the kept pairs; how many layers and heads there are."""
    if options.rfhs is not None:
        return [Head(*place) for place in options.rfhs], (session.shape.n_layers, session.shape.n_heads)
    heads = session.store.table("heads")
    means = mean_over_examples(head_array(heads, score_values(heads, HeadScore(options.score))))
    return rank_heads(means, n_rfhs(session, options)), means.shape


def tell(session: Session, options: PatchingOptions) -> Findings[PatchingFacts]:
    """The findings, out of the run's tables."""
    store, maker = session.store, pair_maker(session)
    rfhs, shape = _rfhs(session, options)
    sets = path_sets(rfhs, shape, options.random_sets, session.seed)
    found = findings(store.table("effects"), store.table("preferences"), rfhs, sets, shape, session.seed)
    n_pairs = len(store.table("pairs"))
    edges, routes = (store.table(name) if options.edges else None for name in ("edges", "routes"))
    headlines, told = ([], []) if edges is None or routes is None else route_findings(edges, routes, session.seed)
    listed, *lines = found.lines
    lines.insert(0, f"{listed}, {'the top ones on the clean traces' if options.rfhs is None else 'as given'}")
    return replace(
        found,
        headlines=[*found.headlines, *headlines],
        lines=[f"{n_pairs} pairs of {len(maker.questions)} questions; {maker.response} reasoning", *lines, *told],
    )


def measure_pair(
    session: Session,
    runs: PairRuns,
    other: PairRuns | None,
    rfhs: list[Head],
    sets: Sets,
    with_map: bool,
    patch_options: PatchOptions,
    options: PatchingOptions,
    progress: Any = None,
) -> list[dict[str, Any]]:
    """All rows of effects.parquet of one pair."""
    lens, name = session.lens, runs.pair.id
    patcher = PairPatcher(lens, runs, patch_options, progress)
    rows = patcher.main(rng_for(session.seed, "positions", name))
    if with_map:
        places = patcher.map_size(options.map_stride)
        method = method_of_map(options, places)
        rows += (
            patcher.full_map(options.map_stride)
            if method is None
            else patcher.estimated_map(options.map_stride, method, verified_of_map(options, places))
        )
    if other is not None:
        rows += patcher.unrelated(other)
    if options.attribution:
        rows += patcher.attributed()
    if options.random_sets:
        rows += patcher.through(rfhs)
        rows += patcher.through_sets([[Head(*place) for place in one] for (one,) in sets.heads], sets.control)
    return rows


def patch_options_sites(patch_options: PatchOptions, options: PatchingOptions) -> list[Site]:
    """What the base runs must keep: the patched sites, z for heads and for freezing them, and what edges need."""
    return list(dict.fromkeys([*patch_options.sites, Site.Z, *(NEEDED if options.edges else ())]))


def _pairs(session: Session) -> list[ContrastPair]:
    """The pairs that were kept, in the order of the data, as they were aligned."""
    traces = {row["example"]: row for row in records(session.store.table("traces"))}
    return [pair_of(row, traces) for row in records(session.store.table("pairs"))]


def patches_a_pair(session: Session, patch_options: PatchOptions, options: PatchingOptions, pair: ContrastPair) -> int:
    """About how many patches a pair takes, without its full map."""
    layers = session.lens.n_layers if patch_options.layers is None else len(patch_options.layers)
    keys = key_positions(pair, options.answer_tokens)
    roles = [key.role for key in keys]
    heads = sum(role in patch_options.head_roles for role in roles) * session.lens.n_heads
    a_direction = len(keys) * len(patch_options.sites) + heads + options.random_positions
    return layers * (a_direction * len(patch_options.directions) + 2 * options.unrelated + 1) + options.random_sets


def plan(session: Session, options: PatchingOptions) -> Plan:
    """Drafts one batch of pairs and patches one of them."""
    patch_options, maker = patch_options_of(session, options), pair_maker(session)
    pads = Pads(maker.options.pads)
    drafted, pair = 0, None
    tokens = 0
    with measured() as drafting:
        for draft in maker.drafts():
            drafted += 1
            tokens += sum(row["n_tokens"] for row in draft.tables["answers"])
            if pair is None and draft.subject is not None and fits(session, draft.subject, pads):
                pair = draft.subject
            if pair is not None and drafted >= min(len(maker.questions), max(1, session.generation.batch // 2)):
                break
    if pair is None:
        raise UserError("no pair can be made of these questions")
    sample = replace(patch_options, sites=[Site.RESID_PRE], directions=[Direction.DENOISE], head_roles=())
    with measured():
        runs = run_pair(session.lens, pair, patch_options_sites(patch_options, options), pads)
    with measured() as meter:
        PairPatcher(session.lens, runs, sample).main(rng_for(session.seed, "positions", pair.id))
    n = len(maker.questions)
    whole, mapped, part = (
        cost(session, one, many, pair) for one, many in ((patch_options, options), (None, options), (sample, None))
    )
    share = meter.seconds / part
    generated = round(tokens * n / drafted) if maker.response == "generate" else 0
    total = (drafting.seconds / drafted + whole * share) * n + min(options.maps, n) * mapped * share + CLOSING_SECONDS
    length = len(pair.corrupted.trace.token_ids)
    count = n * patches_a_pair(session, patch_options, options, pair)
    basis = f"{drafted} questions and part of one pair of {length} tokens; {count} patches if none drops"
    return Plan(n, 6 * n, generated, max(meter.peak_bytes, drafting.peak_bytes), total, basis)


def cost(
    session: Session, patch_options: PatchOptions | None, options: PatchingOptions | None, pair: ContrastPair
) -> float:
    """Positions times layers that a pair's patches compute; without patch options, those of its full map alone."""
    lens, stop = session.lens, pair.corrupted.trace.n_measured
    layers = range(lens.n_layers) if patch_options is None or patch_options.layers is None else patch_options.layers
    depth = sum(lens.n_layers - layer for layer in layers)
    if patch_options is None:
        first = Segment.PROMPT if options is not None and options.map_prompt else Segment.REASONING
        stride = 1 if options is None else options.map_stride
        places = range(pair.corrupted.trace[first].start, stop, stride)
        method = None if options is None else method_of_map(options, len(layers) * len(places))
        if options is not None and method is not None:
            forward, backward = passes(method, lens.n_layers, [Site.RESID_PRE])
            exact = min(1.0, verified_of_map(options, len(layers) * len(places)) / (len(layers) * len(places)))
            estimate = (forward + 2 * backward) * lens.n_layers * stop  # backwards costs about twice as much
            return estimate + exact * depth * sum(stop - p for p in places)
        return depth * sum(stop - p for p in places)
    keys = key_positions(pair, patch_options.answer_tokens)
    width = {key.role: stop - key.corrupted for key in keys}
    phrase, last = width.get(Role.PHRASE_ANSWER, 0), width.get(Role.PREDICTING, 1)
    body = stop - pair.corrupted.parts[Part.BODY].stop + 10
    a_direction = (
        len(patch_options.sites) * sum(stop - key.corrupted for key in keys)
        + lens.n_heads * sum(width.get(role, 0) for role in patch_options.head_roles)
        + patch_options.random_positions * body
    )
    more = 0.0
    if options is not None:
        more = options.unrelated * (phrase + last) + phrase * bool(options.random_sets)
        more += options.random_sets * phrase * (lens.n_layers - min(layers)) / depth
        more += options.edges * (stop - pair.corrupted.trace[Segment.REASONING].start) / len(layers)
    return depth * (len(patch_options.directions) * a_direction + more)


def check(session: Session, options: PatchingOptions) -> None:
    """Everything that can be wrong is said before anything runs."""
    model, k = session.shape, n_rfhs(session, options)
    if not 1 <= k <= model.n_layers * model.n_heads:
        n_heads = model.n_layers * model.n_heads
        raise UserError(f"experiment.top_k={options.top_k}: {model.name} has {n_heads} heads")
    for layer, head in options.rfhs or []:
        if layer >= model.n_layers or head >= model.n_heads:
            ends = f"layers 0 to {model.n_layers - 1} of heads 0 to {model.n_heads - 1}"
            raise UserError(f"experiment.rfhs: {model.name} has no head ({layer}, {head}), but {ends}")
    patch_options_of(session, options)
    if options.map_method == Method.RELP:
        require_rules(model.name, load_config(session.model_spec).get_text_config())
    pair_maker(session)


def n_rfhs(session: Session, options: PatchingOptions) -> int:
    """How many heads count as RFHs."""
    if options.rfhs is not None:
        return len(options.rfhs)
    return options.top_k or usual_count(session.shape.n_layers * session.shape.n_heads)


def draw(table: Tables, facts: PatchingFacts) -> Drawings:
    """Paper A's Figs. 6 to 8, and maps of all positions, heads and paths."""
    effects, pairs, heads = table("effects"), records(table("pairs")), table("heads")
    model = str(effects["model"].iloc[0])
    shape = (int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1)
    yield "a_fig6_pair", partial(figures.aligned_pair, pairs[0], model)
    yield "a_fig7_case", partial(figures.case, effects, model)
    yield "a_fig8_hand_over", partial(figures.hand_over_curves, effects, facts.rfhs, model)
    mapped = effects[effects["role"].isna() & effects["control"].isna()]["example"].unique()
    for i, example in enumerate(mapped):
        yield f"patch_map_{i}", partial(figures.whole_map, effects, example, model)
    yield "patch_heads", partial(figures.head_map, effects, facts.rfhs, shape, model)
    yield "patch_paths", partial(figures.paths, effects, model)
    yield "patch_attribution", partial(figures.attribution, effects, model)
    yield "patch_route", partial(route, table("edges"), shape, model)
    yield "explore", partial(explorer, {"patching": table}, [], facts.rfhs)


def draw_compared(_: Tables, runs: Mapping[str, Tables], __: str) -> Drawings:
    """Fig. 8 of all runs in one, such as those of two phrases or models."""
    yield "a_fig8_hand_over", partial(figures.hand_overs, {label: of("effects") for label, of in runs.items()})


EXPERIMENT = Experiment(
    options=PatchingOptions,
    about=About(
        title="Does the answer come from the reasoning?",
        question=(
            "Activations of a clean run are put into a corrupted one, position by position and layer by layer. NLD "
            "is 0 where nothing changes and 1 where the answer becomes the clean one."
        ),
        source="Paper A, section 5, Figs. 6 to 8",
        published=(
            "Paper A, section 5: NLD .285 to .509 at the answer in the reasoning (layer 0), .800 to .967 at the "
            "predicting token (last layer); the second curve rises where the first falls, after half to three "
            "quarters of the layers."
        ),
        figures={
            "a_fig6_pair": "A-Fig-6. An aligned pair.",
            "a_fig7_case": "A-Fig-7. NLD by layer and token of one pair.",
            "a_fig8_hand_over": "A-Fig-8. The hand-over from the reasoning to the answer.",
            "patch_heads": "NLD of patching each head's output at the two tokens; boxes: Reasoning-Focus Heads.",
            "patch_paths": "How much of the effect passes through the Reasoning-Focus Heads, beside random heads.",
            "patch_attribution": "First-order estimates against exact patches.",
            "patch_route": "Edges between heads, MLPs and the answer that have an effect if patched alone (one pair).",
            "patch_map_0": "NLD of every layer and position of one pair.",
        },
        beside={
            "NLD, the phrase's answer, layer 0": ".285 (R1-Distill-Llama-8B), .420 (Qwen-7B), .359 (1.5B), phrase 1",
            "NLD, the predicting token": ".800, .967, .883 (last layer)",
            "the predicting token rises above half": "above the first curve from layer 15 of 32, 20 of 28, 21 of 28",
        },
    ),
    unit="pair",
    check=check,
    batches=lambda session, _: pair_maker(session).batches,
    examples=drafts,
    measure=measure,
    analyse=patch,
    findings=tell,
    facts=PatchingFacts,
    draw=draw,
    draw_compared=draw_compared,
    plan=plan,
    in_paper=InPaper(quick={"maps": 0, "head_roles": [], "attribution": False, "random_sets": 0}),
    smallest=("data.limit=2", "experiment.maps=1", "experiment.random_sets=1", "experiment.random_positions=1"),
)
