"""A model spread over two devices is measured as on one: every operand of every measure is where it has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import experiments.base.session as session
from interp.ablation.interventions import Ablation, AblationKind, Batch, Rows, intervened
from interp.errors import UserError
from interp.front.models import check
from interp.heads.reductions import ReceivedAttention
from interp.heads.scores import Head
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import Lens, ModelSpec
from interp.model.sites import Site
from interp.model.streaming import stream
from interp.patching.attribution import Method, attributions
from interp.patching.edges import Edges
from interp.patching.exact import Patch, record, sweep
from interp.patching.faithfulness import effect_without
from interp.patching.nld import Answers
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.rhythm.waad_fai import Distances, prediction_entropy
from interp.sentences import demanded, suppressed
from interp.text.trace import Segment
from tests.command import SMALLEST, ok
from tests.families import IDS, lens_of
from tests.two_devices import two_devices

OTHER = [*IDS[:12], 50, *IDS[13:]]


def masses(lens: Lens) -> Iterator[Any]:
    rows = range(len(IDS))
    received, waad = (
        ReceivedAttention(rows, rows, lens.n_layers, lens.n_heads, 4),
        Distances(rows, lens.n_layers, lens.n_heads, 6),
    )
    hidden = stream(lens, IDS, received, waad, block_bytes=2000)
    yield from (received.received, waad.waad, prediction_entropy(lens, hidden))


def patches(lens: Lens) -> Iterator[Any]:
    last = len(IDS) - 1
    for site in Site:
        run = record(lens, IDS, [site])
        yield run.sites[site]
        chosen = [Patch(site, layer, (14, last), None, (30, 11)) for layer in range(lens.n_layers)]
        yield from sweep(lens, run, run, chosen, lambda rows: {str(i): rows[:, i] for i in range(50)}).values()


def attributed(lens: Lens, method: Method) -> Iterator[Any]:
    runs = [record(lens, ids, list(Site)) for ids in (IDS, OTHER)]
    answers = Answers(runs[0].logits, runs[1].logits, 5, 9)
    yield from attributions(lens, *runs, answers, list(Site), [3, 12, 39], method=method, steps=2).values.values()


def edges_between(lens: Lens) -> Iterator[Any]:
    runs = [record(lens, ids, list(Site)) for ids in (IDS, OTHER)]
    answers = Answers(runs[0].logits, runs[1].logits, 5, 9)
    edges = Edges(lens, runs[0], runs[1], answers, (3, 12, 39), (3, 12, 39))
    found = edges.estimates()
    yield torch.tensor(sorted(one.estimate for one in found))
    yield torch.tensor([one.exact for one in edges.verified(found[:3])])
    yield torch.tensor(effect_without(edges, found[:3]))


def cut(lens: Lens) -> Iterator[Any]:
    ids = torch.tensor([IDS], device=lens.device)
    batch = Batch(ids, torch.ones_like(ids), ({Segment.ANSWER: (30, len(IDS))},))
    for layer in range(lens.n_layers):
        with intervened(lens, batch, [Ablation(frozenset([Head(layer, 1)]), AblationKind.ZERO, Rows.ANSWER)]):
            yield lens.hf(input_ids=ids).logits
    shared = trunk(lens, IDS)
    yield suppressed(lens, IDS, [(6, 12), (12, 20), (25, 31)], 16, shared.prefix).change
    yield demanded(lens, shared, [8, 20, 30], [11, 7], 40)


def written(lens: Lens) -> Iterator[Any]:
    sampling = Sampling(max_new_tokens=4)
    forks = [Fork(9, 40), Fork(25, 17)]
    for new, _ in rollouts(lens, trunk(lens, IDS), forks, sampling, 0):
        yield torch.tensor(new)
    for one in continue_ids(lens, [[*IDS[:30], 40], [*IDS[:30], *IDS[10:16]], [*IDS[:24], 8, 9]], sampling):
        yield torch.tensor(one.ids)


MEASURES: dict[str, Callable[[Lens], Iterator[Any]]] = {
    "masses": masses,
    "patches": patches,
    **{str(method): partial(attributed, method=method) for method in Method},
    "edges": edges_between,
    "cut": cut,
    "written": written,
}
REFUSED: dict[str, set[str]] = {
    "llama": set(),
    "qwen3": set(),
    "mixtral-windowed": {Method.RELP},
    "gpt-neox": {"patches", *Method, "edges"},
}
"""What is refused on one device as well."""


def results(lens: Lens, measure: Callable[[Lens], Iterator[Any]]) -> list[Tensor] | str:
    """What a measure gives, or the line that refuses it."""
    try:
        return [torch.as_tensor(one).detach().cpu().double() for one in measure(lens)]
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("family", REFUSED)
def test_every_measure_is_the_same_on_two_devices(family: str, words: PreTrainedTokenizerBase) -> None:
    whole, spread = (lens_of(family, words) for _ in range(2))
    plain = {name: results(whole, measure) for name, measure in MEASURES.items()}
    with two_devices(spread.hf):
        assert {weight.device.index for weight in spread.hf.parameters()} == {0, 1}
        check(spread)
        found = {name: results(spread, measure) for name, measure in MEASURES.items()}
    assert {what for what, one in plain.items() if isinstance(one, str)} == REFUSED[family]
    for what, theirs in plain.items():
        ours = found[what]
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs
            continue
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3, equal_nan=True)


def test_tensors_of_two_devices_do_not_mix(words: PreTrainedTokenizerBase) -> None:
    """Else the tests here could not fail."""
    lens = lens_of("llama", words)
    with two_devices(lens.hf):
        first, second = lens.hf.get_input_embeddings().weight, lens.hf.get_output_embeddings().weight
        with pytest.raises(RuntimeError, match=r"operands on \['meta:0', 'meta:1'\]"):
            first @ second.T
        assert torch.equal((first.to(second) @ second.T).cpu(), first.cpu() @ second.cpu().T)


@pytest.mark.parametrize("experiment", ["heads", "patching", "ablate", "sentences"])
def test_whole_experiments_give_the_same_tables(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"experiment={experiment}", "model=planted", *SMALLEST[experiment], "generated=null")
    ok(*arguments, f"hydra.run.dir={tmp_path / 'one'}")
    load = session.load_lens
    with ExitStack() as stack:

        def spread(spec: ModelSpec) -> Lens:
            lens = load(spec)
            stack.enter_context(two_devices(lens.hf))
            return lens

        monkeypatch.setattr(session, "load_lens", spread)
        ok(*arguments, f"hydra.run.dir={tmp_path / 'two'}")
    tables = sorted(file.name for file in (tmp_path / "one").glob("*.parquet"))
    assert tables
    for name in tables:
        one, two = (pd.read_parquet(tmp_path / run / name) for run in ("one", "two"))
        assert one.shape == two.shape, name
        for column in one:
            if one[column].dtype.kind == "f":
                np.testing.assert_allclose(one[column], two[column], atol=1e-2, rtol=1e-2, err_msg=f"{name} {column}")
            elif one[column].map(type).isin([str, int, bool]).all():
                assert list(one[column]) == list(two[column]), (name, column)
