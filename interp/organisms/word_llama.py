"""The architecture of the trained embedded models: a small Llama on a word-level vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, set_seed

from interp.organisms.word_tokenizer import word_tokenizer


@dataclass(frozen=True)
class Shape:
    """Size of a model."""

    layers: int
    hidden: int
    heads: int
    mlp: int
    head_dim: int | None = None
    """None = hidden / heads. Wider where look-up by content needs room for the names."""
    positions: int = 512
    rope_base: float = 1000.0
    """Lower than usual: the texts are short, and looking at the token before is learned sooner."""
    initial_scale: float = 0.02
    """Standard deviation of the initial weights."""


def new_model(words: Iterable[str], shape: Shape, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """An untrained model and its tokenizer."""
    tokenizer = word_tokenizer(words)
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        initializer_range=shape.initial_scale,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config), tokenizer
