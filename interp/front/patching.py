"""Activation patching for a notebook: a tensor ready to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from interp.errors import UserError, member
from interp.figures.patching import nld_map
from interp.figures.style import look
from interp.model.lens import Lens
from interp.model.sites import Site
from interp.patching.exact import Patch, record, sweep
from interp.patching.nld import Answers
from interp.text.trace import Trace

Tokens = str | Sequence[int] | Trace


@dataclass(frozen=True)
class PatchResult:
    """What patching one run's activations into another did to the answer."""

    nld: Float[Tensor, "layer position"]
    """0 = the patch does nothing, 1 = it makes the answer the clean run's (Paper A, section 5)."""
    ld: Float[Tensor, "layer position"]
    """Logit of the clean answer minus that of the corrupted one, in the patched run."""
    ld_clean: float
    ld_corrupted: float
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    """The corrupted run's token at each position."""
    site: Site

    def plot(self) -> Figure:
        """The map of NLD by layer and position."""
        with look():
            return nld_map(self.nld.numpy(), self.layers, self.tokens, f"NLD, {self.site}")


def patch(
    lens: Lens,
    clean: Tokens,
    corrupted: Tokens,
    answers: tuple[str | int, str | int],
    *,
    site: Site | str = Site.RESID_PRE,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    head: int | None = None,
) -> PatchResult:
    """Patches the clean run's activations into the corrupted run, one layer and position at a time (denoising).

    Both runs are texts or tokens of the same length that end where the answer is to be predicted; `answers` are the one
    token that answers the clean run and the one that answers the corrupted run. Layers and positions default to all;
    positions are the same in both runs. Every number equals one full forward pass with the activation replaced.
    Raises UserError for runs of different lengths, or that prefer either answer alike, for answers of several tokens,
    that the vocabulary does not have, or that are the same token, and for places outside the model.
    """
    runs = [_ids(lens, one) for one in (clean, corrupted)]
    if len(runs[0]) != len(runs[1]):
        raise UserError(f"the runs have {len(runs[0])} and {len(runs[1])} tokens: patching needs as many in both")
    clean_id, corrupted_id = (_answer_id(lens, one) for one in answers)
    if clean_id == corrupted_id:
        raise UserError(f"both answers are the same token: {answers[0]!r} and {answers[1]!r}")
    place = member(Site, site, "site")
    at_layers = tuple(range(lens.n_layers) if layers is None else layers)
    at_positions = tuple(range(len(runs[0])) if positions is None else positions)
    base = [record(lens, ids, [place]) for ids in runs]
    if outside := [one for one in (clean_id, corrupted_id) if not 0 <= one < len(base[0].logits)]:
        raise UserError(f"the answer {outside[0]} is no token of {lens.name}")
    measure = Answers(base[0].logits, base[1].logits, clean_id, corrupted_id)
    if measure.ld_clean == measure.ld_corrupted:
        raise UserError("both runs have the same logit difference: no patch can be normalised by it")
    patches = [Patch(place, layer, (position,), head) for layer in at_layers for position in at_positions]
    found = sweep(lens, base[1], base[0], patches, measure.measure)
    shape = (len(at_layers), len(at_positions))
    tokens = tuple(str(lens.tokenizer.decode([runs[1][position]])) for position in at_positions)
    nld, ld = (found[name].reshape(shape) for name in ("nld", "ld"))
    return PatchResult(nld, ld, measure.ld_clean, measure.ld_corrupted, at_layers, at_positions, tokens, place)


def _ids(lens: Lens, tokens: Tokens) -> tuple[int, ...]:
    if isinstance(tokens, Trace):
        return tokens.measured_ids
    return tuple(lens.tokenizer(tokens)["input_ids"] if isinstance(tokens, str) else tokens)


def _answer_id(lens: Lens, answer: str | int) -> int:
    if isinstance(answer, int):
        return answer
    ids = lens.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise UserError(f"the answer {answer!r} is {len(ids)} tokens: give one token, its leading space included")
    if ids[0] == lens.tokenizer.unk_token_id:
        raise UserError(f"the vocabulary of {lens.name} does not know the answer {answer!r}")
    return int(ids[0])
