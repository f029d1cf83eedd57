"""Every method of attribution against exact patches: how well it ranks places, and what it costs, in one run.

    python -m benchmarks.attribution --model reasoner --pairs 4
    python -m benchmarks.attribution --model qwen2.5-coder-0.5b --pairs 3 --sites resid_pre --stride 8 --layers 3
    python -m benchmarks.attribution --model random-qwen3 --pairs 2 --stride 2

Exact: one patch for every layer (or every so many, `--layers`) and every aligned position from the reasoning on (of
the reasoning before the probing phrase every so many, `--stride`), all heads of a site at once (estimates are summed
over heads). Quality: Spearman's correlation of estimate and exact change of LD over the places whose exact change is
at least a thousandth of the two runs' difference (below, exact values are rounding), and the share of the ten largest
of them (in size) among the ten largest estimates. Time: of the estimate for all sites at once, over the exact patches
of the same places of all sites; `+ N` estimates the residual stream alone and patches the N highest places exactly,
over the exact patches of its places, and over a map of all layers and all these positions, whose time is scaled up by
the layers times positions that are computed (the places of random-qwen3 are taken for its map). Recorded runs, which
both need, are left out. Times are CPU seconds. In brackets: lowest and highest pair. The tables are printed after
every pair, over all so far.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, Qwen3Config

from experiments.base.pairs import pair_maker
from experiments.base.session import Session
from interp.errors import UserError
from interp.model.lens import Lens, from_memory
from interp.model.sites import Site
from interp.organisms.planted import planted_words
from interp.organisms.word_tokenizer import word_tokenizer
from interp.patching.align import Pads, Part, both
from interp.patching.attribution import Method, attributions
from interp.patching.exact import Patch, Run, record, sweep
from interp.patching.nld import Answers
from interp.patching.pair import run_pair

TOP = 10
RANDOM = "random-qwen3"
DATA = ["data=object_comparison", "data.response=template"]


class Case:
    """One pair: its runs, the places that are patched, and what exact patches of them do."""

    def __init__(self, lens: Lens, clean: Run, corrupted: Run, answers: Answers, places: Sequence[tuple[int, int]],
                 layers: int):  # fmt: skip
        self.layers = list(range(0, lens.n_layers, layers))
        self.lens, self.clean, self.corrupted, self.answers = lens, clean, corrupted, answers
        self.sources, self.positions = [a for a, _ in places], [b for _, b in places]
        self.share = 1.0
        """Part of the arithmetic of a map of all layers and positions that the places take."""

    @property
    def least(self) -> float:
        """The smallest change that counts as one."""
        return abs(self.answers.ld_clean - self.answers.ld_corrupted) / 1000

    def patched(self, site: Site, cells: Sequence[tuple[int, int]]) -> np.ndarray:
        """Exact change of LD of patches at (layer, which position)."""
        patches = [Patch(site, layer, (self.positions[i],), None, (self.sources[i],)) for layer, i in cells]
        found = sweep(self.lens, self.corrupted, self.clean, patches, lambda rows: {"ld": self.answers.ld(rows)})
        return found["ld"].numpy() - self.answers.ld_corrupted

    def arithmetic(self, layers: Sequence[int], positions: Sequence[int]) -> float:
        """Layers times positions that patches of all these places compute."""
        end = len(self.corrupted.ids)
        return sum(self.lens.n_layers - layer for layer in layers) * sum(end - p for p in positions)

    def exact(self, site: Site) -> tuple[np.ndarray, float]:
        """(layer, position) and seconds."""
        cells = [(layer, i) for layer in self.layers for i in range(len(self.positions))]
        start = time.process_time()
        values = self.patched(site, cells).reshape(len(self.layers), -1)
        return values, time.process_time() - start

    def estimate(self, method: Method, sites: Sequence[Site]) -> tuple[dict[Site, np.ndarray], float, str]:
        """(layer, position) by site, seconds, passes."""
        start = time.process_time()
        found = attributions(
            self.lens, self.corrupted, self.clean, self.answers, sites, self.positions, self.sources, method
        )
        seconds = time.process_time() - start
        values = {site: v[self.layers].cpu().numpy() for site, v in found.values.items()}
        whole = {site: v if v.ndim == 2 else v.sum(-1) for site, v in values.items()}
        return whole, seconds, f"{found.forward} + {found.backward}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reasoner", help=f"any of conf/model/, or {RANDOM}")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--stride", type=int, default=1, help="of the reasoning before the phrase")
    parser.add_argument("--layers", type=int, default=1, help="every so many layers")
    parser.add_argument("--sites", type=Site, nargs="+", default=list(Site))
    parser.add_argument("--methods", type=Method, nargs="+", default=list(Method))
    parser.add_argument("--verify", type=int, nargs="*", default=[20, 50, 100, 200])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    quality: dict[tuple[str, Site], list[tuple[float, float]]] = {}
    cost: dict[str, list[float]] = {}
    passes: dict[str, str] = {}
    checked: dict[tuple[Method, int], list[tuple[float, float, float]]] = {}
    tokens, cells = [], []
    for case in cases(options):
        exact = {site: case.exact(site) for site in options.sites}
        whole = sum(seconds for _, seconds in exact.values())
        tokens.append(len(case.corrupted.ids))
        cells.append(len(case.positions) * len(case.layers))
        print(f"<!-- pair {len(tokens)}: {tokens[-1]} tokens, {cells[-1]} places, exact {whole:.1f} s -->", flush=True)
        for method in options.methods:
            try:
                values, seconds, passes[method] = case.estimate(method, options.sites)
            except UserError as error:
                print(f"<!-- {error} -->", flush=True)
                continue
            cost.setdefault(method, []).append(seconds / whole)
            for site, estimate in values.items():
                quality.setdefault((method, site), []).append(agreement(estimate, exact[site][0], case.least))
            if Site.RESID_PRE in exact:
                alone = options.sites == [Site.RESID_PRE]
                if not alone:
                    values, seconds, _ = case.estimate(method, [Site.RESID_PRE])
                for n in options.verify:
                    found = verified(case, values[Site.RESID_PRE], n, *exact[Site.RESID_PRE], seconds)
                    checked.setdefault((method, n), []).append((*found, found[1] * case.share))
        show(options, tokens, cells, quality, cost, passes, checked)


def show(
    options: argparse.Namespace, tokens: Sequence[int], cells: Sequence[int], quality: dict[Any, Any],
    cost: dict[str, list[float]], passes: dict[str, str], checked: dict[Any, Any],
) -> None:  # fmt: skip
    """The tables over all pairs so far."""
    print(f"\n{options.model}, n = {len(tokens)} pairs of {span(tokens, '.0f')} tokens, {span(cells, '.0f')} places\n")
    print("| method | passes | time / exact | " + " | ".join(f"{site}" for site in options.sites) + " |")
    print("|---|---|---|" + "---|" * len(options.sites))
    for method in cost:
        row = [f"{method}", passes[method], span(cost[method], ".3f")]
        for site in options.sites:
            rho, share = zip(*quality[method, site], strict=True)
            row.append(f"{np.nanmean(rho):.2f} / {span(share, '.2f')}")
        print("| " + " | ".join(row) + " |")
    print(
        "\n| residual stream | "
        + " | ".join(f"+ {n}: recall, time / exact, / whole map" for n in options.verify)
        + " |"
    )
    print("|---|" + "---|" * len(options.verify))
    for method in cost:
        row = [f"{method}"]
        for n in options.verify:
            found, share, of_all = zip(*checked.get((method, n), [(np.nan,) * 3]), strict=True)
            row.append(f"{span(found, '.2f')}, {np.mean(share):.3f}, {np.mean(of_all):.3f}")
        print("| " + " | ".join(row) + " |", flush=True)


def agreement(estimate: np.ndarray, exact: np.ndarray, least: float) -> tuple[float, float]:
    """Spearman's correlation over the places that do something, and the share of the ten largest that both name."""
    some = np.abs(exact) >= least
    rho = stats.spearmanr(estimate[some], exact[some]).statistic if some.sum() > 2 else np.nan
    return float(rho), recall(largest(estimate, TOP), exact, least)


def largest(values: np.ndarray, n: int) -> set[int]:
    return set(np.argsort(-np.abs(values.ravel()), kind="stable")[:n].tolist())


def recall(found: set[int], exact: np.ndarray, least: float) -> float:
    """Share of the ten largest exact changes (of those that are one) among what was found; NaN if there are none."""
    true = {place for place in largest(exact, TOP) if abs(exact.ravel()[place]) >= least}
    return len(found & true) / len(true) if true else np.nan


def verified(
    case: Case, estimate: np.ndarray, n: int, exact: np.ndarray, exact_seconds: float, seconds: float
) -> tuple[float, float]:
    """Recall of the ten largest among the n estimated highest, whose exact values are known; time over exact time."""
    chosen = largest(estimate, n)
    start = time.process_time()
    places = [divmod(cell, estimate.shape[1]) for cell in sorted(chosen)]
    values = case.patched(Site.RESID_PRE, [(case.layers[row], i) for row, i in places])
    seconds += time.process_time() - start
    again = exact.ravel()[sorted(chosen)]
    if not np.allclose(values, again, atol=1e-3 * np.abs(exact).max()):
        raise AssertionError("the same patches give the same values")
    return recall(chosen, exact, case.least), seconds / exact_seconds


def span(values: Sequence[float], form: str) -> str:
    low, mean, high = (format(f(values), form) for f in (np.nanmin, np.nanmean, np.nanmax))
    return mean if low == high else f"{mean} ({low} to {high})"


def cases(options: argparse.Namespace) -> Iterator[Case]:
    yield from random_cases(options) if options.model == RANDOM else contrast_cases(options)


def contrast_cases(options: argparse.Namespace) -> Iterator[Case]:
    """The first pairs of the model's own data, or of object comparisons with a template."""
    from hydra import compose, initialize_config_dir

    data = [] if options.model in ("reasoner", "planted", "word-reasoner") else DATA
    overrides = ["experiment=patching", f"model={options.model}", *data, "progress=false"]
    conf = Path(__file__).resolve().parents[1] / "conf"
    with TemporaryDirectory() as directory, initialize_config_dir(str(conf), version_base="1.3"):
        session = Session(compose("config", overrides), Path(directory))
        left = options.pairs
        for draft in pair_maker(session).drafts():
            if draft.subject is None or left == 0:
                continue
            left -= 1
            pair = draft.subject
            lens = session.lens
            runs = run_pair(lens, pair, options.sites, Pads.MASKED)
            body, rest = both(pair, (Part.BODY,)), both(pair, (Part.PHRASE, Part.END_THINK, Part.ANSWER))
            places = [(key.clean, key.corrupted) for key in [*body[:: -options.stride][::-1], *rest]]
            case = Case(lens, runs.clean, runs.corrupted, runs.answers, places, options.layers)
            every = [key.corrupted for key in [*body, *rest]]
            case.share = case.arithmetic(case.layers, case.positions) / case.arithmetic(range(lens.n_layers), every)
            yield case


def random_cases(options: argparse.Namespace) -> Iterator[Case]:
    """A Qwen3 with random weights; two sequences that differ in one token of eight, and two arbitrary answers."""
    config = Qwen3Config(
        vocab_size=1000, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, head_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() == 2 else 1)  # attention is far from even, MLPs far from linear
    lens = from_memory(RANDOM, model, word_tokenizer(planted_words()))
    for seed in range(options.pairs):
        rng = np.random.default_rng(seed)
        clean = rng.integers(10, 1000, 96)
        corrupted = clean.copy()
        corrupted[::8] = rng.integers(10, 1000, len(corrupted[::8]))
        runs = [record(lens, ids.tolist(), options.sites) for ids in (clean, corrupted)]
        change = runs[0].logits - runs[1].logits
        answers = Answers(runs[0].logits, runs[1].logits, int(change.argmax()), int(change.argmin()))
        places = [(p, p) for p in range(0, 96, options.stride)]
        yield Case(lens, runs[0], runs[1], answers, places, options.layers)


if __name__ == "__main__":
    main()
