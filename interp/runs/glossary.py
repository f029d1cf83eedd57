"""The words of the papers and of this suite, each explained once: pages show the explanation where the word stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Term:
    """A word, what it means, and how it occurs in sentences (regular expressions; its name does anyway)."""

    name: str
    meaning: str
    forms: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """Its id on a page."""
        return "word-" + re.sub(r"\W+", "-", self.name.lower()).strip("-")


GLOSSARY = (
    Term(
        "RFH",
        "Reasoning-Focus Head: one of the heads with the highest score, by default mass answer->reasoning "
        "minus mass answer->answer",
        (
            "RFHs",
            "Reasoning-Focus Heads?",
            "top heads",
        ),
    ),
    Term(
        "mass",
        "the share of a token's attention that goes to a segment (prompt, reasoning, answer); "
        "answer->reasoning: of answer tokens, to the reasoning; the mean over tokens",
        ("masses",),
    ),
    Term(
        "difference score",
        "mass answer->reasoning minus mass answer->answer",
        ("by difference",),
    ),
    Term(
        "log ratio",
        "the logarithm of the attention a token of the reasoning over that a token of the prompt; 0 = alike",
    ),
    Term(
        "middle third",
        "the middle third of the model's layers, where Paper A finds the RFHs",
        ("middle layers",),
    ),
    Term(
        "floor",
        "the least score with which a head counts as an induction or a retrieval head",
    ),
    Term(
        "resample of the traces",
        "the same number of traces drawn anew, some of them twice: what other traces might have given",
    ),
    Term(
        "discordant",
        "questions that are right under one condition alone: the first / the second",
    ),
    Term(
        "answer surprisal",
        "how unlikely the model still finds its own answer there",
    ),
    Term(
        "demanded",
        "the answer asked for right behind a sentence, as if the reasoning ended there",
    ),
    Term(
        "edges of attention",
        "the attention that tokens of one segment pay to tokens of another; cutting them makes it 0",
        ("cutting (?:their|its|the) edges", "edges cut", "answer->reasoning edges"),
    ),
    Term(
        "route",
        "the strongest edges between heads, MLPs and the answer, along which a change is let through alone",
    ),
    Term(
        "even head",
        "a head that would spread its attention evenly over all tokens before: what length alone gives",
    ),
    Term(
        "sets of heads",
        "as many random heads, of the same layers where these hold enough: a list of heads is compared with "
        "their distribution",
        (
            "sets of heads of (?:the same layers|any layer)",
            "random heads(?: of the same layers)?",
        ),
    ),
    Term(
        "induction head",
        "a head that looks at what followed the last occurrence of the current token",
        ("induction heads",),
    ),
    Term(
        "retrieval head",
        "a head that looks at the token that it copies, out of a long text",
        ("retrieval heads",),
    ),
    Term(
        "receiver head",
        "a head whose attention singles out a few tokens (high kurtosis of what tokens receive)",
        (
            "receiver heads",
            "receiver-FAI",
            "receiver FAI",
        ),
    ),
    Term(
        "local head",
        "one of the heads that look back least far on average (Paper B)",
        ("local heads",),
    ),
    Term(
        "global head",
        "one of the heads that look back farthest on average (Paper B)",
        ("global heads",),
    ),
    Term(
        "greedy heads",
        "heads chosen one after the other, each the one that does most beside those before",
    ),
    Term(
        "sink",
        "one of the first tokens, which heads look at when they have nothing to read",
        ("sinks",),
    ),
    Term(
        "trajectory",
        "rank correlation of the place of an answer token with the place in the reasoning that it looks at; 1"
        " = strictly forwards",
        ("trajectories",),
    ),
    Term(
        "by content",
        "with the reasoning's sentences in another order: by where its tokens are from, rather than by where "
        "they stand (by place)",
        ("by place",),
    ),
    Term(
        "reflection words",
        "words such as `wait` at which a reasoning looks back",
        ("reflection word",),
    ),
    Term(
        "needle",
        "a sentence hidden in a long text that the model is asked for",
    ),
    Term(
        "clean and corrupted run",
        "two runs with different answers; activations of the clean one are put into the corrupted one",
        (
            "clean run",
            "corrupted run",
            "clean activations",
        ),
    ),
    Term(
        "phrase",
        "a sentence at the end of the reasoning that states the answer (`Final answer is X.`); the phrase's "
        "answer: its token X",
        ("phrase's answer",),
    ),
    Term(
        "predicting token",
        "the token before the answer is written",
        ("token before the prediction",),
    ),
    Term(
        "NLD",
        "normalised logit difference: how far a patch moves the prediction from the corrupted run's answer "
        "(0) to the clean run's (1)",
    ),
    Term(
        "logit difference",
        "the answer's logit minus another's: that of the corrupted run's answer (patching), or of the "
        "likeliest other token (cut heads)",
        ("LD",),
    ),
    Term(
        "KL",
        "how far the predictions are from those of the untouched model, in nats",
        (
            r"KL\(clean \|\| cut\)",
            "KL divergence",
        ),
    ),
    Term(
        "residual stream",
        "what a layer reads, and adds to",
    ),
    Term(
        "erasing",
        "the same patch out of a pair that shares neither answer: it takes away what stood there and brings nothing",
        (
            "erasing alone",
            "unrelated pairs?",
        ),
    ),
    Term(
        "attribution",
        "a patch's effect estimated by gradients instead of patching",
    ),
    Term(
        "answer rows",
        "only while answer tokens are written; all rows: at every token",
        ("all rows",),
    ),
    Term(
        "WAAD",
        "windowed average attention distance: how far local heads look back at a token (Paper B)",
    ),
    Term(
        "FAI",
        "future attention influence: how much later tokens look at a token through global heads (Paper B); "
        "near by: only those within a window",
    ),
    Term(
        "peaks",
        "places at which a curve stands out from its neighbours",
        ("peak",),
    ),
    Term(
        "shifted in a circle",
        "one curve moved along the other and wrapped around: keeps the shape of both, breaks what belongs together",
        (
            "circular shifts",
            "shifted reflection words",
        ),
    ),
    Term(
        "Jaccard overlap",
        "words that two texts share, of all the words that they have",
    ),
    Term(
        "rollout",
        "everything behind a place written anew",
        (
            "rollouts",
            "written anew",
        ),
    ),
    Term(
        "net",
        "what another token does, minus what forcing the trace's own token does: rolling out anew alone changes text",
        ("net overlap",),
    ),
    Term(
        "position matched",
        "for each token its nearest neighbour in the text; entropy matched: the token at which the model is as unsure",
        (
            "entropy matched",
            "positions matched",
        ),
    ),
    Term(
        "sentence without content",
        "a sentence put into the reasoning that says nothing of the problem: what any change of the text does",
        ("content null",),
    ),
    Term(
        "after the filters",
        "questions with a finished, readable answer under every condition",
        ("pass all filters",),
    ),
    Term(
        "sign flips",
        "a permutation test of paired differences",
        ("random signs",),
    ),
    Term(
        "Benjamini-Hochberg",
        "a correction for testing many things at once: of what is called found, 5 % by chance",
    ),
    Term(
        "credit",
        "the factor on each token's advantage in training (Paper B); coupled: at peaks of WAAD and of FAI",
    ),
    Term(
        "GRPO",
        "group relative policy optimisation: answers to one question are rewarded relative to one another",
    ),
)


def _pattern() -> re.Pattern[str]:
    forms = [(form, i) for i, term in enumerate(GLOSSARY) for form in (re.escape(term.name), *term.forms)]
    longest = sorted(forms, key=lambda one: -len(one[0]))  # `sets of heads of the same layers` before `sets of heads`
    cased = [(f"(?i:{form})" if form[0].islower() else form, i) for form, i in longest]  # words begin sentences
    return re.compile("|".join(rf"(?P<t{i}_{n}>(?<!\w){form}(?!\w))" for n, (form, i) in enumerate(cased)))


_WORDS = _pattern()


@dataclass
class Explainer:
    """Marks terms in a page's texts. Every one tells its meaning when pointed at; the first in a section is a link to
    the glossary as well, which keys reach: one stop for each term, not one for each time that it is used."""

    met: set[str] = field(default_factory=set)

    def begin(self) -> str:
        """A new section begins."""
        self.met.clear()
        return ""

    def __call__(self, text: str) -> Markup:
        """A text as HTML: escaped, its terms marked."""
        html, end = Markup(), 0
        for found in _WORDS.finditer(text):
            assert found.lastgroup is not None
            term = GLOSSARY[int(found.lastgroup[1:].split("_")[0])]
            html += escape(text[end : found.start()]) + self._marked(term, found[0])
            end = found.end()
        return html + escape(text[end:])

    def _marked(self, term: Term, word: str) -> Markup:
        if term.name in self.met:
            return Markup('<span class="term" data-says="{}">{}</span>').format(term.meaning, word)
        self.met.add(term.name)
        link = '<a class="term" href="#{0}" aria-describedby="{0}" data-says="{1}">{2}</a>'
        return Markup(link).format(term.anchor, term.meaning, word)
