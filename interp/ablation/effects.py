"""What an ablation or a knockout does to the answer: rows of effects.parquet.

Two ways to look. *Teacher-forced*: the trace stays as it was and the predictions of its answer tokens change. *Written
anew*: the model writes its answer again, greedily, after its own reasoning, with the intervention in force.

Interventions on the answer leave everything before it as it was: its keys and values are computed once and shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from interp.ablation.interventions import Ablation, Batch, Knockout, Reference, acts_on_answers, batch_of, intervened
from interp.ablation.roles import AnswerRole, answer_roles
from interp.errors import UserError
from interp.grading.extraction import answer_span
from interp.grading.outcomes import Outcome, outcome
from interp.model.generate import Sampling, Written, continue_ids
from interp.model.lens import Lens
from interp.model.pieces import in_pieces
from interp.model.prefixes import batches_are_right
from interp.model.shared import KeysValues
from interp.model.tolerance import HALF_ROUNDING, ROUNDING
from interp.model.unembedding import logits_of, trunk_of
from interp.text.trace import Segment, Trace

Intervention = Ablation | Knockout
TEACHER_FORCED = ("ld", "logprob", "kl", "flipped")
"""Of these `logprob` and `kl` are also taken by the role of the answer token (interp/ablation/roles.py)."""
WRITTEN = ("correct", "same_answer", "finished")


@dataclass(frozen=True)
class Labels:
    """What an intervention is called in effects.parquet."""

    intervention: str
    heads_kind: str | None = None
    n_heads: int | None = None
    rows: str | None = None
    layer: int | None = None
    layer_end: int | None = None
    head: int | None = None
    draw: int | None = None
    control: str | None = None

    @property
    def key(self) -> str:
        """A name for this intervention, unique within a run."""
        parts = (self.intervention, self.heads_kind, self.n_heads, self.rows, self.layer, self.layer_end, self.head)
        return "-".join("x" if part is None else str(part) for part in (*parts, self.draw))

    def as_row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def answer_position(trace: Trace) -> int | None:
    """Position of the first token of the answer that the answer segment gives; None if it gives none."""
    span = trace[Segment.ANSWER]
    begin = trace.offsets[span.start][0]
    found = answer_span(trace.text[begin:])
    if found is None:
        return None
    place = begin + found[0]
    return next((p for p in span.positions if trace.offsets[p][0] <= place < trace.offsets[p][1]), None)


@dataclass
class Subjects:
    """Traces side by side with what the model says of them when nothing is cut."""

    lens: Lens
    traces: list[Trace]
    golds: list[str | None]
    max_new_tokens: int
    cached: bool = True
    """False computes what comes before the answers every time: the reference that the tests compare with."""
    batch: Batch = field(init=False)
    prompts: Batch = field(init=False)
    clean: list[Float[Tensor, "token vocab"]] = field(init=False)
    """Log-probabilities of the predictions of the answer tokens."""
    foils: list[int] = field(init=False)
    """The likeliest other token where the answer is predicted."""
    at: list[int] = field(init=False)
    """Which of the answer tokens is the answer's first."""
    own: list[int] = field(init=False)
    """That token."""
    roles: list[dict[AnswerRole, list[int]]] = field(init=False)
    """Which of the answer tokens have which role."""
    written: list[Written] | None = None
    _shared: dict[bool, KeysValues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = [_required(answer_position(trace)) for trace in self.traces]
        self.at = [p - t[Segment.ANSWER].start for p, t in zip(positions, self.traces, strict=True)]
        self.own = [t.token_ids[p] for p, t in zip(positions, self.traces, strict=True)]
        self.roles = [_by_role(trace) for trace in self.traces]
        # Found out before anything is cut: the comparison's own passes must be whole.
        if len(self.traces) > 1 and not batches_are_right(self.lens):
            raise UserError(
                f"rows side by side are continued otherwise than alone on {self.lens.name}: set experiment.batch=1"
            )
        self.batch, self.prompts = batch_of(self.lens, self.traces), batch_of(self.lens, self.traces, whole=False)
        self.clean = self._predictions(())
        self._compare_with_each_alone()
        self.foils = []
        for log_p, at, own in zip(self.clean, self.at, self.own, strict=True):
            row = log_p[at].clone()
            row[own] = -torch.inf
            self.foils.append(int(row.argmax()))

    @torch.no_grad()
    def _compare_with_each_alone(self) -> None:
        """Padding and shared keys and values change nothing, on batches longer than those before. Where the shared ones
        do, they are given up; raises UserError if the padding does."""
        lens, known = self.lens, "interventions on batches"
        if self.batch.width <= lens.checked.get(known, {}).get("tokens", 0):
            self.cached = self.cached and lens.checked[known]["shared"]
            return
        alone = []
        for trace in self.traces:
            ids = torch.tensor([trace.measured_ids], device=lens.device)
            with in_pieces(lens, ids):
                logits = trunk_of(lens)(ids).last_hidden_state[0]
            answer = trace[Segment.ANSWER]
            alone.append(logits_of(lens, logits[answer.start - 1 : answer.end - 1]).float().log_softmax(-1).cpu())

        def difference() -> float:
            return max(float((a - b).abs().max()) for a, b in zip(self.clean, alone, strict=True))

        bound = ROUNDING.get(lens.hf.dtype, HALF_ROUNDING) * max(float(one.abs().max()) for one in alone)
        if self.cached and not difference() <= bound:
            self.cached = False
            self.clean = self._predictions(())
        if not difference() <= bound:
            raise UserError(
                f"traces side by side are predicted otherwise than alone on {lens.name} (log-probabilities off by "
                f"{difference():.2g}): set experiment.batch=1"
            )
        lens.checked[known] = {"tokens": self.batch.width, "shared": self.cached, "largest_difference": difference()}

    @torch.no_grad()
    def _predictions(
        self, interventions: Sequence[Intervention], reference: Reference | None = None, seed: int = 0
    ) -> list[Float[Tensor, "token vocab"]]:
        lens, batch = self.lens, self.batch
        start, cache = self._before(batch, interventions)
        ids = batch.ids[:, start:]
        with intervened(lens, batch, interventions, reference, seed), in_pieces(lens, ids):
            hidden = trunk_of(lens)(
                ids,
                attention_mask=batch.mask,
                position_ids=batch.position_ids[:, start:],
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
        found = []
        for row in range(len(self.traces)):
            stop = batch.spans[row][Segment.ANSWER][1] - 1
            asked = hidden[row, batch.predicting(row) - start : stop - start]
            found.append(logits_of(lens, asked).float().log_softmax(-1).cpu())
        return found

    def _before(self, batch: Batch, interventions: Sequence[Intervention]) -> tuple[int, DynamicCache | None]:
        """Up to where the interventions change nothing in any row, and the keys and values of that part."""
        start = min(batch.predicting(row) for row in range(len(batch.spans)))
        if not self.cached or start == 0 or not acts_on_answers(interventions):
            return 0, None
        written = batch is self.prompts
        if written not in self._shared:
            self._shared[written] = _computed(self.lens, batch, start)
        return start, self._shared[written].cache()

    def teacher_forced(
        self, interventions: Sequence[Intervention], labels: Labels, reference: Reference | None = None, seed: int = 0
    ) -> list[dict[str, Any]]:
        """`ld`: logit of the answer's first token minus that of its clean runner-up; `logprob` of that token; `kl`:
        KL(clean || cut) in nats, mean over answer tokens; `flipped`: another token is likelier there, None where one
        was before anything was cut. The `value` of the first two is cut minus clean. Rows with a `role`: `logprob` and
        `kl`, mean over the answer tokens of that role; for random sets of heads `logprob` alone."""
        rows = []
        predictions = self._predictions(interventions, reference, seed)
        for trace, own, at, foil, roles, clean, cut in zip(
            self.traces, self.own, self.at, self.foils, self.roles, self.clean, predictions, strict=True
        ):
            by_token = (clean.exp() * (clean - cut)).nan_to_num(0.0).sum(-1)
            kl = float(by_token.mean())
            values: dict[str, tuple[float | None, float | None, float | None]] = {}
            for name, before, after in (
                ("ld", clean[at, own] - clean[at, foil], cut[at, own] - cut[at, foil]),
                ("logprob", clean[at, own], cut[at, own]),
            ):
                values[name] = (float(before), float(after), float(after - before))
            values["kl"] = None, kl, kl
            likeliest, flipped = int(clean[at].argmax()) == own, float(int(cut[at].argmax()) != own)
            values["flipped"] = (0.0, flipped, flipped) if likeliest else (None, None, None)
            rows += [self._row(trace, labels, metric, *numbers) for metric, numbers in values.items()]
            rows += self._by_role(trace, labels, roles, clean, cut, by_token)
        return rows

    def _by_role(
        self,
        trace: Trace,
        labels: Labels,
        roles: Mapping[AnswerRole, Sequence[int]],
        clean: Float[Tensor, "token vocab"],
        cut: Float[Tensor, "token vocab"],
        kl: Float[Tensor, " token"],
    ) -> Iterator[dict[str, Any]]:
        if labels.heads_kind is None and labels.layer is not None:
            return  # heads one by one and windows of layers: the whole answer says enough
        answer = trace[Segment.ANSWER]
        tokens = torch.tensor(trace.token_ids[answer.start : answer.end])[:, None]
        before, after = (table.gather(1, tokens)[:, 0] for table in (clean, cut))
        for role, places in roles.items():
            a, b = float(before[places].mean()), float(after[places].mean())
            yield {**self._row(trace, labels, "logprob", a, b, b - a), "role": role}
            if labels.control is None:
                value = float(kl[places].mean())
                yield {**self._row(trace, labels, "kl", None, value, value), "role": role}

    def written_anew(
        self, interventions: Sequence[Intervention], labels: Labels, reference: Reference | None = None, seed: int = 0
    ) -> list[dict[str, Any]]:
        """`correct`: the new answer is the gold answer; `same_answer`: it is the one that the model writes when nothing
        is cut; `finished`: it ends within the limit of tokens. All 0 or 1, `value` = cut minus clean for `correct`.

        An answer that the limit cuts off is not right, and what it would have been is not known: `same_answer` is None
        where one of the two is cut off, or where the model gives no answer when nothing is cut; `correct` is None where
        that one is cut off.
        """
        if self.written is None:
            self.written = self._write(())
        cut = self._write(interventions, reference, seed)
        rows = []
        for trace, gold, before, after in zip(self.traces, self.golds, self.written, cut, strict=True):
            same = None
            if before.finished and after.finished and before.answer is not None:
                same = float(before.answer == after.answer)
            rows.append(self._row(trace, labels, "same_answer", None if same is None else 1.0, same, same))
            ended = float(after.finished)
            rows.append(self._row(trace, labels, "finished", float(before.finished), ended, ended))
            if gold is not None and before.finished:
                old, new = (float(_right(one, gold)) for one in (before, after))
                rows.append(self._row(trace, labels, "correct", old, new, new - old))
            elif gold is not None:
                rows.append(self._row(trace, labels, "correct", None, None, None))
        return rows

    @property
    def _before_answers(self) -> list[list[int]]:
        """What the answers are written after: the rows of `prompts` without their padding."""
        return [list(trace.token_ids[: trace[Segment.ANSWER].start]) for trace in self.traces]

    @torch.no_grad()
    def _write(
        self, interventions: Sequence[Intervention], reference: Reference | None = None, seed: int = 0
    ) -> list[Written]:
        lens, prompts = self.lens, self.prompts
        _, cache = self._before(prompts, interventions)
        with intervened(lens, prompts, interventions, reference, seed):
            written = continue_ids(
                lens,
                self._before_answers,
                Sampling(max_new_tokens=self.max_new_tokens),
                past_key_values=cache,
                plain=True,
            )
        return [Written.of(lens, one) for one in written]

    def _row(
        self, trace: Trace, labels: Labels, metric: str, clean: float | None, patched: float | None, value: float | None
    ) -> dict[str, Any]:
        about = {"example": trace.example, **labels.as_row()}
        return {**about, "metric": metric, "clean": clean, "patched": patched, "value": value}


def _by_role(trace: Trace) -> dict[AnswerRole, list[int]]:
    roles = answer_roles(trace)
    return {role: [i for i, one in enumerate(roles) if one is role] for role in AnswerRole if role in roles}


def _right(written: Written, gold: str) -> bool:
    found = written.answer
    return outcome(written.text, found, gold, finished=written.finished, closed=True) == Outcome.CORRECT


def _computed(lens: Lens, batch: Batch, stop: int) -> KeysValues:
    """Of positions 0 to stop - 1, by the attention function that the interventions use."""
    cache = DynamicCache()
    ids = batch.ids[:, :stop]
    with intervened(lens, batch, ()), in_pieces(lens, ids):
        trunk_of(lens)(
            ids,
            attention_mask=batch.mask[:, :stop],
            position_ids=batch.position_ids[:, :stop],
            past_key_values=cache,
            use_cache=True,
        )
    return KeysValues.of(cache)


def _required(position: int | None) -> int:
    if position is None:
        raise ValueError("a trace whose answer gives nothing to look at")
    return position
