"""Many architectures with random weights: each measure is exact on them by the self-check, or refused in one line."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.instrument import check_instrument
from interp.patching import Patch, record, sweep
from interp.plain import patched
from interp.plain import record as plain_record
from interp.sites import Site
from tests.families import FAMILIES, IDS, lens_of


@pytest.mark.parametrize("name", FAMILIES)
def test_every_architecture_is_right_or_refused_in_one_line(name: str, words: PreTrainedTokenizerBase) -> None:
    said = None
    try:
        lens = lens_of(name, words)
        found = check_instrument(lens)
        target = record(lens, IDS)
    except UserError as error:
        said = str(error)
    if said is not None:
        assert "\n" not in said
        return
    for what, result in found.items():
        assert "\n" not in str(result.get("refused", "")), what
    patches = [Patch(Site.RESID_PRE, layer, (len(IDS) - 1,), None, (7,)) for layer in range(lens.n_layers)]
    measured = sweep(lens, target, target, patches, lambda logits: {"first": logits[:, 5], "last": logits[:, -1]})
    slow = plain_record(lens, IDS, [], (), False)
    exact = torch.cat([rows for _, rows in patched(lens, slow, slow, patches, 2**30, (), None, False)]).double()
    scale = float(exact.abs().max())
    assert torch.allclose(measured["first"], exact[:, 5], atol=1e-4 * scale)
    assert torch.allclose(measured["last"], exact[:, -1], atol=1e-4 * scale)
