"""Suffix patching is the hook-by-hook loop, on every architecture and site; and it knows the planted circuit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GraniteConfig, PreTrainedTokenizerBase, Qwen2Config

from interp.errors import UserError
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.organisms.planted import CIRCUIT
from interp.patching.attribution import attribute, gradients
from interp.patching.exact import Freeze, Patch, Run, record, sweep
from interp.patching.nld import Answers
from interp.patching.patches import Engine
from tests.conftest import ARCHITECTURES, SMALL, random_lens

T = 48


def ids_of(seed: int, n: int = T, vocab: int = 90) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [1, *torch.randint(3, vocab, (n - 1,), generator=generator).tolist()]


def all_logits(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """A measure that keeps everything."""
    return {str(i): logits[:, i] for i in range(logits.shape[1])}


def swept(lens: Lens, target: Run, source: Run, patches: Sequence[Patch], **more: Any) -> torch.Tensor:
    found = sweep(lens, target, source, patches, all_logits, **more)
    return torch.stack([found[str(i)] for i in range(len(found))], dim=1)


def loop(lens: Lens, target: Run, source: Run, patch: Patch, hooks: Sequence[Any] = ()) -> torch.Tensor:
    """One full forward pass with a TransformerLens hook: the reference."""

    def write(activation: torch.Tensor, hook: object) -> torch.Tensor:
        changed = activation.clone()
        values = source.sites[patch.site][patch.layer, list(patch.sources or patch.positions)]
        if patch.head is None:
            changed[0, list(patch.positions)] = values
        else:
            changed[0, list(patch.positions), patch.head] = values[:, patch.head]
        return changed

    with torch.no_grad():
        logits = lens.bridge.run_with_hooks(
            torch.tensor([target.ids]), fwd_hooks=[*hooks, (patch.site.hook(patch.layer), write)], return_type="logits"
        )
    return logits[0, -1].double()


def grid(lens: Lens) -> list[Patch]:
    """Every site and layer; positions near and far, spans, scattered ones, all of them; whole and by head."""
    places = [(T - 1,), (T - 3,), (20,), (12, 13, 14), (9, 30, T - 1), tuple(range(T))]
    return [
        Patch(site, layer, positions, head)
        for site in Site
        for layer in range(lens.n_layers)
        for positions in places
        for head in ((None, 1) if site.per_head else (None,))
    ]


@pytest.fixture(scope="module")
def runs(small_lens: Lens) -> tuple[Run, Run]:
    clean, corrupted = ids_of(0), ids_of(0)
    corrupted[5], corrupted[20] = 33, 44
    return record(small_lens, clean, list(Site)), record(small_lens, corrupted, list(Site))


def test_it_is_the_loop_of_hooks_at_every_site(small_lens: Lens, runs: tuple[Run, Run]) -> None:
    clean, corrupted = runs
    patches = grid(small_lens)
    assert corrupted.engine is Engine.FAST
    expected = torch.stack([loop(small_lens, corrupted, clean, patch) for patch in patches])
    found = swept(small_lens, corrupted, clean, patches)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert (expected - corrupted.logits).abs().max() > 1000 * 2e-6, "the test needs patches that do something"


def nothing(activation: torch.Tensor, hook: object) -> torch.Tensor:
    """A hook that changes nothing, so that TransformerLens' blocks are run."""
    return activation


def test_the_blocks_of_transformer_lens_say_the_same(small_lens: Lens, runs: tuple[Run, Run]) -> None:
    clean, corrupted = runs
    patches = grid(small_lens)
    fused = swept(small_lens, corrupted, clean, patches)
    hooks = [("blocks.0.attn.hook_z", nothing)]
    clean, corrupted = (record(small_lens, run.ids, list(Site), hooks) for run in runs)
    torch.testing.assert_close(swept(small_lens, corrupted, clean, patches, hooks=hooks), fused, atol=2e-6, rtol=0)


def test_hooks_of_transformer_lens_work_on_the_suffix(small_lens: Lens) -> None:
    """A head switched off and a layer's MLP halved, in the base runs and under every patch."""

    def no_head(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z[:, :, 2] = 0
        return z

    def half(out: torch.Tensor, hook: object) -> torch.Tensor:
        return out / 2

    hooks: list[tuple[str, Callable[..., Any]]] = [
        ("blocks.1.attn.hook_z", no_head),
        ("blocks.2.hook_mlp_out", half),
    ]
    clean, corrupted = (record(small_lens, ids_of(seed), [Site.RESID_PRE], hooks) for seed in (1, 2))
    patches = [Patch(Site.RESID_PRE, layer, (p,)) for layer in range(3) for p in (11, 40, T - 1)]
    expected = torch.stack([loop(small_lens, corrupted, clean, patch, hooks) for patch in patches])
    torch.testing.assert_close(swept(small_lens, corrupted, clean, patches, hooks=hooks), expected, atol=2e-6, rtol=0)
    without = swept(small_lens, record(small_lens, ids_of(2)), clean, patches)
    assert (without - expected).abs().max() > 1e-3, "the hooks do something"


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_batches_of_any_size_give_the_same(small_lens: Lens, runs: tuple[Run, Run], data: st.DataObject) -> None:
    clean, corrupted = runs
    patches = data.draw(st.lists(st.sampled_from(grid(small_lens)), min_size=1, max_size=12))
    budget = data.draw(st.sampled_from([200_000, 400_000, 2**30]))
    alone = torch.cat([swept(small_lens, corrupted, clean, [patch]) for patch in patches])
    together = swept(small_lens, corrupted, clean, patches, budget_bytes=budget)
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


def test_clean_into_clean_does_nothing_and_everything_patched_is_the_other_run(
    small_lens: Lens, runs: tuple[Run, Run]
) -> None:
    clean, corrupted = runs
    nothing = swept(small_lens, clean, clean, grid(small_lens))
    torch.testing.assert_close(nothing, clean.logits.double().expand_as(nothing), atol=2e-6, rtol=0)
    everything = swept(small_lens, corrupted, clean, [Patch(Site.RESID_PRE, 0, tuple(range(T)))])
    torch.testing.assert_close(everything[0], clean.logits.double(), atol=2e-6, rtol=0)


def test_positions_may_differ_between_the_runs(small_lens: Lens) -> None:
    """A longer clean run: its activation at 30 goes to position 20 of the corrupted one."""
    clean, corrupted = record(small_lens, ids_of(3, T + 10)), record(small_lens, ids_of(4))
    patch = Patch(Site.RESID_PRE, 1, (20,), None, (30,))
    expected = loop(small_lens, corrupted, clean, patch)
    torch.testing.assert_close(swept(small_lens, corrupted, clean, [patch])[0], expected, atol=2e-6, rtol=0)


def test_it_is_exact_in_double_precision(words: PreTrainedTokenizerBase) -> None:
    """Beside the model's own full forward pass: norms are float32 in any model, so sums of other lengths round."""
    lens = random_lens(ARCHITECTURES["qwen3-gqa"], words)
    lens.hf.double()
    clean, corrupted = record(lens, ids_of(0), list(Site)), record(lens, ids_of(1), list(Site))
    assert corrupted.engine is Engine.FAST
    patches = grid(lens)[::5]
    plain = replace(corrupted, engine=Engine.PLAIN)
    expected = swept(lens, plain, clean, patches)
    torch.testing.assert_close(swept(lens, corrupted, clean, patches), expected, atol=2e-7, rtol=0)


def test_half_precision_models_have_float32_logits(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(ARCHITECTURES["llama-gqa"], words)
    lens.hf.bfloat16()
    run = record(lens, ids_of(0))
    assert run.logits.dtype is torch.float32
    assert not torch.equal(run.logits, run.logits.bfloat16().float()), "finer than bfloat16"
    other = record(lens, ids_of(1))
    found = swept(lens, run, other, [Patch(Site.RESID_PRE, 0, (T - 1,))])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("site", list(Site))
def test_real_models(word_reasoner: Lens, smollm2: Lens, site: Site) -> None:
    """NLD within 1e-4 of the loop on the embedded model and on a real language model."""
    for lens in (word_reasoner, smollm2):
        clean_ids, corrupted_ids = ids_of(0), ids_of(0)
        corrupted_ids[20] = 44
        clean, corrupted = record(lens, clean_ids, [site]), record(lens, corrupted_ids, [site])
        top = (clean.logits - corrupted.logits).argmax().item(), (corrupted.logits - clean.logits).argmax().item()
        answers = Answers(clean.logits, corrupted.logits, *map(int, top))
        layers = sorted({0, lens.n_layers // 2, lens.n_layers - 1} if lens is word_reasoner else {lens.n_layers // 2})
        patches = [Patch(site, layer, (p,), head) for layer in layers for p in (20, T - 1)
                   for head in ((None, 1) if site.per_head else (None,))]  # fmt: skip
        found = sweep(lens, corrupted, clean, patches, answers.measure)["nld"]
        expected = torch.stack([answers.nld(answers.ld(loop(lens, corrupted, clean, patch))) for patch in patches])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_planted_sites_and_no_others(planted: Lens) -> None:
    """The number word up to the RFH's layer, the predicting token behind it: NLD 1. Everything else: 0."""
    texts = [f"<bos> look {c} a . <think> well now so {n} fine good done </think> the answer equals"
             for c, n in (("red", "one"), ("pink", "eight"))]  # fmt: skip
    clean_ids, corrupted_ids = (planted.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts)
    clean, corrupted = (record(planted, ids, list(Site)) for ids in (clean_ids, corrupted_ids))
    word = texts[0].split().index("one")
    ids = planted.tokenizer.convert_tokens_to_ids(["1", "8"])
    answers = Answers(clean.logits, corrupted.logits, *ids)
    patches = [Patch(Site.RESID_PRE, layer, (p,)) for layer in range(4) for p in range(len(clean_ids))]
    nld = sweep(planted, corrupted, clean, patches, answers.measure)["nld"].reshape(4, -1)
    rfh_layer = CIRCUIT.rfh[0]
    expected = torch.zeros_like(nld)
    expected[: rfh_layer + 1, word] = 1
    expected[rfh_layer + 1 :, -1] = 1
    torch.testing.assert_close(nld, expected, atol=1e-4, rtol=0)

    heads = [Patch(Site.Z, layer, (len(clean_ids) - 1,), head) for layer in range(4) for head in range(4)]
    by_head = sweep(planted, corrupted, clean, heads, answers.measure)["nld"].reshape(4, 4)
    only = torch.zeros(4, 4, dtype=torch.float64)
    only[CIRCUIT.rfh] = 1
    torch.testing.assert_close(by_head, only, atol=1e-4, rtol=0)

    at_word = [Patch(Site.RESID_PRE, 0, (word,))]
    for heads_kept, share in ((CIRCUIT.rfh, 1.0), (CIRCUIT.decoy, 0.0)):
        through = sweep(planted, corrupted, clean, at_word, answers.measure, freeze=Freeze(frozenset([heads_kept])))
        assert through["nld"].item() == pytest.approx(share, abs=1e-4), "the effect goes through the RFH alone"


def test_freezing_is_the_loop_with_frozen_heads(small_lens: Lens, runs: tuple[Run, Run]) -> None:
    clean, corrupted = runs
    kept = frozenset([(1, 2), (2, 0)])
    patches = [Patch(Site.RESID_PRE, layer, (p,)) for layer in range(3) for p in (20, 21, T - 4)]

    def freeze_hooks(patch: Patch) -> list[Any]:
        def hold(layer: int) -> Callable[..., torch.Tensor]:
            def hook(z: torch.Tensor, hook: object) -> torch.Tensor:
                z = z.clone()
                for head in range(small_lens.n_heads):
                    if (layer, head) not in kept and layer >= patch.layer:
                        z[0, patch.positions[-1] + 1 :, head] = corrupted.sites[Site.Z][
                            layer, patch.positions[-1] + 1 :, head
                        ]
                return z

            return hook

        return [(f"blocks.{layer}.attn.hook_z", hold(layer)) for layer in range(3)]

    expected = torch.stack([loop(small_lens, corrupted, clean, p, freeze_hooks(p)) for p in patches])
    found = swept(small_lens, corrupted, clean, patches, freeze=Freeze(kept))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    whole = frozenset((layer, head) for layer in range(3) for head in range(small_lens.n_heads))
    nothing_frozen = swept(small_lens, corrupted, clean, patches, freeze=Freeze(whole))
    torch.testing.assert_close(nothing_frozen, swept(small_lens, corrupted, clean, patches), atol=2e-6, rtol=0)


def test_attribution_is_exact_where_the_model_is_linear(words: PreTrainedTokenizerBase) -> None:
    """At the last layer, with the MLP silent and the norm's scale held, LD is linear in a head's output: both agree."""
    lens = random_lens(ARCHITECTURES["llama"], words)
    with torch.no_grad():
        lens.hf.model.layers[-1].mlp.down_proj.weight.zero_()
    clean, corrupted = record(lens, ids_of(0), [Site.Z]), record(lens, ids_of(1), [Site.Z])
    answers = Answers(clean.logits, corrupted.logits, 5, 7)
    # A small step, so that the final norm's scale hardly moves.
    small = Run(**{**corrupted.__dict__, "sites": {Site.Z: corrupted.sites[Site.Z] * 1.001}})
    gradient = gradients(lens, corrupted, answers, [Site.Z])[Site.Z]
    estimate = attribute(gradient, corrupted, small, Site.Z, [T - 1], [T - 1])[2, 0]
    patches = [Patch(Site.Z, 2, (T - 1,), head) for head in range(lens.n_heads)]
    lens.hf.double()
    exact64 = {site: values.double() for site, values in small.sites.items()}
    base = record(lens, corrupted.ids, [Site.Z])
    step = Run(**{**base.__dict__, "sites": {Site.Z: base.sites[Site.Z] * 1.001}})
    assert exact64[Site.Z].shape == step.sites[Site.Z].shape
    ld = sweep(lens, base, step, patches, lambda logits: {"ld": answers.ld(logits)})["ld"]
    torch.testing.assert_close(estimate.double(), ld - answers.ld(base.logits), rtol=0.02, atol=2e-8)
    assert estimate.abs().max() > 1e-6


def test_attribution_of_what_cannot_matter_is_zero(small_lens: Lens, runs: tuple[Run, Run]) -> None:
    """Earlier positions of the last layer's MLP have no way to the answer."""
    clean, corrupted = runs
    answers = Answers(clean.logits, corrupted.logits, 5, 7)
    gradient = gradients(small_lens, corrupted, answers, [Site.MLP_OUT, Site.RESID_PRE])
    assert gradient[Site.MLP_OUT][-1, :-1].abs().max() == 0
    assert gradient[Site.RESID_PRE][0, 20].abs().max() > 0


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [
        (Patch(Site.RESID_PRE, 3, (1,)), "layer 3 is out of range: random has layers 0 to 2"),
        (Patch(Site.RESID_PRE, 0, (T,)), "lie outside a sequence of 48 tokens"),
        (Patch(Site.RESID_PRE, 0, (-1,)), "lie outside a sequence of 48 tokens"),
        (Patch(Site.RESID_PRE, 0, ()), "a patch needs positions"),
        (Patch(Site.RESID_PRE, 0, (1, 2), None, (1,)), "as many in both runs"),
        (Patch(Site.RESID_PRE, 0, (1,), 0), "resid_pre has no heads"),
        (Patch(Site.Z, 0, (1,), 6), "z of random has heads 0 to 5"),
    ],
)
def test_impossible_patches(small_lens: Lens, runs: tuple[Run, Run], patch: Patch, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        swept(small_lens, runs[1], runs[0], [patch])


def test_key_value_heads_are_counted_on_their_own(words: PreTrainedTokenizerBase) -> None:
    lens = random_lens(ARCHITECTURES["llama-gqa"], words)
    run = record(lens, ids_of(0), [Site.K])
    with pytest.raises(UserError, match="k of random has heads 0 to 1"):
        swept(lens, run, run, [Patch(Site.K, 0, (1,), 2)])


def test_a_budget_too_small_for_one_patch(small_lens: Lens, runs: tuple[Run, Run]) -> None:
    with pytest.raises(UserError, match=r"one patch at position 3 of 48 needs .* MiB: raise experiment.budget_mb"):
        swept(small_lens, runs[1], runs[0], [Patch(Site.RESID_PRE, 0, (3,))], budget_bytes=1000)


def test_a_window_shows_at_the_length_that_is_measured(
    words: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to 8 tokens the fast engine is right; beyond, the model's own pass takes over and says so, once."""
    config = Qwen2Config(**SMALL, num_key_value_heads=3, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    lens = random_lens(config, words)
    assert record(lens, ids_of(0, 8)).engine is Engine.FAST
    long = record(lens, ids_of(0), [Site.RESID_PRE])
    assert long.engine is Engine.PLAIN
    assert lens.checked["patching"]["engine"] == "plain"
    assert record(lens, ids_of(1)).engine is Engine.PLAIN
    assert caplog.text.count("the model's own full forward pass for every patch, which is slow") == 1
    assert record(lens, ids_of(1, 8)).engine is Engine.FAST, "short ones stay fast"
    torch.testing.assert_close(long.logits, lens.hf(torch.tensor([ids_of(0)])).logits[0, -1])


def test_half_precision_does_not_hide_a_fault_of_the_size_of_an_effect(words: PreTrainedTokenizerBase) -> None:
    """Embeddings scaled by a few per cent: rounding in bfloat16 is larger, so a float32 copy is compared."""
    config = GraniteConfig(**SMALL, num_key_value_heads=2, embedding_multiplier=1.02)
    lens = random_lens(config, words)
    lens.hf.bfloat16()
    assert record(lens, ids_of(0)).engine is Engine.PLAIN
    assert lens.checked["patching"]["dtype"] == "torch.float32"
    true = random_lens(ARCHITECTURES["llama-gqa"], words)
    true.hf.bfloat16()
    assert record(true, ids_of(0)).engine is Engine.FAST
