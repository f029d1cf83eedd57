"""Texts that options put before the model: one that its vocabulary does not know would be read as `<unk>`."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.base.session import Session
from interp.errors import UserError
from interp.model.lens import load_tokenizer


def require_known(session: Session, texts: Mapping[str, str], remedy: str = "set another one") -> None:
    """Raises UserError for the first of these options whose text the model's vocabulary does not know; no weights are
    loaded. `{}` stands for what is put in."""
    if not texts:
        return
    tokenizer = load_tokenizer(session.model_spec)
    for option, text in texts.items():
        ids = tokenizer(text.replace("{}", ""), add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in ids:
            raise UserError(f"the model's vocabulary does not know experiment.{option}={text!r}: {remedy}")
