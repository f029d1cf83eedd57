"""A Llama whose weights are all zero: what models with hand-set weights start from."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase


@torch.no_grad()
def blank_llama(
    tokenizer: PreTrainedTokenizerBase, *, vocab: int, width: int, layers: int, heads: int, head_dim: int, rotary: float
) -> LlamaForCausalLM:
    """Norms are 1, all other weights 0; no MLPs to speak of; rotary base `rotary`."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=1,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": rotary},
        max_position_embeddings=1024,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    return model
