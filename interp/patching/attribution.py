"""Attribution patching: estimates of all patches at once from a few passes (Nanda 2023), by several methods.

Every estimate is a change of the target run's logit difference if the source run's activation stood in one place.
`sweep` of interp/patching/exact.py says what is true; benchmarks/attribution.py says how well each method foretells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError, member
from interp.model.attention import LayerAttention
from interp.model.lens import Lens
from interp.model.sites import Edit, Site
from interp.patching.backward import Place, Traced, gradients, trace
from interp.patching.nld import Answers
from interp.patching.patches import Run
from interp.patching.query_key import QueryKey, source_queries_keys
from interp.patching.relevance import relevance_rules

__all__ = ["STEPS", "Attribution", "Method", "attribute", "attributions", "gradients"]

STEPS = 8
"""Points of the way from target to source at which `integrated` and `integrated_inputs` take gradients."""


class Method(StrEnum):
    """How patches are estimated; L layers, S sites, n steps; passes count whole sequences."""

    ATP = "atp"
    """First order: difference times gradient in the target run (Nanda 2023). 1 forward, 1 backward pass."""
    ATP_QK = "atp_qk"
    """The same, with the softmax followed exactly for q and k (Kramar et al. 2024). 2 forward, 1 backward."""
    ATP_STAR = "atp_star"
    """AtP*: that, and gradients with one layer's writing dropped, L times (GradDrop): the mean size of the L estimates,
    with the sign of `atp_qk`, so that paths of opposite sign do not hide each other. It ranks; it is not calibrated. 2
    forward, L + 1 backward."""
    INTEGRATED = "integrated"
    """Integrated gradients in activations (Marks et al. 2024): all positions of a layer and site move from target to
    source in n steps. Over positions it sums to what patching all of them at once does. n L S forward, n L S backward:
    exact patches of short traces are cheaper."""
    INTEGRATED_INPUTS = "integrated_inputs"
    """Gradients averaged while the embeddings move from target to source in n steps (EAP-IG, Hanna et al. 2024). n
    forward, n backward."""
    RELP = "relp"
    """Propagation rules in place of derivatives (Jafari et al. 2025), for Llama, Qwen2 and Qwen3. 1 forward, 1
    backward."""


@dataclass(frozen=True)
class Attribution:
    """Estimates of one pair of runs, and what they cost beyond the two recorded runs."""

    values: dict[Site, Float[Tensor, "layer pos ..."]]
    """Change of LD by layer and place, and by head for z, q, k, v (k and v by key-value head)."""
    forward: int
    """Passes over the whole sequence."""
    backward: int


def passes(method: Method, n_layers: int, sites: Sequence[Site], steps: int = STEPS) -> tuple[int, int]:
    """Forward and backward passes over the whole sequence that estimates of some sites cost."""
    one_by_one = steps * n_layers * len(sites)
    followed = not {Site.Q, Site.K}.isdisjoint(sites)
    return {
        Method.ATP: (1, 1),
        Method.ATP_QK: (1 + followed, 1),
        Method.ATP_STAR: (1 + followed, 1 + n_layers),
        Method.INTEGRATED: (one_by_one, one_by_one),
        Method.INTEGRATED_INPUTS: (steps, steps),
        Method.RELP: (1, 1),
    }[method]


def attributions(
    lens: Lens,
    target: Run,
    source: Run,
    answers: Answers,
    sites: Sequence[Site],
    positions: Sequence[int],
    sources: Sequence[int] | None = None,
    method: Method = Method.ATP,
    steps: int = STEPS,
) -> Attribution:
    """Estimates at every layer and every one of `positions`, which take the source run's activations at `sources` (None
    = the same places). Both runs must have been recorded with `sites`, and for `atp_qk` and `atp_star` on q or k the
    source with both.

    Raises UserError for a site that the model does not have, for attention that is more than a softmax (where q and k
    are followed), and for an architecture that `relp` has no rules for.
    """
    if len(positions) != len(sources or positions) or not positions:
        raise UserError(f"attribution needs positions, as many in both runs: {positions} and {sources}")
    method, sites = member(Method, method, "method"), tuple(member(Site, site, "site") for site in sites)
    case = _Case(lens, target, source, answers, sites, tuple(positions), tuple(sources or positions))
    return Attribution(_values(case, method, steps), *passes(method, lens.n_layers, sites, steps))


def _values(case: _Case, method: Method, steps: int) -> dict[Site, Tensor]:
    if method == Method.INTEGRATED:
        return _integrated(case, steps)
    if method == Method.INTEGRATED_INPUTS:
        return _integrated_inputs(case, steps)
    if method == Method.RELP:
        with relevance_rules(case.lens):
            return _first_order(case)
    if method == Method.ATP:
        return _first_order(case)
    return _query_key(case, drop=method == Method.ATP_STAR)


def attribute(
    gradient: Tensor, target: Run, source: Run, site: Site, positions: Sequence[int], sources: Sequence[int]
) -> Float[Tensor, "layer pos ..."]:
    """First-order change of LD at each layer and position (and head) if `sources` of the source run were patched in."""
    difference = source.sites[site][:, list(sources)] - target.sites[site][:, list(positions)]
    return (difference * gradient[:, list(positions)]).float().sum(-1)


@dataclass(frozen=True)
class _Case:
    """What is estimated."""

    lens: Lens
    target: Run
    source: Run
    answers: Answers
    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    sources: tuple[int, ...]

    @property
    def layers(self) -> range:
        return range(self.lens.n_layers)

    @property
    def places(self) -> list[Place]:
        return [(site, layer) for site in self.sites for layer in self.layers]

    def ids(self, rows: int = 1) -> Tensor:
        return torch.tensor([self.target.ids] * rows, device=self.lens.device)

    def estimates(self, gradients: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """Differences times gradients of (layer, pos, ...)."""
        return {
            site: attribute(gradients[site], self.target, self.source, site, self.positions, self.sources)
            for site in self.sites
        }

    def by_site(self, found: Sequence[Tensor]) -> dict[Site, Tensor]:
        """One tensor a place, in the order of `places`, stacked over layers."""
        rest = iter(found)
        return {site: torch.stack([next(rest).to(self.lens.device) for _ in self.layers]) for site in self.sites}

    def on_the_way(self, site: Site, layer: int, shares: Tensor) -> Edit:
        """Row i has the activation of the given positions moved by shares[i] from target to source."""
        at = list(self.positions)

        def edit(activation: Tensor) -> Tensor:
            own = activation[:, at]
            share = shares.to(own).view(-1, *[1] * (own.dim() - 1))
            moved = activation.clone()
            moved[:, at] = own + share * (self.source.sites[site][layer, list(self.sources)].to(own) - own)
            return moved

        return edit


def _first_order(case: _Case) -> dict[Site, Tensor]:
    return case.estimates(gradients(case.lens, case.target, case.answers, case.sites))


def _shares(steps: int) -> list[Tensor]:
    """Midpoints of the steps, in batches of rows that go through the model together."""
    if steps < 1:
        raise UserError(f"integrated gradients need at least one step, not {steps}")
    return list(((torch.arange(steps) + 0.5) / steps).split(STEPS))


def _integrated(case: _Case, steps: int) -> dict[Site, Tensor]:
    means = []
    for place in case.places:
        total = torch.zeros(())
        for shares in _shares(steps):
            edits = {place: case.on_the_way(*place, shares)}
            traced = trace(case.lens, case.ids(len(shares)), case.answers, [], edits)
            total = total + traced.gradients([traced.kept[place]])[0].sum(0).cpu()
        means.append(total / steps)
    return case.estimates(case.by_site(means))


def _integrated_inputs(case: _Case, steps: int) -> dict[Site, Tensor]:
    start = (Site.RESID_PRE, 0)
    totals: list[Tensor] = []
    for shares in _shares(steps):
        edits = {start: case.on_the_way(*start, shares)}
        traced = trace(case.lens, case.ids(len(shares)), case.answers, case.places, edits)
        found = [g.sum(0) for g in traced.gradients([traced.kept[place] for place in case.places])]
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    return case.estimates(case.by_site([total / steps for total in totals]))


def _query_key(case: _Case, drop: bool) -> dict[Site, Tensor]:
    """AtP with the softmax followed exactly for q and k, and with `drop` the mean size over dropped layers."""
    lens, own = case.lens, {}
    exact = [site for site in case.sites if site in (Site.Q, Site.K)]

    def attend(layer: LayerAttention) -> Tensor:
        parts = {name: getattr(layer, name).detach() for name in ("query", "key", "value")}
        own[layer.layer] = replace(layer, **parts)
        return layer.output(layer.mask)

    written = [(site, layer) for layer in case.layers for site in (Site.ATTN_OUT, Site.MLP_OUT)] if drop else []
    traced = trace(lens, case.ids(), case.answers, [*case.places, *written], attend=attend if exact else None)
    fixes: list[QueryKey] = []
    if exact:
        theirs = source_queries_keys(lens, case.target, case.source, case.positions, case.sources)
        fixes = [QueryKey(own[layer], *theirs[layer], case.positions) for layer in case.layers]
    whole = _estimates(case, traced, fixes, more_to_come=drop)
    if not drop:
        return whole
    sizes = {site: torch.zeros_like(values) for site, values in whole.items()}
    for dropped in _dropping(case, traced):
        for site, values in _estimates(case, traced, fixes, more_to_come=dropped < lens.n_layers - 1).items():
            sizes[site] += values.abs()
    # Of what a layer writes nothing is left where that layer is dropped.
    count = {site: lens.n_layers - (site != Site.RESID_PRE) for site in sizes}
    return {site: whole[site].sign() * sizes[site] / max(1, count[site]) for site in sizes}


def _estimates(case: _Case, traced: Traced, fixes: Sequence[QueryKey], more_to_come: bool) -> dict[Site, Tensor]:
    """One backward pass: first order, q and k through the softmax where there are `fixes`."""
    outputs = [traced.outputs[layer] for layer in case.layers] if fixes else []
    wanted = [*(traced.kept[place] for place in case.places), *outputs]
    found = traced.gradients(wanted, more_to_come)
    values = case.estimates(case.by_site([g[0] for g in found[: len(case.places)]]))
    if fixes:
        exact = [fix.effects(g[0]) for fix, g in zip(fixes, found[len(case.places) :], strict=True)]
        for site in {Site.Q, Site.K} & {*case.sites}:
            values[site] = torch.stack([layer[site].to(values[site]) for layer in exact])
    return values


def _dropping(case: _Case, traced: Traced) -> Iterator[int]:
    """Each layer in turn; while it is the turn, no gradient passes what that layer writes to the residual stream."""
    for layer in case.layers:
        written = [traced.kept[site, layer] for site in (Site.ATTN_OUT, Site.MLP_OUT)]
        handles = [tensor.register_hook(torch.zeros_like) for tensor in written]
        try:
            yield layer
        finally:
            for handle in handles:
                handle.remove()
