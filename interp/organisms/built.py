"""The models with hand-set weights by name; none is built before it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

Built = tuple[LlamaForCausalLM, PreTrainedTokenizerBase]


def _planted() -> Built:
    from interp.organisms.planted import build_planted

    return build_planted()


def _decider() -> Built:
    from interp.organisms.decisions import build_decider

    return build_decider()


BUILT: dict[str, Callable[[], Built]] = {"planted": _planted, "decider": _decider}
