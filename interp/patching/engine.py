"""Which engine patches: the fast one where it says what the model's own forward pass says, else the plain one.

Nothing is concluded from names of modules or configurations. On the sequence that is about to be measured, at its full
length, logits and one patch at every site that is used, in the first, a middle and the last layer and one of each kind
of layer, are computed both ways. A difference that matters beside the patch's effect rules the fast engine out, for
this length and all longer ones.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.checkpoints import first_line
from interp.model.lens import Lens, available_memory
from interp.model.sites import Site
from interp.model.structure import require_sites
from interp.model.tolerance import HALF_ROUNDING, ROUNDING, SHARE_OF_EFFECT, representative_layers
from interp.model.trial import some_ids
from interp.model.unembedding import HALF
from interp.patching import plain, suffix
from interp.patching.blocks import like_llama
from interp.patching.patches import BUDGET_BYTES, Engine, Patch, Run
from interp.stats import or_null

log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What has been compared for one site."""

    right_up_to: int = 0
    wrong_from: int | None = None


@dataclass
class _Verdicts:
    sites: dict[Site, _Known] = field(default_factory=dict)


def engine_for(lens: Lens, ids: Sequence[int], sites: Collection[Site], bridged: bool = False) -> Engine:
    """The engine that is right for patches of these sites on this sequence. Raises UserError where neither works."""
    if not bridged and not like_llama(lens):
        _note(lens, bridged, {"engine": Engine.PLAIN.value, "why": "its layers are not built as Llama's"})
        return Engine.PLAIN
    verdicts: _Verdicts = lens.memo.setdefault(f"engine, bridged={bridged}", _Verdicts())
    known = [verdicts.sites.setdefault(site, _Known()) for site in sorted({*sites, Site.RESID_PRE})]
    if any(one.wrong_from is not None and len(ids) >= one.wrong_from for one in known):
        return Engine.PLAIN
    open_ = [site for site, one in verdicts.sites.items() if site in {*sites, Site.RESID_PRE}]
    open_ = [site for site in open_ if verdicts.sites[site].right_up_to < len(ids)]
    if not open_:
        return Engine.FAST
    found = compare(_finer(lens, bridged), ids, open_, bridged)
    for site in open_:
        if site in found.wrong:
            verdicts.sites[site].wrong_from = len(ids)
        else:
            verdicts.sites[site].right_up_to = len(ids)
    engine = Engine.PLAIN if found.wrong else Engine.FAST
    _note(lens, bridged, {"engine": engine.value, **found.as_row()})
    return engine


def require_patching(lens: Lens) -> None:
    """Compares the engines at every site that the model has. Raises UserError where it has none."""
    sites = []
    for site in Site:
        try:
            require_sites(lens, [site])
            sites.append(site)
        except UserError as error:
            lens.checked[f"patching {site}"] = {"refused": str(error)}
    if not sites:
        raise UserError(f"{lens.name} cannot be patched at any site")
    engine_for(lens, some_ids(lens), sites)


def _finer(lens: Lens, bridged: bool) -> Lens:
    """A float32 copy of a half-precision model, where there is memory for one: in half precision rounding alone is as
    large as many effects, and would hide a fault of that size. What is compared is the construction, which is the same.
    """
    size = sum(p.numel() for p in lens.hf.parameters()) * torch.float32.itemsize
    if bridged or lens.hf.dtype not in HALF or 1.5 * size > available_memory(lens.device):
        return lens
    try:
        return Lens(lens.name, copy.deepcopy(lens.hf).float(), lens.tokenizer, lens.markers)
    except Exception as error:  # modules that are spread over devices or cannot be copied
        log.info("no float32 copy of %s can be made to compare with: %s", lens.name, first_line(error))
        return lens


def _note(lens: Lens, bridged: bool, found: dict[str, Any]) -> None:
    name = "patching with hooks" if bridged else "patching"
    before = lens.checked.get(name)
    lens.checked[name] = found if before is None else {**before, **found}
    if found["engine"] == Engine.PLAIN and (before is None or before["engine"] != Engine.PLAIN):
        log.warning(
            "patching on %s runs the model's own full forward pass for every patch, which is slow: %s",
            lens.name,
            found["why"],
        )


@dataclass
class Comparison:
    """The fast engine beside the plain one, on one sequence. Differences and effects are the largest of all logits."""

    dtype: str
    """What was compared: half-precision models as float32 copies, if there was memory for one."""
    tokens: int
    patches: int
    difference: float
    effect: float
    logits_difference: float
    wrong: frozenset[Site]
    why: str | None = None

    def as_row(self) -> dict[str, Any]:
        """What environment.json says of it."""
        row = {
            "dtype": self.dtype,
            "tokens": self.tokens,
            "patches": self.patches,
            "largest_difference": or_null(self.difference),
            "its_effect": or_null(self.effect),
            "logits_difference": or_null(self.logits_difference),
        }
        return row if self.why is None else {**row, "why": self.why}


@torch.no_grad()
def compare(lens: Lens, ids: Sequence[int], sites: Sequence[Site], bridged: bool = False) -> Comparison:
    """Logits of the unpatched run and one patch a site and chosen layer, computed by both engines."""
    everything = frozenset(sites)
    slow = plain.record(lens, ids, sites, (), bridged)
    scale = float(slow.logits.abs().max())
    try:
        fast = suffix.record(lens, ids, sites, (), bridged)
        patches = _patches(lens, len(ids), sites)
        # Together and alone: the way through a layer depends on what else is patched in it.
        quick = [
            _logits(suffix, lens, fast, patches, bridged),
            torch.cat([_logits(suffix, lens, fast, [one], bridged) for one in patches]),
        ]
    except Exception as error:  # whatever goes wrong in layers that are not built as they look
        return Comparison(
            str(lens.hf.dtype),
            len(ids),
            0,
            torch.nan,
            torch.nan,
            torch.nan,
            everything,
            f"it fails: {first_line(error)}",
        )
    exact = _logits(plain, lens, slow, patches, bridged)
    rounding = ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * scale
    base = slow.logits.to(exact)
    effects = (exact - base).abs().amax(1)
    differences = torch.stack([(exact - one).abs().amax(1) for one in quick]).amax(0)
    bounds = SHARE_OF_EFFECT * effects + rounding
    wrong = {
        patch.site for patch, d, b in zip(patches, differences.tolist(), bounds.tolist(), strict=True) if not d <= b
    }
    recorded = float((fast.logits.to(base) - base).abs().max())
    worst = int((differences / bounds).nan_to_num(torch.inf).argmax())
    difference, effect = float(differences[worst]), float(effects[worst])
    why = None
    if not recorded <= SHARE_OF_EFFECT * float(effects.max()) + rounding:
        wrong = set(everything)
        why = f"over {len(ids)} tokens the fast engine's own logits are off by {recorded:.2g} of {scale:.2g}"
    elif wrong:
        at = patches[worst]
        why = (
            f"over {len(ids)} tokens the fast engine is off by {difference:.2g} where a patch of {at.site} in layer "
            f"{at.layer} changes {effect:.2g}"
        )
    return Comparison(str(lens.hf.dtype), len(ids), len(patches), difference, effect, recorded, frozenset(wrong), why)


def _logits(engine: Any, lens: Lens, run: Run, patches: Sequence[Patch], bridged: bool) -> Float[Tensor, "patch vocab"]:
    """Logits of all patches from one run into itself, in their own order; float64 on the CPU."""
    logits = torch.full((len(patches), len(run.logits)), torch.nan, dtype=torch.float64)
    for indices, rows in engine.patched(lens, run, run, patches, BUDGET_BYTES, (), None, bridged):
        logits[indices] = rows.double().cpu()
    return logits


def _patches(lens: Lens, tokens: int, sites: Sequence[Site]) -> list[Patch]:
    """One patch a site and layer: at the last position, so that it has an effect, and in turn also near it and in the
    middle. Each takes what stands at other places of the same run, which nearly always differs."""
    last = tokens - 1
    places = [tuple(sorted({at, last})) for at in (last, max(0, tokens - 4), tokens // 2)]
    patches = []
    for i, layer in enumerate(representative_layers(lens)):
        for j, site in enumerate(sites):
            at = places[(i + j) % len(places)]
            patches.append(Patch(site, layer, at, None, tuple((p + 1 + tokens // 3) % tokens for p in at)))
    return patches
