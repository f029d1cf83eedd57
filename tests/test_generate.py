"""Batched generation is what each prompt alone would give, and reproducible."""

from __future__ import annotations

from interp.generate import Sampling, generate
from interp.lens import Lens

PROMPTS = [
    "<bos> look red here . <think>",
    "<bos> a box is here my old box blue this . <think>",
    "<bos> pink . <think>",
]


def test_a_batch_equals_its_prompts_alone(planted: Lens) -> None:
    together = generate(planted, PROMPTS, Sampling(max_new_tokens=24), 0)
    alone = [generate(planted, [prompt], Sampling(max_new_tokens=24), 0)[0] for prompt in PROMPTS]
    assert together == alone
    assert all(response.finished for response in together)
    assert all(response.ids[-1] == planted.tokenizer.eos_token_id for response in together)
    assert planted.tokenizer.pad_token_id not in together[0].prompt_ids


def test_cut_off_responses_are_not_finished(planted: Lens) -> None:
    response = generate(planted, PROMPTS[:1], Sampling(max_new_tokens=3), 0)[0]
    assert (len(response.ids), response.finished) == (3, False)


def test_sampling_depends_on_seed_and_labels_alone(small_lens: Lens) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12)
    prompts = ["Tom has 3 apples", "Who has more"]

    def ids(seed: int, *labels: object) -> list[tuple[int, ...]]:
        return [r.ids for r in generate(small_lens, prompts, sampling, seed, *labels)]

    first = ids(0, "a")
    generate(small_lens, prompts, sampling, 5, "something in between")
    assert ids(0, "a") == first
    assert len({tuple(ids(s, label)) for s in (0, 1) for label in "ab"}) == 4
