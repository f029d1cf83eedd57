"""Small models of many architectures with random weights, and what each measure should give on them, the long way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from interp.model.lens import Lens, from_memory

TOKENS = 40
WINDOW = 12
SMALL: dict[str, Any] = {
    "vocab_size": 103, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HEAD = {"head_dim": 8}
WINDOWED = {"sliding_window": WINDOW}
MIXED = {**WINDOWED, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_num_value_heads": 4,
          "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A configuration, and what is refused on it: sites of patching, other measures. All else must be exact."""

    kind: str
    more: dict[str, Any] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    fast: bool = False
    """Whether the fast engine patches it at TOKENS tokens."""


QKV = frozenset({"q", "k", "v"})
"""One matrix makes them, or several do."""
WEIGHTS = frozenset({"masses", "ablation"})
"""Attention that is more than a softmax, more than one a layer, or not to be seen."""
MLP = frozenset({"mlp_out"})
"""More than one block beside attention, or one that adds the residual itself."""
MIXED_LAYERS = QKV | WEIGHTS | MLP | {"attn_out", "z"}
"""Layers without attention among those with it."""
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", fast=True),
    "mistral": Family("mistral", {}, fast=True),
    "mistral-windowed": Family("mistral", WINDOWED),
    "mixtral-windowed": Family("mixtral", WINDOWED | {"num_local_experts": 4}),
    "qwen2": Family("qwen2", fast=True),
    "qwen2-windowed": Family("qwen2", {**WINDOWED, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": Family("qwen3", HEAD, fast=True),
    "qwen2-moe": Family("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 32}, fast=True),
    "qwen3-moe": Family("qwen3_moe", EXPERTS | HEAD, fast=True),
    "phi": Family("phi"),
    "phi3": Family("phi3", {}, QKV),
    "phi3-windowed": Family("phi3", WINDOWED, QKV),
    "smollm3": Family("smollm3", {"no_rope_layers": [1, 0, 0], "no_rope_layer_interval": 2}, fast=True),
    "starcoder2-windowed": Family("starcoder2", WINDOWED),
    "gemma": Family("gemma", HEAD, fast=True),
    "gemma2": Family("gemma2", HEAD | MIXED | {"query_pre_attn_scalar": 8}, WEIGHTS),
    "gemma3": Family("gemma3_text", HEAD | MIXED),
    "cohere": Family("cohere", {"logit_scale": 0.2}),
    "cohere2": Family("cohere2", MIXED | {"logit_scale": 0.2}),
    "olmo-clipped": Family("olmo", {"clip_qkv": 0.5}, fast=True),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3", MIXED),
    "olmoe": Family("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}, fast=True),
    "granite": Family("granite", {"embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.5,
                                  "attention_multiplier": 0.3}),
    "granitemoe": Family("granitemoe", {"num_local_experts": 4, "embedding_multiplier": 6.0, "logits_scaling": 4.0}),
    "glm": Family("glm", HEAD, fast=True),
    "glm4": Family("glm4", HEAD),
    "gpt2": Family("gpt2", {}, QKV),
    "gpt-neox": Family("gpt_neox", {}, QKV),
    "gpt-bigcode": Family("gpt_bigcode", {}, QKV),
    "gptj": Family("gptj", {"rotary_dim": 4}, refused=WEIGHTS),
    "opt": Family("opt", {"ffn_dim": 64, "word_embed_proj_dim": 48}, refused=MLP),
    "bloom": Family("bloom", refused=WEIGHTS | QKV | MLP),
    "falcon": Family("falcon", refused=WEIGHTS | QKV),
    "stablelm": Family("stablelm"),
    "helium": Family("helium", HEAD, fast=True),
    "ernie4.5": Family("ernie4_5", HEAD, fast=True),
    "exaone4": Family("exaone4", MIXED),
    "nemotron": Family("nemotron", HEAD, fast=True),
    "seed-oss": Family("seed_oss", HEAD, fast=True),
    "arcee": Family("arcee", fast=True),
    "persimmon": Family("persimmon", refused=QKV),
    "apertus": Family("apertus"),
    "mpt": Family("mpt", refused=WEIGHTS | QKV | MLP),
    "xglm": Family("xglm", {"ffn_dim": 64}, refused=WEIGHTS | MLP),
    "biogpt": Family("biogpt", refused=MLP),
    "gpt-oss": Family("gpt_oss", HEAD | {"num_local_experts": 4}, refused=WEIGHTS),
    "deepseek-v3": Family("deepseek_v3", {"num_key_value_heads": 6, "q_lora_rank": 16, "kv_lora_rank": 16,
                          "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4,
                          "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 32},
                          refused=QKV),
    "llama4": Family("llama4_text", HEAD | {"num_local_experts": 2, "intermediate_size_mlp": 64,
                                          "attention_chunk_size": 16}),
    "diffllama": Family("diffllama", refused=WEIGHTS),
    "minimax": Family("minimax", HEAD | {"num_local_experts": 4}, refused=WEIGHTS | QKV),
    "falcon-h1": Family("falcon_h1", HEAD | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                                            "mamba_d_state": 16}, refused=MLP),
    "lfm2": Family("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, refused=MIXED_LAYERS),
    "recurrent-gemma": Family("recurrent_gemma", {"attention_window_size": 16, "lru_width": 48}, refused=MIXED_LAYERS),
    "qwen3-next": Family("qwen3_next", EXPERTS | HEAD | HYBRID | {"shared_expert_intermediate_size": 32},
                         refused=MIXED_LAYERS),
    "qwen3.5": Family("qwen3_5_text", HEAD | HYBRID, refused=MIXED_LAYERS),
    "mamba": Family("mamba", refused=MIXED_LAYERS),
    "jamba": Family("jamba", {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
                    refused=MIXED_LAYERS),
    "gemma3-multimodal": Family("gemma3", {}),
}  # fmt: skip


def config_of(family: Family) -> Any:
    if family.kind == "gemma3":
        text = {**SMALL, **HEAD, **MIXED}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
                  "image_size": 28, "patch_size": 14}  # fmt: skip
        return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    return AutoConfig.for_model(family.kind, **{**SMALL, **family.more})


def model_of(family: Family) -> Any:
    """Random weights, matrices so large that attention is far from even and every part changes the logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family))
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2 and id(weight) not in embeddings:
                weight.mul_(0.9 / (weight.std().clamp(min=1e-6) * weight.shape[-1] ** 0.5))
            elif id(weight) in embeddings:
                weight.mul_(0.5 / weight.std())
    return model.eval()


def lens_of(name: str, words: PreTrainedTokenizerBase) -> Lens:
    return from_memory(name, model_of(FAMILIES[name]), words)


IDS = [1, *[5 + (i * 37) % 90 for i in range(TOKENS - 1)]]
