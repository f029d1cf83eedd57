"""Batched generation is what each prompt alone would give, and reproducible."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerBase

from interp.model.generate import Sampling, continue_ids, ends_of, generate
from interp.model.lens import Lens, from_memory
from interp.model.prefixes import BEGINNINGS, what_they_share
from interp.perturb.rollouts import Fork, rollouts, trunk
from interp.text.ends import end_ids
from interp.text.trace import Segment, decode_response, parse_ids
from tests.families import lens_of

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


def test_what_prompts_begin_with_is_computed_once(small_lens: Lens) -> None:
    beginning = [7 + i % 23 for i in range(60)]
    rows = [[*beginning, 40], [*beginning, *range(10, 25)], [*beginning[:50], 8, 9]]
    sampling = Sampling(max_new_tokens=12)
    small_lens.memo.clear()
    together = continue_ids(small_lens, rows, sampling)
    assert small_lens.checked[BEGINNINGS]["used"]
    assert small_lens.checked[BEGINNINGS]["tokens"] == max(map(len, rows))
    assert together == [continue_ids(small_lens, [row], sampling)[0] for row in rows]


@pytest.mark.parametrize(
    "rows", [[[1, 2, 3], [4, 2, 3]], [[1], [1, 2]], [[1, 2, *range(20)], [1, 2, *range(5, 25)]]], ids=str
)
def test_prompts_that_begin_too_differently_share_nothing(small_lens: Lens, rows: list[list[int]]) -> None:
    assert what_they_share(small_lens, rows) is None


def test_what_the_weights_say_ends_a_response_belongs_to_no_segment(words: PreTrainedTokenizerBase) -> None:
    """An end token that only generation_config.json names, as Gemma's."""
    model = copy.deepcopy(lens_of("llama", words).hf)
    tokenizer = copy.deepcopy(words)
    end = tokenizer.convert_tokens_to_ids("Leo")
    prompt = tokenizer("<bos> Tom 3 pens . <think> 3 </think> Tom 3", add_special_tokens=False)["input_ids"]
    before = parse_ids([*prompt, end], tokenizer)
    assert before[Segment.ANSWER].end == len(prompt) + 1
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    lens = from_memory("gemma-like", model, tokenizer)
    assert ends_of(lens) == end_ids(tokenizer) >= {end, tokenizer.eos_token_id}
    assert parse_ids([*prompt, end], tokenizer)[Segment.ANSWER].end == len(prompt)
    assert decode_response(tokenizer, [*prompt[-2:], end]) == decode_response(tokenizer, prompt[-2:])


def test_cut_off_responses_are_not_finished(planted: Lens) -> None:
    response = generate(planted, PROMPTS[:1], Sampling(max_new_tokens=3), 0)[0]
    assert (len(response.ids), response.finished) == (3, False)


def test_a_long_prompt_takes_no_room_from_those_beside_it(small_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is written as if alone, up to the model's last position; where it has none, nothing is."""
    monkeypatch.setattr(small_lens.hf.config, "max_position_embeddings", 40)
    rows = [[7 + i % 23 for i in range(length)] for length in (10, 38, 45, 36, 12)]
    together = continue_ids(small_lens, rows, Sampling(max_new_tokens=12))
    assert together == [continue_ids(small_lens, [row], Sampling(max_new_tokens=12))[0] for row in rows]
    assert [len(one.ids) for one in together[1:4]] == [2, 0, 4]
    assert not any(one.finished for one in together[1:4])
    assert together[0].finished or len(together[0].ids) == 12
    forks = [Fork(place, rows[1][place]) for place in (9, 36, 37, 20)]
    found = rollouts(small_lens, trunk(small_lens, rows[1]), forks, Sampling(max_new_tokens=12), 0)
    assert [len(new) for new, _ in found[1:3]] == [3, 2]
    assert [new for new, _ in found] == [
        rollouts(small_lens, trunk(small_lens, rows[1]), [fork], Sampling(max_new_tokens=12), 0)[0][0] for fork in forks
    ]


def test_sampling_depends_on_seed_and_labels_alone(small_lens: Lens) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12)
    prompts = ["Tom has 3 apples", "Who has more"]

    def ids(seed: int, *labels: object) -> list[tuple[int, ...]]:
        return [r.ids for r in generate(small_lens, prompts, sampling, seed, *labels)]

    first = ids(0, "a")
    generate(small_lens, prompts, sampling, 5, "something in between")
    assert ids(0, "a") == first
    assert len({tuple(ids(s, label)) for s in (0, 1) for label in "ab"}) == 4


def test_the_weights_own_generation_settings_change_nothing(small_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties, beams, lengths, banned and forced tokens, sampling: decoding is what the options say."""
    rows = [list(range(5, 25)), list(range(30, 38))]
    greedy, sampled = Sampling(max_new_tokens=12), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=12)
    before = [continue_ids(small_lens, rows, sampling, 3) for sampling in (greedy, sampled)]
    likeliest = before[0][0].ids[0]
    for asked in (
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"min_new_tokens": 11, "min_length": 40, "max_length": 3, "max_time": 1e-6},
        {"suppress_tokens": [likeliest], "begin_suppress_tokens": [likeliest], "bad_words_ids": [[likeliest]]},
        {"forced_eos_token_id": 2, "exponential_decay_length_penalty": (1, 2.0), "num_return_sequences": 1},
        {"do_sample": True, "temperature": 5.0, "top_k": 2, "min_p": 0.3, "typical_p": 0.2, "top_p": 0.1},
        {"cache_implementation": "static", "use_cache": False},
    ):
        own = GenerationConfig(eos_token_id=2, **asked)
        monkeypatch.setattr(small_lens.hf, "generation_config", own)
        assert [continue_ids(small_lens, rows, sampling, 3) for sampling in (greedy, sampled)] == before, asked
        assert small_lens.hf.generation_config is own


def test_the_ends_that_the_weights_name_end_a_response(small_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [list(range(5, 25))]
    free = continue_ids(small_lens, rows, Sampling(max_new_tokens=8))[0]
    end = free.ids[3]
    monkeypatch.setattr(small_lens.hf, "generation_config", GenerationConfig(eos_token_id=[2, end]))
    cut = continue_ids(small_lens, rows, Sampling(max_new_tokens=8))[0]
    assert (cut.ids, cut.finished) == (free.ids[: free.ids.index(end) + 1], True)


def test_one_place_generates() -> None:
    """Everything that a model writes goes through `continue_ids`, or through vLLM's own function."""
    root = Path(__file__).resolve().parents[1]
    files = [file for package in ("interp", "experiments") for file in (root / package).rglob("*.py")]
    callers = {file.name for file in files if ".generate(" in file.read_text()}
    assert callers == {"decoding.py", "vllm.py"}
