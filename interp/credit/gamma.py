"""Credit: the factor gamma on each token's advantage, from WAAD and FAI or from a baseline (Paper B, section 5).

Pure functions on padded batches. `mask` is 1 on the tokens of each response and 0 on padding, which lies behind them.
A signal is NaN where it is undefined (no window) and on padding; such tokens are never chosen. Gamma is 1 on padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.credit.by_sentence import first_tokens, whole_sentences
from interp.errors import UserError, member


class Strategy(StrEnum):
    """Which tokens get more credit."""

    UNIFORM = "uniform"
    """None: plain GRPO."""
    RANDOM = "random"
    """Random tokens: what uneven credit does by itself."""
    ENTROPY = "entropy"
    """Tokens that were predicted with the highest entropy."""
    LOCAL_CHUNK = "local_chunk"
    """Tokens at which WAAD changes most: where a chunk starts or ends."""
    GLOBAL_ANCHOR = "global_anchor"
    """Tokens with the highest FAI."""
    COUPLED = "coupled"
    """Anchors share their credit with the token that introduces their chunk."""
    MATCHED_RANDOM = "matched_random"
    """Random tokens that lie where coupled credit goes: its bonuses, exchanged at random within each tenth."""
    FIRST = "first"
    """The first tokens of the response."""
    BOTTOM = "bottom"
    """Coupled credit whose anchors are the tokens with the lowest FAI (with `end=bottom`, the highest)."""
    MASK = "mask"
    """Coupled credit, and gamma 0 for all other tokens of a response in which a token gets some."""
    SOFT = "soft"
    """Every token, in proportion to its FAI: mean 1, whatever gamma_amp and q are."""
    ORACLE = "oracle"
    """The tokens that decide, where these are known: what credit could do if its rule were right."""


class End(StrEnum):
    """Which end of a signal is chosen."""

    TOP = "top"
    BOTTOM = "bottom"


class Unit(StrEnum):
    """What is credited as a whole."""

    TOKEN = "token"
    SENTENCE = "sentence"
    """Those whose tokens have the highest mean of the strategy's signal (for coupled credit: of its bonuses)."""


class Signs(StrEnum):
    """Which advantages gamma applies to."""

    BOTH = "both"
    POSITIVE = "positive"
    NEGATIVE = "negative"


@dataclass(frozen=True)
class CreditRule:
    """Everything that decides gamma. Defaults: version 2 of the paper; alpha, k and both tau where it is silent."""

    strategy: Strategy = Strategy.COUPLED
    q: float = 0.4
    """Share of each response's tokens that are chosen; the number is rounded, and at least one."""
    end: End = End.TOP
    gamma_amp: float = 1.5
    """Gamma of a chosen token."""
    alpha: float = 0.5
    """Share of a dominated anchor's bonus that goes to its introductory token."""
    k: int = 3
    """How many tokens before an anchor may introduce it."""
    tau_waad: float = 0.5
    """Quantile of WAAD within the response, up to which an anchor looks locally."""
    tau_delta: float = 0.5
    """Quantile of the WAAD changes within the response, from which one opens a chunk."""
    unit: Unit = Unit.TOKEN
    first_q: float | None = None
    """In place of q for the strategy `first`."""
    once: bool = False
    """A token that introduces several anchors, or is one itself, gets the largest of its bonuses and not their sum."""
    signs: Signs = Signs.BOTH
    preserve_mass: bool = False
    """Scale gamma to mean 1 over each response: a control for the larger step."""

    def __post_init__(self) -> None:
        for name, kind in (("strategy", Strategy), ("end", End), ("unit", Unit), ("signs", Signs)):
            object.__setattr__(self, name, member(kind, getattr(self, name), name))

    @property
    def amount(self) -> float:
        """The bonus of an anchor."""
        return self.gamma_amp - 1

    @property
    def share(self) -> float:
        """Of each response's tokens, that are chosen."""
        return self.first_q if self.strategy == Strategy.FIRST and self.first_q is not None else self.q

    @property
    def by_sentence(self) -> bool:
        return self.unit == Unit.SENTENCE and self.strategy != Strategy.UNIFORM

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the signals that gamma is made from."""
        return (*NEEDS[self.strategy], *(("sentences",) if self.by_sentence else ()))

    def check(self) -> None:
        """Raises UserError for values out of range."""
        if self.by_sentence and self.strategy not in BY_SENTENCE:
            known = ", ".join(BY_SENTENCE)
            raise UserError(f"unit=sentence is not made for strategy={self.strategy}, but for {known}")
        for name in ("q", "first_q", "alpha", "tau_waad", "tau_delta"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        for name in ("q", "first_q"):
            if getattr(self, name) == 0:
                raise UserError(f"{name}=0 chooses no token: use strategy=uniform for plain GRPO")
        if self.k < 1:
            raise UserError(f"k={self.k} must be at least 1")
        if self.gamma_amp < 0:
            raise UserError(f"gamma_amp={self.gamma_amp} must not be negative")


@dataclass(frozen=True)
class Signals:
    """What gamma may be made from; a strategy needs those named in NEEDS. In Paper B's units: tokens, mass, nats."""

    waad: Float[Tensor, "batch token"] | None = None
    fai: Float[Tensor, "batch token"] | None = None
    entropy: Float[Tensor, "batch token"] | None = None
    noise: Float[Tensor, "batch token"] | None = None
    """Independent uniform numbers."""
    decisions: Bool[Tensor, "batch token"] | None = None
    """The tokens that decide, where a task knows them."""
    sentences: Int[Tensor, "batch token"] | None = None
    """The number of each token's sentence in its response, from 0; -1 on padding (`sentence_numbers_of`)."""


NEEDS: dict[Strategy, tuple[str, ...]] = {
    Strategy.UNIFORM: (),
    Strategy.RANDOM: ("noise",),
    Strategy.ENTROPY: ("entropy",),
    Strategy.LOCAL_CHUNK: ("waad",),
    Strategy.GLOBAL_ANCHOR: ("fai",),
    Strategy.COUPLED: ("waad", "fai"),
    Strategy.MATCHED_RANDOM: ("waad", "fai", "noise"),
    Strategy.FIRST: (),
    Strategy.BOTTOM: ("waad", "fai"),
    Strategy.MASK: ("waad", "fai"),
    Strategy.SOFT: ("fai",),
    Strategy.ORACLE: ("decisions",),
}
BY_SENTENCE = (
    *(Strategy.RANDOM, Strategy.ENTROPY, Strategy.LOCAL_CHUNK, Strategy.GLOBAL_ANCHOR),
    *(Strategy.COUPLED, Strategy.FIRST, Strategy.BOTTOM),
)
"""Strategies whose unit may be the sentence."""
NEVER_1 = (Strategy.MASK, Strategy.SOFT)
"""Strategies that differ from plain GRPO also where gamma_amp is 1."""
TENTHS = 10


def gamma_of(rule: CreditRule, signals: Signals, mask: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """Gamma of every token, without gradient: 1, or more (less for gamma_amp < 1) where credit goes.

    Of the strategies in NEVER_1, other tokens get less.
    """
    real = mask.bool()
    ones = torch.ones(mask.shape, device=mask.device)
    named = {name: getattr(signals, name) for name in rule.needs}
    missing = [name for name, signal in named.items() if signal is None]
    if missing:
        raise ValueError(f"{rule.strategy} credit needs {', '.join(missing)}")
    with torch.no_grad():
        known = {name: signal.detach().float().masked_fill(~real, torch.nan) for name, signal in named.items()}
        if rule.by_sentence:
            assert signals.sentences is not None
            signal = sentence_signal(rule, known, real)
            if rule.strategy == Strategy.RANDOM:  # one number a sentence: means of more would favour short ones
                signal = signal.masked_fill(~first_tokens(signals.sentences, real), torch.nan)
            # Shares of a bonus: a sentence without any is none of the rule's, however many tokens are still wanted.
            least = 0.0 if rule.strategy in (Strategy.COUPLED, Strategy.BOTTOM) else -torch.inf
            credited = whole_sentences(signal, signals.sentences, real, rule.share, least=least)
            gamma = torch.where(credited, rule.gamma_amp, ones)
            return _scaled(rule, gamma, real)
        match rule.strategy:
            case Strategy.UNIFORM:
                return ones
            case Strategy.FIRST:
                gamma = torch.where(chosen(_earliness(real), real, rule.share, rule.end), rule.gamma_amp, ones)
            case Strategy.SOFT:
                total = known["fai"].nansum(1, keepdim=True)
                weights = known["fai"] * (~known["fai"].isnan()).sum(1, keepdim=True) / total
                gamma = torch.where(known["fai"].isnan() | (total <= 0), ones, weights)
            case Strategy.ORACLE:
                gamma = torch.where(known["decisions"] > 0, rule.gamma_amp, ones)
            case Strategy.COUPLED:
                gamma = ones + rule.amount * coupled_shares(rule, known["waad"], known["fai"], real)
            case Strategy.MATCHED_RANDOM:
                shares = coupled_shares(rule, known["waad"], known["fai"], real)
                tenths = torch.where(known["fai"].isnan(), TENTHS, tenths_of(real))
                gamma = ones + rule.amount * exchanged(shares, tenths, known["noise"])
            case Strategy.BOTTOM:
                gamma = ones + rule.amount * coupled_shares(_turned(rule), known["waad"], known["fai"], real)
            case Strategy.MASK:
                shares = coupled_shares(rule, known["waad"], known["fai"], real)
                kept = (shares > 0) | ~real | ~(shares > 0).any(1, keepdim=True)
                gamma = torch.where(kept, ones + rule.amount * shares, 0)
            case _:
                (signal,) = known.values()
                signal = waad_change(signal) if rule.strategy == Strategy.LOCAL_CHUNK else signal
                gamma = torch.where(chosen(signal, real, rule.q, rule.end), rule.gamma_amp, ones)
        return _scaled(rule, gamma, real)


def _scaled(rule: CreditRule, gamma: Float[Tensor, "batch token"], real: Bool[Tensor, "batch token"]) -> Tensor:
    if not rule.preserve_mass:
        return gamma
    total = (gamma * real).sum(1, keepdim=True)
    return torch.where(real, gamma * real.sum(1, keepdim=True) / total.clamp(min=1e-6), torch.ones_like(gamma))


def _turned(rule: CreditRule) -> CreditRule:
    """The rule that chooses the other end."""
    return replace(rule, end=End.TOP if rule.end == End.BOTTOM else End.BOTTOM)


def _earliness(real: Bool[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    return -torch.arange(real.shape[1], device=real.device).expand(real.shape).float()


def sentence_signal(
    rule: CreditRule, known: Mapping[str, Tensor], real: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch token"]:
    """What sentences are ranked by the mean of: the higher, the sooner a sentence is credited."""
    match rule.strategy:
        case Strategy.COUPLED:
            return coupled_shares(rule, known["waad"], known["fai"], real)
        case Strategy.BOTTOM:
            return coupled_shares(_turned(rule), known["waad"], known["fai"], real)
        case Strategy.FIRST:
            signal = _earliness(real)
        case Strategy.LOCAL_CHUNK:
            signal = waad_change(known["waad"])
        case _:
            signal = known[NEEDS[rule.strategy][0]]
    return -signal if rule.end == End.BOTTOM else signal


def waad_change(waad: Float[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """delta[t] = |WAAD[t] - WAAD[t+1]|; NaN for the last token of a response. (Paper B, section 5)"""
    return torch.nn.functional.pad((waad[:, :-1] - waad[:, 1:]).abs(), (0, 1), value=torch.nan)


def chosen(
    signal: Float[Tensor, "batch token"], real: Bool[Tensor, "batch token"], q: float, end: End = End.TOP
) -> Bool[Tensor, "batch token"]:
    """The round(q x length) tokens of each response with the highest (lowest) signal, the earlier one of equals.

    Tokens without a signal are left out: where too few have one, all of those are chosen.
    """
    wanted = (q * real.sum(1) + 0.5).floor().clamp(min=1)
    known = real & ~signal.isnan()
    first = signal if end == End.BOTTOM else -signal
    order = torch.where(known, first, torch.inf).argsort(dim=1, stable=True)
    return (order.argsort(dim=1) < wanted[:, None]) & known


def coupled_shares(
    rule: CreditRule,
    waad: Float[Tensor, "batch token"],
    fai: Float[Tensor, "batch token"],
    real: Bool[Tensor, "batch token"],
) -> Float[Tensor, "batch token"]:
    """What coupled-rhythm credit adds to 1, in units of gamma_amp - 1 (Paper B, section 5).

    Anchors are the top q of FAI. An anchor t is dominated by its chunk if WAAD[t] <= tau_waad and the largest of
    delta[t-k..t-1] is >= tau_delta; the token with that change (the one nearest to t of equals) introduces it. Anchors
    get 1; a dominated one gives the share alpha of it to its introductory token. Where a token introduces
    several anchors, or is one, bonuses add up (unless `once`): the total is that of global-anchor credit.
    """
    delta = waad_change(waad)
    anchors = chosen(fai, real, rule.q, rule.end)
    # Column i: the change i + 1 tokens before, so that argmax finds the nearest of equals.
    before = torch.stack([_shifted(delta, i + 1) for i in range(rule.k)], dim=-1).nan_to_num(nan=-torch.inf)
    largest, steps = before.max(dim=-1)
    low = waad <= _quantile(waad, rule.tau_waad)
    dominated = anchors & low & (largest >= _quantile(delta, rule.tau_delta))
    own = 1.0 * anchors - rule.alpha * dominated
    given = rule.alpha * dominated
    places = (torch.arange(waad.shape[1], device=waad.device) - steps - 1).clamp(min=0)
    if rule.once:
        return own.scatter_reduce(1, places, given, reduce="amax")
    return own.scatter_add(1, places, given)


def tenths_of(real: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Which tenth of its response a token lies in, 0..9; 10 on padding."""
    places = real.long().cumsum(1) - 1
    return torch.where(real, TENTHS * places // real.sum(1, keepdim=True).clamp(min=1), TENTHS)


def exchanged(
    values: Float[Tensor, "batch token"], groups: Int[Tensor, "batch token"], noise: Float[Tensor, "batch token"]
) -> Float[Tensor, "batch token"]:
    """The values of each response, exchanged at random among tokens of the same group."""
    by_noise = noise.argsort(dim=1, stable=True)
    target = by_noise.gather(1, groups.gather(1, by_noise).argsort(dim=1, stable=True))
    source = groups.argsort(dim=1, stable=True)
    return torch.zeros_like(values).scatter(1, target, values.gather(1, source))


def _shifted(values: Float[Tensor, "batch token"], by: int) -> Float[Tensor, "batch token"]:
    """Each token gets the value of the token `by` before it; NaN at the start."""
    return torch.nn.functional.pad(values, (by, 0), value=torch.nan)[:, : values.shape[1]]


def _quantile(values: Float[Tensor, "batch token"], q: float) -> Float[Tensor, "batch 1"]:
    return values.nanquantile(q, dim=1, keepdim=True)


def token_advantages(
    advantages: Float[Tensor, " batch"], gamma: Float[Tensor, "batch token"], signs: Signs = Signs.BOTH
) -> Float[Tensor, "batch token"]:
    """Each token's advantage: its response's, times gamma where the sign is one that gamma applies to."""
    return advantages[:, None] * applied(advantages, gamma, signs)


def applied(
    advantages: Float[Tensor, " batch"], gamma: Float[Tensor, "batch token"], signs: Signs = Signs.BOTH
) -> Float[Tensor, "batch token"]:
    """Gamma where the advantage's sign is one that it applies to, else 1; without gradient."""
    advantage = advantages[:, None]
    applies = {Signs.BOTH: advantage != 0, Signs.POSITIVE: advantage > 0, Signs.NEGATIVE: advantage < 0}[signs]
    return torch.where(applies, gamma.detach(), torch.ones_like(gamma))
