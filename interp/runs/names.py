"""Readable names of columns and of what stands in them: the one place that figures, tables and pages take them from.

Tables keep their own names (`interp.runs.columns`, docs/tables.md); readers are shown these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORDS = {
    "fai": "FAI",
    "waad": "WAAD",
    "nld": "NLD",
    "ld": "logit difference",
    "kl": "KL divergence",
    "rfh": "RFH",
    "bos": "first token",
    "jaccard": "Jaccard overlap",
    "p": "p",
}
"""Parts of names that are no words, or are written otherwise."""
NAMES = {
    "answer_changed": "another answer",
    "attn_out": "attention output",
    "correct_changed": "right or wrong changed",
    "end_think": "close tag",
    "fai_near": "FAI near by",
    "fai_to_end": "FAI to the end",
    "first_tokens": "first four tokens",
    "mlp_out": "MLP output",
    "n_cases": "changes",
    "n_events": "events",
    "n_heads": "heads",
    "near": "near by",
    "only_first": "right only in the first",
    "only_second": "right only in the second",
    "own": "own token forced",
    "p_adjusted": "p, Benjamini-Hochberg",
    "p_mcnemar": "p, McNemar",
    "p_permutation": "p, sign flips",
    "p_sentence": "p, within sentences",
    "p_shift": "p, shifted in a circle",
    "p_t": "p, paired t-test",
    "paired": "after the filters",
    "per_token": "per token",
    "phrase_answer": "the phrase's answer",
    "predicting": "predicting token",
    "receiver_fai_to_end": "receiver FAI to the end",
    "receiver_peak": "receiver peak",
    "receiver_sentences": "receiver (by sentence)",
    "resid_pre": "residual stream",
    "think": "think tag",
    "to_end": "to the end",
    "value_of_group": "which",
    "waad_drop": "drop of WAAD",
    "z": "single heads",
}
"""Whole names that are more than their words."""

_NAME = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_RAW = re.compile(r"(?<=->)(?:bos|think|end_think)\b|\b[a-z]+(?:_[a-z0-9]+)+\b")


def model_label(name: str, untrained: int | None) -> str:
    """What tables, labels and pages call a model: random weights never go by the trained model's name."""
    return name if untrained is None else f"{name}-untrained-{untrained}"


def data_label(name: str, scrambled: int | None) -> str:
    """What they call a data set: texts in random order never go by the name of those in their own."""
    return name if scrambled is None else f"{name}-scrambled-{scrambled}"


def measured(options: Mapping[str, Any]) -> tuple[str, str]:
    """The labels of model and data in a run's options."""
    model, data = options["model"], options["data"]
    return model_label(model["name"], model.get("untrained")), data_label(data["name"], data.get("scrambled"))


def readable(name: object) -> str:
    """A column's name, or a value out of a closed list, as a reader is shown it: no underscores, abbreviations as the
    papers write them. What is no such name, such as a sentence, stays."""
    text = str(name)
    if not _NAME.fullmatch(text):
        return text
    return NAMES.get(text) or " ".join(WORDS.get(part, part) for part in text.split("_") if part)


def readable_text(text: str) -> str:
    """A sentence of ours with raw names in it replaced; identifiers that are not known here are left as they are, since
    they may be a model's words."""
    return _RAW.sub(lambda found: readable(found[0]) if found[0] in (*NAMES, *WORDS) else found[0], text)
