"""Generation with vLLM, an optional package, on the same checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.generate import Continuation, Response, Sampling
from interp.model.lens import ModelSpec, device_of, dtype_of, locate
from interp.organisms.built import BUILT
from interp.stats import seed_for
from interp.text.ends import end_ids


class VllmGenerator:
    """Continues prompts with vLLM. Raises UserError where vLLM is not installed or the model is not a checkpoint."""

    def __init__(self, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                "generation.backend=vllm needs the package vllm: pip install vllm (Linux with a GPU), or leave it out"
            ) from error
        if spec.source in BUILT:
            raise UserError(f"vLLM needs a checkpoint, and {spec.name} is built in memory: use huggingface")
        if spec.untrained is not None:
            raise UserError("vLLM reads trained weights: use huggingface with model.untrained")
        self._vllm: Any = vllm
        self._tokenizer = tokenizer
        self._model = vllm.LLM(
            model=locate(spec),
            revision=spec.revision,
            # By itself vLLM makes bfloat16 of float32, and so writes what the measured model would not.
            dtype=str(dtype_of(spec.dtype, device_of(spec.device))).removeprefix("torch."),
            trust_remote_code=spec.trust_remote_code,
            load_format="safetensors",  # never a pickle
            enable_prefix_caching=True,  # rollouts of a trace share what comes before them
        )

    def __call__(self, prompts: Sequence[str], sampling: Sampling, seed: int, *labels: object) -> list[Response]:
        rows = [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        found = self.continued(rows, sampling, seed, *labels)
        return [Response(tuple(row), new.ids, new.finished) for row, new in zip(rows, found, strict=True)]

    def continued(
        self, rows: Sequence[Sequence[int]], sampling: Sampling, seed: int, *labels: object
    ) -> list[Continuation]:
        """Continues token sequences, all at once: vLLM makes its own batches."""
        ends = end_ids(self._tokenizer)
        # vLLM's seed is for one request: equal prompts of a batch must not share it.
        options = [
            self._vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed_for(seed, *labels, i),
                stop_token_ids=sorted(ends),
            )
            for i in range(len(rows))
        ]
        outputs = self._model.generate([{"prompt_token_ids": list(row)} for row in rows], options, use_tqdm=False)
        return [
            Continuation(tuple(output.outputs[0].token_ids), output.outputs[0].finish_reason == "stop")
            for output in outputs
        ]
