"""Edges: path patches are the long way by hooks, estimates are right, and the planted route is found alone."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from matplotlib.text import Annotation
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.figures.route import route as route_figure
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.model.structure import edited
from interp.model.unembedding import last_logits
from interp.organisms.planted import CIRCUIT
from interp.patching.edges import NEEDED, READ, Edge, Edges
from interp.patching.exact import record
from interp.patching.faithfulness import effect, effect_without, smallest_route
from interp.patching.nld import Answers
from interp.patching.route import names_of
from interp.runs.store import read_table
from tests.command import ok
from tests.families import lens_of
from tests.test_attribution import ids_of, linear

T = 20


def edges_of(lens: Lens, positions: tuple[int, ...] = tuple(range(T))) -> Edges:
    target, source = (record(lens, ids_of(seed), NEEDED) for seed in (1, 0))
    return Edges(lens, target, source, Answers(source.logits, target.logits, 5, 7), positions, positions)


def the_long_way(edges: Edges, edge: Edge) -> float:
    """The stream is changed before the receiver's layer, and all but the receiver get their own back."""
    lens, target, at = edges.lens, edges.target, list(edges.positions)
    senders, changes = next((s, c) for s, c in edges._senders() if edge.sender in s)
    change = changes[senders.index(edge.sender)]
    layer, head = edge.receiver
    if head is None:
        return the_long_way_to_an_mlp(edges, layer, change)

    def added(stream: torch.Tensor) -> torch.Tensor:
        stream = stream.clone()
        stream[0, at] += change
        return stream

    def taken_back(stream: torch.Tensor) -> torch.Tensor:
        stream = stream.clone()
        stream[0, at] -= change
        return stream

    def only(site: Site):
        def keep(made: torch.Tensor) -> torch.Tensor:
            own = target.sites[site][layer][None].clone()
            if site is edge.through:
                own[:, :, head] = made[:, :, head]
            return own

        return keep

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(edited(lens, layer, {Site.RESID_PRE: added, Site.ATTN_OUT: taken_back}))
        stack.enter_context(edited(lens, layer, {site: only(site) for site in READ}))
        ld = edges.answers.ld(last_logits(lens, torch.tensor([target.ids])))[0]
    return float(ld) - float(edges.answers.ld(target.logits))


def the_long_way_to_an_mlp(edges: Edges, layer: int, change: torch.Tensor) -> float:
    """The MLP's own norm and weights on the changed stream, its output put in by a hook."""
    lens, target, at = edges.lens, edges.target, list(edges.positions)
    module = lens.hf.base_model.layers[layer]
    stream = target.sites[Site.RESID_PRE][layer] + target.sites[Site.ATTN_OUT][layer]
    stream[at] += change
    with torch.no_grad():
        made = module.mlp(module.post_attention_layernorm(stream))[None]
        with edited(lens, layer, {Site.MLP_OUT: lambda _: made}):
            ld = edges.answers.ld(last_logits(lens, torch.tensor([target.ids])))[0]
    return float(ld) - float(edges.answers.ld(target.logits))


def test_a_path_patch_is_the_long_way(small_lens: Lens) -> None:
    edges = edges_of(small_lens, (4, 9, 15, T - 1))
    kv = edges.target.sites[Site.K].shape[2]
    some = [
        Edge(None, Site.Q, (0, 5), 0.0), Edge(None, Site.V, (2, kv - 1), 0.0), Edge((0, 2), Site.K, (1, kv - 1), 0.0),
        Edge((0, 5), Site.V, (2, 0), 0.0), Edge((1, 1), Site.Q, (2, 3), 0.0),
        Edge((1, 1), Site.MLP_OUT, (1, None), 0.0), Edge((0, None), Site.V, (2, 0), 0.0),
    ]  # fmt: skip
    effects = []
    for edge in edges.verified(some):
        assert edge.exact == pytest.approx(the_long_way(edges, edge), abs=3e-6)
        effects.append(abs(edge.exact))
    assert max(effects) > 1e-3


def test_estimates_are_exact_on_a_linear_model(words: PreTrainedTokenizerBase) -> None:
    edges = edges_of(linear("llama-gqa", words))
    found = edges.estimates()
    checked = edges.verified([edge for edge in found if edge.receiver is not None][:12])
    for edge in checked:
        assert edge.exact == pytest.approx(edge.estimate, rel=1e-3, abs=5e-6)
    assert abs(checked[0].exact) > 0.01
    answer = [edge for edge in found if edge.receiver is None]
    assert len(answer) == 1 + 3 * (6 + 1)
    heads, mlps = 6 * (2 * 10 + 3 + 10 + 2 + 1), 2 * 11 + 11
    assert len(found) - len(answer) == 3 * 11 + heads + mlps, "10 readers and an MLP a layer; its MLP reads its heads"


def test_the_planted_route_is_the_only_one(planted: Lens) -> None:
    """From the number word by the RFH's values, and from the RFH to the answer: nothing else, and not the decoy."""
    texts = [f"<bos> look {c} a . <think> well now so {n} fine good done </think> the answer equals"
             for c, n in (("red", "one"), ("pink", "eight"))]  # fmt: skip
    clean, corrupted = (
        record(planted, planted.tokenizer(t, add_special_tokens=False)["input_ids"], NEEDED) for t in texts
    )
    answers = Answers(clean.logits, corrupted.logits, *planted.tokenizer.convert_tokens_to_ids(["1", "8"]))
    first = texts[0].split().index("<think>")
    positions = tuple(range(first, len(clean.ids)))
    edges = Edges(planted, corrupted, clean, answers, positions, positions)
    found = edges.estimates()
    whole = answers.ld_clean - answers.ld_corrupted
    route = [edge for edge in edges.verified(found[:8]) if abs(edge.exact) > 1e-4 * whole]
    assert {(e.sender, e.through, e.receiver) for e in route} == {
        (None, Site.V, CIRCUIT.rfh), (CIRCUIT.rfh, None, None),
    }  # fmt: skip
    assert [e.exact / whole for e in route] == pytest.approx([1, 1], abs=1e-3)
    assert max(abs(e.estimate) for e in found[2:]) < 1e-3 * whole
    assert effect(edges, route) == pytest.approx(whole, rel=1e-3)
    assert abs(effect_without(edges, route)) < 1e-3 * whole
    one, both = smallest_route(edges, found, 0.9, 100)
    assert one == (1, pytest.approx(0, abs=1e-3 * whole)), "neither edge leads anywhere without the other"
    assert both == (2, pytest.approx(whole, rel=1e-3))


def test_all_edges_together_are_a_patch_of_the_embeddings(small_lens: Lens) -> None:
    edges = edges_of(small_lens, (4, 9, 15))
    at = list(edges.positions)

    def patched(stream: torch.Tensor) -> torch.Tensor:
        stream = stream.clone()
        stream[0, at] = edges.source.sites[Site.RESID_PRE][0, at]
        return stream

    with torch.no_grad(), edited(small_lens, 0, {Site.RESID_PRE: patched}):
        plain = float(edges.answers.ld(last_logits(small_lens, torch.tensor([edges.target.ids])))[0])
    whole = plain - float(edges.answers.ld(edges.target.logits))
    every = edges_of(small_lens).estimates()
    assert abs(whole) > 1e-3
    assert effect_without(edges, ()) == pytest.approx(whole, abs=2e-5)
    assert effect(edges, every) == pytest.approx(whole, abs=2e-5)
    assert effect(edges, ()) == effect_without(edges, every) == 0
    half = every[::2]
    assert effect(edges, half) == pytest.approx(effect_without(edges, every[1::2]), abs=2e-5)


def test_one_edge_of_the_embeddings_alone_is_its_path_patch(small_lens: Lens) -> None:
    """From a receiver on, its path patch lets all pass: the same as its edge and every edge not from the embeddings."""
    edges = edges_of(small_lens, (4, 9, 15, T - 1))
    later = [edge for edge in edges.estimates() if edge.sender is not None]
    for first in (Edge(None, Site.V, (0, 0), 0.0), Edge(None, Site.MLP_OUT, (1, None), 0.0)):
        (exact,) = edges.verified([first])
        assert effect(edges, [first, *later]) == pytest.approx(exact.exact, abs=2e-5)
        assert effect(edges, [first]) == 0, "nothing leads on from its receiver"


def test_layers_of_another_make_are_refused(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="edges of gpt2 cannot be patched: its layers are not built as Llama's"):
        Edges(lens_of("gpt2", words), None, None, None, (), ())


def test_the_route_is_a_table_and_a_figure(tmp_path: Path) -> None:
    ok("experiment=patching", "model=planted", "data.limit=2", "experiment.edges=6", "experiment.maps=0",
       "experiment.random_sets=0", f"hydra.run.dir={tmp_path}")  # fmt: skip
    edges = read_table(tmp_path, "edges")
    assert edges.groupby("example")["rank"].apply(list).tolist() == [list(range(6))] * 2
    route = edges[edges["value"].abs() > 1e-4]
    named = set(zip(route["example"], names_of(route), strict=True))
    rfh = f"({CIRCUIT.rfh[0]},{CIRCUIT.rfh[1]})"
    expected = {f"embeddings -v-> {rfh}", f"{rfh} -answer-> answer"}
    assert named == {(example, name) for example in set(edges["example"]) for name in expected}
    assert route["value"].to_numpy() == pytest.approx(1, abs=1e-3)
    (line,) = [one for one in json.loads((tmp_path / "summary.json").read_text())["lines"] if "strongest edges" in one]
    assert line.count("-> ") == 2, "edges without an effect are not named"
    routes = read_table(tmp_path, "routes")
    assert routes["edges"].tolist() == [2, 2]
    assert [list(one) for one in routes["tried"]] == [[1, 2]] * 2
    assert [list(one) for one in routes["kept"]] == [pytest.approx([0, 1], abs=1e-3)] * 2
    assert routes["alone"].to_numpy() == pytest.approx(1, abs=1e-3)
    assert routes["without"].to_numpy() == pytest.approx(0, abs=1e-3)
    lines = json.loads((tmp_path / "summary.json").read_text())["lines"]
    assert any(line.endswith("(median over pairs); 90% of the effect is kept in 2 of 2 pairs") for line in lines)
    figure = route_figure(edges, (4, 4), "planted")
    assert sum(isinstance(text, Annotation) for text in figure.axes[0].texts) == 2
    nothing = edges.assign(value=0.0)
    assert route_figure(nothing, (4, 4), "planted") is None


def test_the_route_alone_keeps_the_effect_in_a_model_that_learnt_it(tmp_path: Path) -> None:
    ok("experiment=patching", "model=reasoner", "data.limit=3", "experiment.edges=4", "experiment.maps=0",
       "experiment.random_sets=0", "figures=false", f"hydra.run.dir={tmp_path}")  # fmt: skip
    routes = read_table(tmp_path, "routes")
    assert len(routes) >= 2
    assert (routes["alone"] >= 0.9).all()
    assert (routes["edges"] < routes["of"] / 4).all()
    assert (routes["without"] < 0.5).all()
