"""Sixty architectures with random weights: each measure is what the model's own pass says, or refused in one line.

The references know nothing of the code under test: eager attention of a second copy of the model, PyTorch hooks on
modules found by their names, and a loop of full forward passes. What is refused is pinned: nothing is in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from interp.ablation.interventions import Ablation, AblationKind, Batch, Rows, intervened
from interp.errors import UserError
from interp.front.models import check
from interp.heads.scores import Head
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import Lens
from interp.model.prefixes import BEGINNINGS, what_they_share
from interp.model.sites import Site
from interp.model.streaming import stream
from interp.patching.exact import Patch, record, sweep
from interp.patching.patches import Engine
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.rhythm.waad_fai import Distances, prediction_entropy
from interp.sentences import demanded, suppressed
from interp.text.trace import Segment
from tests.families import FAMILIES, IDS, lens_of, model_of

WRITTEN = 4
WINDOW = 6
LAYERS, ATTENTION = ("layers", "h", "blocks"), ("self_attn", "attn", "attention", "self_attention")
OUTPUT, MLP = ("o_proj", "dense", "c_proj", "out_proj"), ("mlp", "feed_forward", "block_sparse_moe", "ffn")


def layers_of(model: Any) -> nn.ModuleList:
    decoder = model.get_decoder()
    decoder = getattr(decoder, "model", decoder)
    return next(getattr(decoder, name) for name in LAYERS if hasattr(decoder, name))


def child(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    return next(getattr(module, name) for name in names if hasattr(module, name))


def place_of(layer: nn.Module, site: Site) -> nn.Module:
    """The module that a site belongs to, by its name."""
    if site is Site.RESID_PRE:
        return layer
    if site is Site.MLP_OUT:
        return child(layer, MLP)
    attention = child(layer, ATTENTION)
    return child(attention, OUTPUT) if site in (Site.Z, Site.ATTN_OUT) else getattr(attention, f"{site}_proj")


@contextmanager
def written(module: nn.Module, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A PyTorch hook that changes a site's activation, of shape (1, position, width)."""

    def before(_: nn.Module, inputs: Any, kwargs: Any) -> Any:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), kwargs
        return inputs, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def after(_: nn.Module, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        changed = change(first.view(1, len(IDS), -1)).view(first.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    if site in (Site.RESID_PRE, Site.Z):
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    yield
    handle.remove()


def logits(model: Any, ids: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0].double()


def close(found: Tensor, expected: Tensor, effect: float, scale: float, what: str) -> None:
    difference = float((found.double() - expected.double()).abs().max())
    assert difference <= 1e-3 * effect + 1e-5 * scale, f"{what}: off by {difference:.2g} of an effect of {effect:.2g}"


def patching(lens: Lens, site: Site) -> Engine:
    """Every layer, near and far, against a hook of a full forward pass."""
    run = record(lens, IDS, [site])
    last = len(IDS) - 1
    places = [((last,), (7,)), ((14, last), (30, 11))]
    patches = [Patch(site, layer, at, None, source) for layer in range(lens.n_layers) for at, source in places]
    found = sweep(lens, run, run, patches, lambda rows: {str(i): rows[:, i] for i in range(rows.shape[1])})
    measured = torch.stack(list(found.values()), dim=1)
    base, biggest = logits(lens.hf, IDS)[-1], 0.0
    close(run.logits, base, 0.0, float(base.abs().max()), f"recorded logits with {site}")
    for patch, ours in zip(patches, measured, strict=True):
        at, source = list(patch.positions), list(patch.sources or ())

        def change(activation: Tensor, at: list[int] = at, source: list[int] = source) -> Tensor:
            activation = activation.clone()
            activation[:, at] = activation[:, source]
            return activation

        with written(place_of(layers_of(lens.hf)[patch.layer], site), site, change):
            expected = logits(lens.hf, IDS)[-1]
        effect = float((expected - base).abs().max())
        biggest = max(biggest, effect)
        close(ours, expected, effect, float(base.abs().max()), f"{patch}")
    assert biggest > 1e-3, "patches that do something"
    return run.engine


class Kept:
    """A reduction that keeps everything."""

    def __init__(self, layers: int, heads: int) -> None:
        self.rows, self.weights = range(len(IDS)), torch.zeros(layers, heads, len(IDS), len(IDS))

    def add(self, layer: int, first_row: int, pattern: Tensor) -> None:
        self.weights[layer, :, first_row : first_row + pattern.shape[1], : pattern.shape[2]] = pattern


def masses(lens: Lens, own: Any) -> None:
    """Weights, WAAD and entropies against those of the eager model."""
    kept, waad = Kept(lens.n_layers, lens.n_heads), Distances(range(len(IDS)), lens.n_layers, lens.n_heads, WINDOW)
    hidden = stream(lens, IDS, kept, waad, block_bytes=2000)
    own.set_attn_implementation("eager")
    out = own(input_ids=torch.tensor([IDS]), output_attentions=True)
    expected = torch.stack([one[0] for one in out.attentions]).float()
    torch.testing.assert_close(kept.weights, expected, atol=1e-5, rtol=0)
    back = torch.arange(len(IDS))[:, None] - torch.arange(len(IDS))[None]
    torch.testing.assert_close(waad.waad, (expected * back.clamp(max=WINDOW)).sum(-1), atol=1e-4, rtol=0)
    log_p = out.logits[0].float().log_softmax(-1)
    entropy = torch.from_numpy(prediction_entropy(lens, hidden)).float()
    torch.testing.assert_close(entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-3, rtol=0)


def ablation(lens: Lens) -> None:
    """One head of every layer set to zero, against a hook before the output projection."""
    ids, scale = torch.tensor([IDS]), float(logits(lens.hf, IDS).abs().max())
    batch = Batch(ids, torch.ones_like(ids), ({Segment.ANSWER: (30, len(IDS))},))
    for layer in range(lens.n_layers):
        with intervened(lens, batch, [Ablation(frozenset([Head(layer, 1)]), AblationKind.ZERO, Rows.ANSWER)]):
            found = logits(lens.hf, IDS)

        def change(z: Tensor) -> Tensor:
            z = z.unflatten(-1, (lens.n_heads, -1)).clone()
            z[:, 29:, 1] = 0
            return z.flatten(-2)

        with written(place_of(layers_of(lens.hf)[layer], Site.Z), Site.Z, change):
            expected = logits(lens.hf, IDS)
        effect = float((expected - logits(lens.hf, IDS)).abs().max())
        assert effect > 1e-3, "a head that does something"
        close(found, expected, effect, scale, f"ablation in layer {layer}")


def suppression(lens: Lens) -> None:
    """Sentences hidden side by side, and the answer demanded behind them, on shared keys and values against without."""
    shared, sentences = trunk(lens, IDS), [(6, 12), (12, 20), (25, 31)]
    found = suppressed(lens, IDS, sentences, 16, shared.prefix)
    plain = suppressed(lens, IDS, sentences)
    torch.testing.assert_close(*map(torch.from_numpy, (found.change, plain.change)), atol=1e-3, rtol=0, equal_nan=True)
    places, lead = [8, 20, len(IDS) - 1], [11, 7]
    together, alone = (demanded(lens, one, places, lead, 40) for one in (shared, replace(shared, prefix=None)))
    torch.testing.assert_close(*map(torch.from_numpy, (together, alone)), atol=1e-3, rtol=0)


def forks(lens: Lens) -> None:
    """Forks of different places, written side by side, against a loop of full forward passes over each alone."""
    chosen = [Fork(9, 40), Fork(25, 17), Fork(len(IDS) - 2, 8)]
    found = rollouts(lens, trunk(lens, IDS), chosen, Sampling(max_new_tokens=WRITTEN), 0)
    for fork, (ids, _) in zip(chosen, found, strict=True):
        follows(lens, [*IDS[: fork.position], fork.token], ids)


def prompts(lens: Lens) -> None:
    """Prompts of different lengths that begin alike, side by side, against a loop of full forward passes over each."""
    rows = [[*IDS[:30], 40], [*IDS[:30], *IDS[10:16]], [*IDS[:24], 8, 9]]
    shared = what_they_share(lens, rows)
    assert (shared is not None) == lens.checked.get(BEGINNINGS, {"used": False})["used"]
    for row, new in zip(rows, continue_ids(lens, rows, Sampling(max_new_tokens=WRITTEN)), strict=True):
        follows(lens, row, new.ids)


def follows(lens: Lens, row: list[int], ids: Sequence[int]) -> None:
    """Each token is the likeliest one of a full forward pass over what comes before it, up to rounding."""
    for token in ids:
        after = logits(lens.hf, row)[-1]
        assert after[token] >= after.max() - 1e-4 * float(after.abs().max())
        row = [*row, token]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_every_measure_is_the_models_own_or_refused_in_one_line(name: str, words: PreTrainedTokenizerBase) -> None:
    family, lens = FAMILIES[name], lens_of(name, words)
    refused: dict[str, str] = {}
    engines: set[Engine] = set()
    check(lens)
    measures: dict[str, Callable[[], Any]] = {
        str(site): lambda site=site: engines.add(patching(lens, site)) for site in Site
    }
    measures |= {
        "masses": lambda: masses(lens, model_of(family)),
        "ablation": lambda: (ablation(lens), suppression(lens)),
        "rollouts": lambda: forks(lens),
        "prompts": lambda: prompts(lens),
    }
    for what, measure in measures.items():
        try:
            measure()
        except UserError as error:
            refused[what] = str(error)
    assert refused.keys() == family.refused
    assert not any("\n" in said for said in refused.values())
    json.dumps(lens.checked, allow_nan=False)  # it goes into environment.json
    assert engines <= {Engine.FAST if family.fast else Engine.PLAIN}
