"""Long sequences in pieces: what the whole pass gives, on many architectures, and left out where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from interp.heads.reductions import ReceivedAttention, SegmentMasses
from interp.model import pieces, prefixes
from interp.model.generate import Sampling, continue_ids
from interp.model.lens import Lens
from interp.model.pieces import PIECES, in_pieces
from interp.model.prefixes import PROMPTS
from interp.model.streaming import stream
from interp.model.structure import parts_of
from interp.model.unembedding import last_logits
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.text.trace import Segment
from tests.conftest import ARCHITECTURES, random_lens
from tests.families import FAMILIES, lens_of
from tests.test_attention import make_trace

IDS = [3 + (i * 37) % 90 for i in range(70)]
ROWS = [[IDS], [IDS[:60], IDS[5:50], IDS[20:70]], [IDS[:62], [*IDS[:50], *IDS[3:17]]]]
SIZE = 16
SOME = ["gemma3", "mixtral-windowed", "qwen3-moe", "gpt2", "opt", "bloom", "llama4", "gpt-oss", "deepseek-v3", "mamba"]
CACHED = ["mistral-windowed", "gemma3", "qwen3-moe", "gpt2", "deepseek-v3", "lfm2", "mamba", "jamba", "minimax"]


@contextmanager
def seen(lens: Lens, modules: list[nn.Module]) -> Iterator[list[int]]:
    """The numbers of tokens that modules are given at a time, all rows together."""
    found: list[int] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].shape[:-1].numel())

    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def inside(lens: Lens) -> list[nn.Module]:
    """A matrix of every MLP."""
    mlps = [parts.mlp for parts in parts_of(lens) if parts.mlp is not None]
    return [next(module for module in mlp.modules() if isinstance(module, nn.Linear)) for mlp in mlps]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_TOKENS", SIZE)


@pytest.fixture
def small_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "WHOLE_TOKENS", 12)
    monkeypatch.setattr(prefixes, "PROMPT_TOKENS", 20)


def test_measures_are_those_of_the_whole_pass(small_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make_trace(1, 9, 1, 40, 1, 18)
    shape = (small_lens.n_layers, small_lens.n_heads)

    def measured() -> list[Tensor]:
        masses = SegmentMasses(trace, *shape, (Segment.REASONING, Segment.ANSWER))
        received = ReceivedAttention(range(11, 70), range(11, 70), *shape, gap=2)
        hidden = stream(small_lens, trace.measured_ids, masses, received)
        return [hidden, masses.mass, masses.distance, received.received.nan_to_num()]

    whole = measured()
    monkeypatch.setattr(pieces, "PIECE_TOKENS", SIZE)
    with seen(small_lens, inside(small_lens)) as tokens:
        found = measured()
    assert max(tokens) == SIZE
    for one, other in zip(found, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert small_lens.checked[PIECES]["used"]
    assert all("forward" not in vars(parts.mlp) for parts in parts_of(small_lens))


@pytest.mark.parametrize("name", SOME)
def test_logits_are_those_of_the_whole_pass(
    name: str, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = lens_of(name, words)
    ids = torch.tensor([IDS, IDS[::-1]])
    whole = last_logits(lens, ids)
    monkeypatch.setattr(pieces, "PIECE_TOKENS", SIZE)
    with torch.no_grad():
        assert torch.allclose(last_logits(lens, ids), whole, atol=3e-5 * float(whole.abs().max()))


class Mixing(nn.Module):
    """An MLP whose tokens also see the one before."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], 1)
        return self.mlp(hidden) + self.mlp(before)  # type: ignore[no-any-return]


def test_what_mixes_tokens_is_noticed_and_computed_whole(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lens = random_lens(ARCHITECTURES["llama"], words)
    layer = lens.hf.model.layers[1]
    layer.mlp = Mixing(layer.mlp)
    ids = torch.tensor([IDS])
    whole = last_logits(lens, ids)
    monkeypatch.setattr(pieces, "PIECE_TOKENS", SIZE)
    assert torch.allclose(last_logits(lens, ids), whole, atol=1e-5)
    assert not lens.checked[PIECES]["used"]
    assert caplog.text.count(f"{PIECES} cannot be used on random") == 1


def test_gradients_are_left_alone(small_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_TOKENS", SIZE)
    ids, modules = torch.tensor([IDS]), inside(small_lens)
    wanted = small_lens.hf.get_input_embeddings()(ids).requires_grad_(True)
    whole = torch.autograd.grad(small_lens.hf(inputs_embeds=wanted).logits.sum(), wanted)[0]
    with seen(small_lens, modules) as tokens, in_pieces(small_lens, ids):
        found = torch.autograd.grad(small_lens.hf(inputs_embeds=wanted).logits.sum(), wanted)[0]
    assert set(tokens) == {len(IDS)}
    assert torch.equal(found, whole)


@pytest.mark.parametrize("rows", ROWS, ids=["one", "several", "sharing"])
def test_prompts_in_pieces_are_continued_alike(
    rows: list[list[int]], small_lens: Lens, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=8)
    small_lens.memo.clear()
    whole = continue_ids(small_lens, rows, sampling)
    sampled = continue_ids(small_lens, rows, Sampling(temperature=1.0, max_new_tokens=8), 3)
    monkeypatch.setattr(prefixes, "WHOLE_TOKENS", 8)
    monkeypatch.setattr(prefixes, "PROMPT_TOKENS", 20)
    assert continue_ids(small_lens, rows, sampling) == whole  # and what is compared once is compared
    with seen(small_lens, inside(small_lens)) as tokens:
        assert continue_ids(small_lens, rows, sampling) == whole
    shared = 50 if rows is ROWS[2] else 0
    assert max(tokens) == max(20 // len(rows) * len(rows), shared)  # what all begin with is one row without padding
    assert small_lens.checked[PROMPTS] == {**small_lens.checked[PROMPTS], "used": True, "tokens": max(map(len, rows))}
    assert continue_ids(small_lens, rows, Sampling(temperature=1.0, max_new_tokens=8), 3) == sampled


@pytest.mark.usefixtures("small_prompts", "small_pieces")
def test_forks_of_a_long_trace_compute_one_token(small_lens: Lens) -> None:
    """Their keys and values are there: nothing is left to be cut in pieces."""
    shared = trunk(small_lens, IDS)
    forks, sampling = [Fork(50, 7), Fork(62, 9)], Sampling(max_new_tokens=4)
    with seen(small_lens, inside(small_lens)) as tokens:
        found = rollouts(small_lens, shared, forks, sampling, 0)
    assert set(tokens) == {len(forks)}
    assert found == rollouts(small_lens, shared, forks, sampling, 0, cached=False)


@pytest.mark.parametrize("name", CACHED)
def test_architectures_continue_alike_or_say_that_they_do_not(
    name: str, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in FAMILIES
    lens, rows, sampling = lens_of(name, words), [IDS[:40]], Sampling(max_new_tokens=4)
    whole = continue_ids(lens, rows, sampling)
    monkeypatch.setattr(prefixes, "WHOLE_TOKENS", 12)
    monkeypatch.setattr(prefixes, "PROMPT_TOKENS", 9)
    assert continue_ids(lens, rows, sampling) == whole
    assert isinstance(lens.checked[PROMPTS]["used"], bool)
