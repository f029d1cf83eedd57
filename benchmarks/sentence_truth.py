"""Which way finds the sentences that carry the answer, where they are known by construction? Precision, recall, cost.

    python -m benchmarks.sentence_truth --model planted --traces 16
    python -m benchmarks.sentence_truth --model reasoner --traces 24
    python -m benchmarks.sentence_truth --model reasoner --traces 6 --write slips.jsonl   # the texts alone: data=traces

In every text one step of the reasoning is wrong, and the answer follows it. So two things are known: which sentence
*states* what the answer says, and which one *decides* it: before it the model would have come to the right answer. They
are the same in `planted`; in `reasoner` the wrong step is anywhere in the chain, and the last step states. What hides
a sentence, demands the answer behind it, or looks at attention is scored against the first, what writes the reasoning
anew against the second. A way *names* the sentences with at least half of its largest value on the trace (and, for
rollouts, an interval above 0).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from interp.ablation.effects import answer_position
from interp.model.generate import Sampling
from interp.model.lens import Lens, ModelSource, ModelSpec, load_lens
from interp.organisms import planted
from interp.organisms.lookups import SolutionStyle, completion, make_problem, solve, written
from interp.organisms.word_problems import Split
from interp.perturb.rollouts import trunk
from interp.sentences.demands import demanded, lead_to_answer
from interp.sentences.resampled import Rollouts, resample, resampled_columns
from interp.sentences.signals import signal_columns
from interp.sentences.suppression import suppressed
from interp.text.sentences import reasoning_sentences
from interp.text.trace import Segment, Trace, parse_text

SLIPS = SolutionStyle(second_look=0, planted=1, corrected=0, final_answer=0)
_ANSWER = re.compile(r"answer (?:is|equals) (\w+)")
SIGNALS = ("relevance", "answer_mass", "rfh_mass", "received", "receiver_heads", "fai")
"""What is cheap to see, scored beside the interventions."""


@dataclass(frozen=True)
class Known:
    """A text whose sentences' parts are known."""

    trace: Trace
    sentences: list[tuple[int, int]]
    states: int
    """The sentence that says what the answer restates."""
    decides: int
    """The sentence that the model would have written otherwise."""


def known_planted(lens: Lens, n: int, seed: int = 0) -> Iterator[Known]:
    """The planted model's texts with another number word: `well now | so five | fine good | done`."""
    for index in range(n):
        question = planted.make_question(seed, index)
        place = (planted.COLOURS.index(question.colour) + 1 + index % (len(planted.NUMBERS) - 1)) % len(planted.NUMBERS)
        reasoning = f"well now so {planted.NUMBERS[place]} fine good done"
        answer = f"the answer equals {planted.DIGITS[place]} !"
        text = f"<bos> {question.question} <think> {reasoning} </think> {answer} <eos>"
        trace = parse_text(text, lens.tokenizer, lens.markers, example=f"planted-{index}")
        first = trace[Segment.REASONING].start
        yield Known(trace, [(first + a, first + b) for a, b in ((0, 2), (2, 4), (4, 6), (6, 7))], 1, 1)


def known_reasoner(lens: Lens, n: int, seed: int = 303) -> Iterator[Known]:
    """Held-out chains of look-ups, one result of which is wrong and all behind it follows, and whose last result is no
    other item's: what is said twice may be read at either place."""
    found = index = 0
    while found < n:
        problem = make_problem(seed, Split.HELD_OUT, index)
        solution = solve(problem, random.Random(index), SLIPS)
        index += 1
        said = solution.said[problem.asked.name]
        numbers = [*solution.said.values(), *(item.value for item in problem.statements if item.source is None)]
        if solution.wrong is None or numbers.count(said) > 1:
            continue
        found += 1
        text = f"<bos> {problem.question} {written(completion(solution))} <eos>"
        trace = parse_text(text, lens.tokenizer, lens.markers, example=f"{seed}-{index}")
        sentences = reasoning_sentences(trace)
        steps = len(sentences) - len(problem.chain)  # behind the search for sources
        slip = next(i for i, item in enumerate(problem.chain) if item.name == solution.wrong)
        yield Known(trace, sentences, len(sentences) - 1, steps + slip)


KNOWN: dict[str, Callable[[Lens, int], Iterator[Known]]] = {"planted": known_planted, "reasoner": known_reasoner}


@dataclass
class Score:
    """What a way names over all texts."""

    right: int = 0
    named: int = 0
    texts: int = 0
    seconds: float = 0.0
    tokens: int = 0
    """Sampled."""

    @property
    def precision(self) -> float:
        return self.right / self.named if self.named else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.texts

    def add(self, values: Sequence[float], truth: int, allowed: Sequence[bool] | None = None) -> None:
        shown = np.nan_to_num(np.array(values, dtype=float), nan=-np.inf)
        named = (shown > 0) & (shown >= shown.max() / 2)
        if allowed is not None:
            named &= np.array(allowed)
        self.right += int(named[truth])
        self.named += int(named.sum())
        self.texts += 1


@dataclass
class Clock:
    """CPU seconds of what is done between two looks."""

    last: float = field(default_factory=time.process_time)

    def lap(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


def scored(lens: Lens, texts: Iterator[Known], draws: int, seed: int = 0) -> Mapping[str, Score]:
    """Every way against what is known."""
    scores = {name: Score() for name in ("suppressed", "demanded", "resampled", *SIGNALS)}
    for one in texts:
        trace, sentences = one.trace, one.sentences
        lead, position = lead_to_answer(trace), answer_position(trace)
        assert lead is not None
        assert position is not None
        shared = trunk(lens, trace.measured_ids)
        borders = [sentences[0][0], *(end for _, end in sentences)]
        clock = Clock()
        cut = suppressed(lens, trace.measured_ids, sentences, prefix=shared.prefix)
        scores["suppressed"].seconds += clock.lap()
        scores["suppressed"].add(-cut.change[:, position], one.states)
        known = demanded(lens, shared, borders, *lead)
        scores["demanded"].seconds += clock.lap()
        scores["demanded"].add(np.diff(known), one.states)

        start = trace[Segment.REASONING].start

        def answer(ids: Sequence[int], start: int = start) -> str | None:
            said = _ANSWER.search(str(lens.tokenizer.decode(list(ids)[start:])))
            return said[1] if said else None

        settings = Rollouts(draws, Sampling(1.0, 80), answer)
        drawn = resample(lens, shared, borders, settings, lens.markers.close, seed, trace.example, 64)
        scores["resampled"].seconds += clock.lap()
        scores["resampled"].tokens += sum(rollout.written for place in drawn for rollout in place)
        columns = [resampled_columns(drawn[k], drawn[k + 1], "") for k in range(len(sentences))]
        above = [(column["resampled_low"] or 0.0) > 0 for column in columns]
        scores["resampled"].add([column["resampled"] for column in columns], one.decides, above)
        signals = signal_columns(lens, trace, sentences, position)
        cost = clock.lap()
        for name in SIGNALS:
            values = [np.nan if row[name] is None else row[name] for row in signals]
            if np.isfinite(values).any():
                scores[name].add(values, one.states)
                scores[name].seconds += cost
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=KNOWN, default="reasoner")
    parser.add_argument("--traces", type=int, default=24)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, default=None, help="writes the texts as JSON lines and does no more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = ModelSource.PLANTED if options.model == "planted" else ModelSource.EMBEDDED
    lens = load_lens(ModelSpec(options.model, source, None if options.model == "planted" else options.model))
    texts = KNOWN[options.model](lens, options.traces)
    if options.write is not None:
        lines = [json.dumps({"id": one.trace.example, "text": one.trace.text}) for one in texts]
        options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    print(f"{options.model}, {options.traces} texts, {options.draws} rollouts a place; s: CPU, of all signals together")
    print(f"{'way':16}{'precision':>10}{'recall':>8}{'s a text':>10}{'sampled':>9}")
    for name, score in scored(lens, texts, options.draws).items():
        if score.texts:
            each = score.seconds / score.texts
            print(f"{name:16}{score.precision:10.2f}{score.recall:8.2f}{each:10.2f}{score.tokens:9}")


if __name__ == "__main__":
    main()
