"""Every method of attribution is exact where its assumptions hold, costs what it says, and finds the top places."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformers import PreTrainedTokenizerBase

from benchmarks.attribution import agreement, cases, parse
from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.structure import edited
from interp.model.unembedding import last_logits
from interp.patching.attribution import Method, attributions
from interp.patching.exact import Patch, Run, record, sweep
from interp.patching.nld import Answers
from interp.patching.relevance import relevance_rules
from tests.conftest import ARCHITECTURES, random_lens
from tests.families import lens_of

T = 20
GROUPED = ["llama-gqa", "qwen2-gqa", "qwen3-gqa"]
WRITES = (Site.ATTN_OUT, Site.MLP_OUT)
ESTIMATES = [method for method in Method if method is not Method.ATP_STAR]
"""Those that estimate an effect, and do not only rank."""


def ids_of(seed: int, n: int = T) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [1, *torch.randint(3, 90, (n - 1,), generator=generator).tolist()]


def runs_of(lens: Lens, target: int = 1, source: int = 0) -> tuple[Run, Run, Answers]:
    one, other = (record(lens, ids_of(seed), list(Site)) for seed in (target, source))
    return one, other, Answers(other.logits, one.logits, 5, 7)


def linear(name: str, words: PreTrainedTokenizerBase, even: bool = True) -> Lens:
    """Norms whose denominator is a constant, silent MLPs, and (`even`) attention that is the same for all keys: LD is
    linear in every activation, up to rounding."""
    config = type(ARCHITECTURES[name])(**{**ARCHITECTURES[name].to_dict(), "rms_norm_eps": 1e12})
    lens = random_lens(config, words)
    with torch.no_grad():
        for weight_name, weight in lens.hf.named_parameters():
            if "norm" in weight_name:
                weight.fill_(1e6)
            if "embed_tokens" in weight_name:
                weight.mul_(50)
            if "v_proj" in weight_name or "o_proj" in weight_name:
                weight.mul_(6)
            if "down_proj" in weight_name or (even and "q_proj" in weight_name):
                weight.zero_()
    return lens


def exact(lens: Lens, target: Run, source: Run, answers: Answers, patches: list[Patch]) -> torch.Tensor:
    found = sweep(lens, target, source, patches, lambda rows: {"ld": answers.ld(rows)})["ld"]
    return (found - answers.ld(target.logits)).float()


def heads_of(run: Run, site: Site) -> list[int | None]:
    return list(range(run.sites[site].shape[2])) if site.per_head else [None]


@pytest.mark.parametrize("method", ESTIMATES)
@pytest.mark.parametrize("name", ["llama", "llama-gqa"])
def test_on_a_linear_model_every_estimate_is_exact(words: PreTrainedTokenizerBase, method: Method, name: str) -> None:
    """Positions of the source run may be others than the target's."""
    lens = linear(name, words)
    target, source, answers = runs_of(lens)
    at, theirs, sites = [3, 11, T - 1], [4, 11, T - 2], [Site.RESID_PRE, Site.ATTN_OUT, Site.Z, Site.V]
    found = attributions(lens, target, source, answers, sites, at, theirs, method)
    for site in sites:
        heads = heads_of(source, site)
        patches = [Patch(site, layer, (p,), head, (q,)) for layer in range(3)
                   for p, q in zip(at, theirs, strict=True) for head in heads]  # fmt: skip
        expected = exact(lens, target, source, answers, patches).view(found.values[site].shape)
        assert expected.abs().max() > 0.01, "the test needs patches that do something"
        torch.testing.assert_close(found.values[site], expected, atol=5e-6, rtol=1e-3)


def test_dropping_layers_is_the_mean_size_of_exact_effects_with_one_layer_held(words: PreTrainedTokenizerBase) -> None:
    """On a linear model; of a head nothing is left where its own layer is held, so that the others count."""
    lens = linear("llama-gqa", words)
    target, source, answers = runs_of(lens)
    found = attributions(lens, target, source, answers, [Site.RESID_PRE, Site.Z], [5, 9], None, Method.ATP_STAR)
    plain = attributions(lens, target, source, answers, [Site.RESID_PRE, Site.Z], [5, 9])
    kept = record(lens, target.ids, WRITES)

    def effect(site: Site, layer: int, p: int, head: int | None, held: int) -> float:
        with ExitStack() as stack:

            def write(activation: torch.Tensor) -> torch.Tensor:
                changed = activation.clone()
                place = (0, p) if head is None else (0, p, head)
                changed[place] = source.sites[site][(layer, *place[1:])]
                return changed

            stack.enter_context(edited(lens, layer, {site: write}))
            hold = {one: (lambda _, one=one: kept.sites[one][held][None]) for one in WRITES}
            stack.enter_context(edited(lens, held, hold))
            with torch.no_grad():
                return float(answers.ld(last_logits(lens, torch.tensor([target.ids])))[0] - answers.ld(target.logits))

    for site, layer, head in ((Site.RESID_PRE, 0, None), (Site.RESID_PRE, 2, None), (Site.Z, 0, 2), (Site.Z, 1, 5)):
        for i, p in enumerate((5, 9)):
            sizes = [abs(effect(site, layer, p, head, held)) for held in range(3)]
            expected = sum(sizes) / (3 if site is Site.RESID_PRE else 2)
            value = found.values[site][layer, i] if head is None else found.values[site][layer, i, head]
            sign = (plain.values[site][layer, i] if head is None else plain.values[site][layer, i, head]).sign()
            assert float(value) == pytest.approx(float(sign) * expected, rel=2e-3, abs=2e-4)
    assert not torch.allclose(found.values[Site.RESID_PRE], plain.values[Site.RESID_PRE], rtol=0.05)


@pytest.mark.parametrize("name", GROUPED)
def test_queries_and_keys_are_exact_behind_the_last_softmax(words: PreTrainedTokenizerBase, name: str) -> None:
    """Where only the last layer's softmax is not linear: by head, by key-value head, rotated to where they are put."""
    lens = linear(name, words, even=False)
    target, source, answers = runs_of(lens)
    at, theirs, sites = [2, 7, T - 1], [3, 9, T - 2], [Site.Q, Site.K]
    fixed, plain = (
        attributions(lens, target, source, answers, sites, at, theirs, method).values
        for method in (Method.ATP_QK, Method.ATP)
    )
    for site in sites:
        patches = [Patch(site, 2, (p,), head, (q,)) for p, q in zip(at, theirs, strict=True)
                   for head in heads_of(source, site)]  # fmt: skip
        expected = exact(lens, target, source, answers, patches).view(fixed[site][2].shape)
        torch.testing.assert_close(fixed[site][2], expected, atol=5e-4, rtol=2e-3)
        assert (plain[site][2] - expected).abs().max() > 0.2 * expected.abs().max(), "first order alone is wrong"


@pytest.mark.parametrize("name", GROUPED)
def test_integrated_gradients_sum_to_the_patch_of_all_positions(words: PreTrainedTokenizerBase, name: str) -> None:
    """Within 2 % of the largest effect, with 32 steps, at every site and layer of a model that is not linear."""
    lens = random_lens(ARCHITECTURES[name], words)
    target, source, answers = runs_of(lens)
    at = tuple(range(3, T))
    found = attributions(lens, target, source, answers, list(Site), at, None, Method.INTEGRATED, steps=32)
    first = attributions(lens, target, source, answers, list(Site), at)
    patches = [Patch(site, layer, at) for site in Site for layer in range(3)]
    expected = exact(lens, target, source, answers, patches)

    def summed(values: dict[Site, torch.Tensor]) -> torch.Tensor:
        return torch.cat([values[site].flatten(1).sum(1) for site in Site])

    bound = 0.02 * float(expected.abs().max())
    assert (summed(found.values) - expected).abs().max() < bound
    assert (summed(first.values) - expected).abs().max() > bound, "first order does not"


def test_the_way_of_the_embeddings_sums_to_the_other_run(small_lens: Lens) -> None:
    target, source, answers = runs_of(small_lens)
    everywhere, method = tuple(range(T)), Method.INTEGRATED_INPUTS
    found = attributions(small_lens, target, source, answers, [Site.RESID_PRE], everywhere, None, method, steps=64)
    whole = answers.ld_clean - answers.ld_corrupted
    assert float(found.values[Site.RESID_PRE][0].sum()) == pytest.approx(whole, rel=0.02)


def test_rules_leave_the_forward_pass_alone_and_keep_relevance(words: PreTrainedTokenizerBase) -> None:
    """With even attention and no biases, what a layer's stream is relevant for sums to LD, in every layer: norms, SiLUs
    and gates neither make relevance nor lose it. Plain gradients do."""
    lens = random_lens(ARCHITECTURES["llama-gqa"], words)
    with torch.no_grad():
        for name, weight in lens.hf.named_parameters():
            weight.mul_(0 if "q_proj" in name else 8 if "down_proj" in name else 1)
    run = record(lens, ids_of(1))
    answers = Answers(run.logits, run.logits, 5, 7)
    with relevance_rules(lens), torch.no_grad():
        torch.testing.assert_close(last_logits(lens, torch.tensor([run.ids]))[0], run.logits, rtol=0, atol=1e-6)
    nothing = replace(run, sites={site: torch.zeros_like(values) for site, values in run.sites.items()})
    relp, atp = (
        -attributions(lens, run, nothing, answers, [Site.RESID_PRE], range(T), None, m).values[Site.RESID_PRE].sum(1)
        for m in (Method.RELP, Method.ATP)
    )
    ld = answers.ld(run.logits).expand(3)
    torch.testing.assert_close(relp, ld, rtol=1e-3, atol=1e-6)
    assert ((atp - ld).abs() > 0.05 * ld.abs()).all()
    torch.testing.assert_close(last_logits(lens, torch.tensor([run.ids]))[0], run.logits)


@pytest.mark.parametrize("name", ["qwen2-gqa", "qwen3-gqa"])
def test_rules_leave_qwen_alone(words: PreTrainedTokenizerBase, name: str) -> None:
    lens = random_lens(ARCHITECTURES[name], words)
    run = record(lens, ids_of(1))
    with relevance_rules(lens), torch.no_grad():
        torch.testing.assert_close(last_logits(lens, torch.tensor([run.ids]))[0], run.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GROUPED)
def test_first_order_is_that_of_transformer_lens(words: PreTrainedTokenizerBase, name: str) -> None:
    lens = random_lens(ARCHITECTURES[name], words)
    lens.hf.get_input_embeddings().requires_grad_(True)  # theirs takes gradients of what hangs on a parameter
    target, source, answers = runs_of(lens)
    ours = attributions(lens, target, source, answers, [Site.Z, Site.MLP_OUT], range(T)).values
    theirs = attribution_patch(
        lens.bridge, torch.tensor([source.ids]), torch.tensor([target.ids]), lambda logits: answers.ld(logits[0, -1]),
        EdgeAttributionConfig(),
    ).node_scores  # fmt: skip
    compared = 0
    for node, value in theirs.items():
        if node.kind in ("attn_head_out", "mlp_out"):
            site, head = (Site.Z, (node.head,)) if node.kind == "attn_head_out" else (Site.MLP_OUT, ())
            assert float(ours[site][(node.layer, node.position, *head)]) == pytest.approx(value, abs=2e-6, rel=1e-3)
            compared += 1
    assert compared == 3 * T * (6 + 1)
    assert ours[Site.Z].abs().max() > 1000 * 2e-6


@pytest.mark.parametrize("method", list(Method))
def test_it_costs_what_it_says(small_lens: Lens, method: Method) -> None:
    target, source, answers = runs_of(small_lens)
    rows: list[int] = []
    handle = small_lens.hf.register_forward_hook(lambda *passed: rows.append(len(passed[-1].logits)))
    try:
        found = attributions(small_lens, target, source, answers, list(Site), [4, 9], None, method)
    finally:
        handle.remove()
    assert sum(rows) == found.forward
    for site in Site:
        assert found.values[site].shape == (3, 2, *source.sites[site].shape[2 : 3 if site.per_head else 2])


def test_the_top_places_of_the_reasoner_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the phrase on; by every method, and by no random order of its estimates."""
    monkeypatch.setattr("sys.argv", ["attribution", "--model", "reasoner", "--pairs", "1"])
    case = next(cases(parse()))
    case.positions, case.sources = case.positions[-16:], case.sources[-16:]
    sites = [Site.RESID_PRE, Site.Z, Site.V]
    true = {site: case.exact(site)[0] for site in sites}
    rng = np.random.default_rng(0)
    for method in Method:
        for site, estimate in case.estimate(method, sites)[0].items():
            found = agreement(estimate, true[site], case.least)[1]
            chance = np.mean([agreement(rng.permutation(estimate.ravel()).reshape(estimate.shape), true[site],
                                        case.least)[1] for _ in range(20)])  # fmt: skip
            assert found >= 0.8 > chance + 0.3, f"{method} finds {found} of {site}, a random order {chance}"


def test_what_cannot_be_attributed_is_refused(small_lens: Lens, words: PreTrainedTokenizerBase) -> None:
    target, source, answers = runs_of(small_lens)
    with pytest.raises(UserError, match="as many in both runs"):
        attributions(small_lens, target, source, answers, [Site.RESID_PRE], [1, 2], [1])
    with pytest.raises(UserError, match="at least one step"):
        attributions(small_lens, target, source, answers, [Site.Z], [1], None, Method.INTEGRATED, steps=0)
    other = lens_of("gemma", words)
    target, source, answers = runs_of(other)
    with pytest.raises(UserError, match="relp has rules for llama, qwen2, qwen3"):
        attributions(other, target, source, answers, [Site.RESID_PRE], [1], None, Method.RELP)
    capped = lens_of("gemma2", words)
    target, source, answers = runs_of(capped)
    with pytest.raises(UserError, match="softcap"):
        attributions(capped, target, source, answers, [Site.Q], [1], None, Method.ATP_QK)
