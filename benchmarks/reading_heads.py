"""Which heads of `reasoner` carry results from its reasoning into its answer? Measured on held-out problems by role.

    python -m benchmarks.reading_heads --traces 200 --sets 200

Heads are ranked by the difference score on other problems. Their answer->reasoning edges are cut, and those of random
sets of as many heads in the same layers, and the change of log-probability is told apart by what the answer's words
are: results that the reasoning made, and items that stand in the prompt alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.ablation.effects import Intervention
from interp.ablation.interventions import Knockout, batch_of, intervened
from interp.front.measures import measure_heads
from interp.heads.ranking import mean_over_examples, scores_in
from interp.heads.scores import Head, HeadScore, head_array, rank_heads, score_values
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.model.unembedding import trunk_of
from interp.organisms.lookups import Kind, Order, SolutionStyle, completion, make_problem, solve, written
from interp.organisms.word_problems import Split
from interp.stats import Comparison, layers_of, relabelled, rng_for
from interp.text.trace import Segment, Trace, parse_text

PLAIN = SolutionStyle(second_look=0, planted=0, final_answer=0)
RANKING_SEED, EFFECT_SEED = 101, 202
Placed = tuple[Trace, dict[Kind, list[int]]]
"""A trace and the positions of its answer's values by kind."""


def made(lens: Lens, seed: int, n: int, order: Order | None = None) -> list[Placed]:
    """The first n held-out problems (of one order) with their plain solutions."""
    found: list[Placed] = []
    index = 0
    while len(found) < n:
        problem = make_problem(seed, Split.HELD_OUT, index)
        index += 1
        if order is not None and problem.order is not order:
            continue
        solution = solve(problem, random.Random(index), PLAIN)
        text = f"<bos> {problem.question} {written(completion(solution))} <eos>"
        trace = parse_text(text, lens.tokenizer, lens.markers, example=f"{seed}-{index}")
        places: dict[Kind, list[int]] = {}
        position = trace[Segment.ANSWER].start
        for piece in solution.answer:
            places.setdefault(piece.kind, []).append(position)
            position += len(lens.tokenizer(piece.text)["input_ids"])
        found.append((trace, places))
    return found


@torch.no_grad()
def log_probabilities(
    lens: Lens, traces: Sequence[Placed], *interventions: Intervention, batch: int = 50
) -> dict[Kind, Float[np.ndarray, " trace"]]:
    """Mean log-probability of the answer's values of each kind, by trace; NaN where it has none."""
    found: dict[Kind, list[float]] = {kind: [] for kind in (Kind.CHAIN_ITEM, Kind.PROMPT_ITEM, Kind.FINAL)}
    for first in range(0, len(traces), batch):
        part = traces[first : first + batch]
        padded = batch_of(lens, [trace for trace, _ in part])
        with intervened(lens, padded, interventions):
            hidden = trunk_of(lens)(
                padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids, use_cache=False
            ).last_hidden_state
        logs = lens.hf.get_output_embeddings()(hidden).log_softmax(-1)
        for row, (trace, places) in enumerate(part):
            shift = padded.width - trace.n_measured
            for kind, values in found.items():
                own = [logs[row, p - 1 + shift, trace.token_ids[p]].item() for p in places.get(kind, [])]
                values.append(float(np.mean(own)) if own else float("nan"))
    return {kind: np.array(values) for kind, values in found.items()}


def cut(heads: Sequence[Head] | None) -> Knockout:
    """The edges from the answer to the reasoning, of some heads or of all."""
    chosen = None if heads is None else frozenset(heads)
    return Knockout(Segment.ANSWER, Segment.REASONING, chosen, renormalise=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reasoner")
    parser.add_argument("--traces", type=int, default=200)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--seed", type=int, default=EFFECT_SEED, help="of the problems that are measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lens = load_lens(ModelSpec("reasoner", ModelSource.EMBEDDED, options.model))
    ranked = measure_heads(lens, [trace for trace, _ in made(lens, RANKING_SEED, 64)], score=HeadScore.DIFFERENCE)
    top = list(ranked.top(options.top))
    print("top heads by difference:", ", ".join(f"{head} {ranked.scores[head]:.3f}" for head in top))
    effects = made(lens, options.seed, options.traces)
    clean = log_probabilities(lens, effects)

    def change(heads: Sequence[Head] | None) -> dict[Kind, float]:
        changed = log_probabilities(lens, effects, cut(heads))
        return {kind: float(np.nanmean(changed[kind] - clean[kind])) for kind in clean}

    everything, own = change(None), change(top)
    for layer in range(lens.n_layers):
        whole = change([Head(layer, head) for head in range(lens.n_heads)])
        print(f"answer->reasoning cut in layer {layer}: chain items {whole[Kind.CHAIN_ITEM]:+.3f}")
    for score in scores_in(ranked.table):
        means = mean_over_examples(head_array(ranked.table, score_values(ranked.table, score)))
        heads = rank_heads(means, options.top)
        found = change(heads)
        print(
            f"top {len(heads)} by {score}: {', '.join(map(str, heads))}; cut in them: chain items "
            f"{found[Kind.CHAIN_ITEM]:+.3f}, prompt items {found[Kind.PROMPT_ITEM]:+.3f}"
        )
    for kind in clean:
        print(
            f"{kind}: log-probability {np.nanmean(clean[kind]):+.3f}; answer->reasoning cut in all heads "
            f"{everything[kind]:+.3f}, in the top {len(top)} {own[kind]:+.3f} ({own[kind] / everything[kind]:.0%})"
        )
    every = [(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    sets = relabelled([top], layers_of(every), options.sets, rng_for(0, "reading heads"))
    beside = [change([Head(*place) for place in one]) for (one,) in sets.heads]
    for kind in clean:
        drawn = np.array([one[kind] for one in beside])
        found = Comparison.with_draws(own[kind], drawn)
        print(
            f"{kind}, {len(drawn)} {sets.named}: {drawn.mean():+.3f} ({drawn.min():+.3f} to {drawn.max():+.3f}), "
            f"p = {found.p if found else np.nan:.3f}"
        )
    for order in Order:
        table = measure_heads(lens, [trace for trace, _ in made(lens, options.seed, 40, order)]).table
        for head in top:
            rows = table[(table["layer"] == head.layer) & (table["head"] == head.head)].dropna(subset="trajectory")
            shown = []
            for column in ("trajectory_weighted", "trajectory"):
                error = 1.96 * rows[column].std() / max(1, len(rows)) ** 0.5
                shown.append(f"{rows[column].mean():+.2f} +- {error:.2f}")
            print(f"{head}, results {order}: trajectory weighted {shown[0]}, plain {shown[1]} (n = {len(rows)})")


if __name__ == "__main__":
    main()
