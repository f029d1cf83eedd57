"""What a sentence of a reasoning does, by rule: the eight function tags of thought-anchors (Bogdan et al. 2025).

Rules look at the sentence alone, in this order; their authors asked a language model that saw the whole reasoning.
"""

from __future__ import annotations

import re
from enum import StrEnum


class SentenceRole(StrEnum):
    """thought-anchors' `function_tags`."""

    PROBLEM_SETUP = "problem_setup"
    PLAN_GENERATION = "plan_generation"
    FACT_RETRIEVAL = "fact_retrieval"
    ACTIVE_COMPUTATION = "active_computation"
    UNCERTAINTY_MANAGEMENT = "uncertainty_management"
    RESULT_CONSOLIDATION = "result_consolidation"
    SELF_CHECKING = "self_checking"
    FINAL_ANSWER_EMISSION = "final_answer_emission"


MEANINGS = {
    SentenceRole.PROBLEM_SETUP: "reads or restates the problem",
    SentenceRole.PLAN_GENERATION: "says what to do next, without doing it",
    SentenceRole.FACT_RETRIEVAL: "recalls a fact, formula or detail without working anything out",
    SentenceRole.ACTIVE_COMPUTATION: "works something out",
    SentenceRole.UNCERTAINTY_MANAGEMENT: "doubts, wonders, goes back",
    SentenceRole.RESULT_CONSOLIDATION: "sums up what has been found",
    SentenceRole.SELF_CHECKING: "verifies an earlier step",
    SentenceRole.FINAL_ANSWER_EMISSION: "gives the answer",
}
"""As one who is asked is told them."""
_NO_RESULT = r"\b(?!.*=)"
_RULES: tuple[tuple[SentenceRole, tuple[str, ...]], ...] = (
    (
        SentenceRole.FINAL_ANSWER_EMISSION,
        (r"\\boxed", r"\bfinal answer\b", r"\banswer\b\W{0,4}(?:is|:)", r"^\W*answer\b", r"\bi(?:'d| would) answer\b"),
    ),
    (
        SentenceRole.SELF_CHECKING,
        (
            r"\b(?:re-?)?(?:check|verify|verified|verifying)",
            r"\bto be sure\b",
            r"\bplug(?:ging)? (?:it |this |that )?back\b",
            r"\bsanity\b",
            r"\btest(?:ing)? (?:a|this|with|it)\b",
            r"\b(?:correct|matches|agrees|fits|holds)\b",
            r"^yes\b",
        ),
    ),
    (
        SentenceRole.UNCERTAINTY_MANAGEMENT,
        (
            r"^\W*(?:(?:actually|but|oh|no),? )*(?:wait|hmm+|hold on)\b",
            r"\b(?:not sure|i'm stuck|confus|unclear|misread|mistake|odd)",
            r"\bmaybe\b",
            r"\bperhaps\b.*\?",
            r"\?\W*$",
            r"\.\.\.\W*$",
            r"\bdoesn't help\b",
        ),
    ),
    (
        SentenceRole.PLAN_GENERATION,
        (
            rf"^\W*(?:alternatively|first|next|step \d+|perhaps){_NO_RESULT}",
            rf"\b(?:let me|let's|let us|i'll|i will|i could|i can|i should|we could|we can){_NO_RESULT}",
            rf"\b(?:one way|another way|best way|the best approach|i need to find a|try){_NO_RESULT}",
        ),
    ),
    (
        SentenceRole.PROBLEM_SETUP,
        (
            r"\b(?:i need to|i have to|we need(?! at)|we are asked|we are given|given:)",
            r"\b(?:the question|the problem (?:says|asks|is)|rereading|looking at|it says|asked|asks)\b",
            r"\b(?:what is|how (?:many|much|far)|what do we know|let [a-z] be)\b",
        ),
    ),
    (
        SentenceRole.RESULT_CONSOLIDATION,
        (
            r"^\W*(?:(?:ok|okay|right|great|good|yes),? )?"
            r"(?:so|thus|therefore|hence|in summary|to sum up|overall|in conclusion|that leaves|great|good)\b"
            r"(?!.*\d\s*[-+*/^]\s*\d.*=)",
        ),
    ),
    (
        SentenceRole.ACTIVE_COMPUTATION,
        (
            r"=|≡|≈",
            r"\d\s*[-+*/^<>]\s*\d",
            r"\b(?:gives|that makes|adding|we get|multiply|multiplying)\b",
            r"\bsubtract",
        ),
    ),
    (
        SentenceRole.FACT_RETRIEVAL,
        (
            r"\b(?:recall|remember|known|by definition|formula|theorem|rule|property|identity|sequence)\b",
            r"\b(?:always|every|least common)\b",
        ),
    ),
)
_COMPILED = [(role, re.compile("|".join(patterns), re.IGNORECASE)) for role, patterns in _RULES]


def sentence_role(text: str, place: float) -> SentenceRole:
    """The role of a sentence; `place`: where it stands in the reasoning, 0 = first, 1 = last. What no rule knows is
    problem setup in the first fifth, else fact retrieval; a last sentence that sums up or that no rule knows
    answers."""
    found = next((role for role, pattern in _COMPILED if pattern.search(text.strip())), None)
    if place == 1 and found in (None, SentenceRole.RESULT_CONSOLIDATION):
        return SentenceRole.FINAL_ANSWER_EMISSION
    return found or (SentenceRole.PROBLEM_SETUP if place < 0.2 else SentenceRole.FACT_RETRIEVAL)
