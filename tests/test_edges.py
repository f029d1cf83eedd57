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


def test_a_path_patch_is_the_long_way(small_lens: Lens) -> None:
    edges = edges_of(small_lens, (4, 9, 15, T - 1))
    kv = edges.target.sites[Site.K].shape[2]
    some = [
        Edge(None, Site.Q, (0, 5), 0.0), Edge(None, Site.V, (2, kv - 1), 0.0), Edge((0, 2), Site.K, (1, kv - 1), 0.0),
        Edge((0, 5), Site.V, (2, 0), 0.0), Edge((1, 1), Site.Q, (2, 3), 0.0),
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
    assert len(answer) == 1 + 3 * 6
    assert len(found) - len(answer) == (3 + 6 * 2 + 6 * 1) * (6 + 2 + 2)


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
    figure = route_figure(edges, (4, 4), "planted")
    assert sum(isinstance(text, Annotation) for text in figure.axes[0].texts) == 2
    nothing = edges.assign(value=0.0)
    assert route_figure(nothing, (4, 4), "planted") is None
