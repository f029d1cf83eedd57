"""Models for a notebook: loaded by name, or taken as they are, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.ablation.interventions import require_interventions
from interp.errors import UserError
from interp.model.instrument import check_instrument, require_unembedding
from interp.model.lens import Lens, ModelSource, ModelSpec, from_memory, load_lens
from interp.model.streaming import require_masses
from interp.organisms.built import BUILT
from interp.patching.engine import require_patching
from interp.text.prompts import PromptStyle
from interp.text.trace import ThinkMarkers

MEASURES = (require_unembedding, require_masses, require_interventions, require_patching)
EMBEDDED: Mapping[str, ModelSource] = {
    "reasoner": ModelSource.EMBEDDED,
    "word-reasoner": ModelSource.EMBEDDED,
    "reasoner-early": ModelSource.EMBEDDED,
    "planted": ModelSource.PLANTED,
    "decider": ModelSource.DECIDER,
}
"""Models that are part of the package."""


def check(lens: Lens) -> dict[str, Any]:
    """The self-check of all measures: what the comparisons with the model's own forward pass found."""
    return check_instrument(lens, MEASURES)


def load(
    model: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    markers: tuple[str, str] = ("<think>", "</think>"),
    trust_remote_code: bool = False,
) -> Lens:
    """A model ready for measuring.

    `model` is "reasoner", "word-reasoner", "reasoner-early", "planted" or "decider", a directory, a name on the Hugging
    Face hub, or a model in memory with its tokenizer. `lens.checked` says what comparing every measure with the model's
    own forward pass found. Raises UserError, in one line, for whatever can be mended.
    """
    tags = ThinkMarkers(*markers)
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise UserError("a model in memory needs its tokenizer: load(model, tokenizer)")
        lens = from_memory(model.name_or_path or type(model).__name__, model, tokenizer, tags)
    else:
        source = EMBEDDED.get(model, ModelSource.PRETRAINED)
        path = None if source in BUILT else model
        lens = load_lens(
            ModelSpec(
                model, source, path, dtype=dtype, device=device, markers=tags, trust_remote_code=trust_remote_code
            )
        )
    check(lens)
    return lens


def style_of(lens: Lens) -> PromptStyle:
    """How a model is asked unless told otherwise: the embedded models know no line breaks."""
    return PromptStyle(separator=" ") if lens.name in EMBEDDED else PromptStyle()
