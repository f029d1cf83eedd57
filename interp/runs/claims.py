"""The claims of both papers with the numbers that were published for them.

A: From Reasoning to Answer (arXiv 2509.23676). B: Attention Illuminates LLM Reasoning (arXiv 2510.13554).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What a paper says, where, and with which numbers."""

    text: str
    place: str
    published: str
    experiment: str
    """The experiment that decides it."""
    brief: str
    """The text in at most 34 characters, for a screen."""


CLAIMS: dict[str, Claim] = {
    "A1": Claim(
        "Reasoning improves the answers",
        "Paper A, section 3, Tables 2-3",
        "MATH-500, with / without: 93.5 / 79.7 %, 94.3 / 84.0 %, 89.5 / 81.0 %, 96.1 / 90.6 %",
        "evaluate",
        "reasoning improves the answers",
    ),
    "A2": Claim(
        "Answer tokens look at the reasoning more than at the prompt, also token by token",
        "Paper A, section 4.1, Fig. 2",
        "mass .138 / .014 (Llama-8B), .294 / .138 (Qwen-7B), .259 / .032 (Qwen-1.5B); none a token",
        "heads",
        "answers look at the reasoning",
    ),
    "A3": Claim(
        "A few heads focus on the reasoning: more than other heads of their layers, on traces that did not choose them",
        "Paper A, section 4.2, Fig. 3",
        "top masses .83 to .91; no control",
        "heads",
        "a few heads focus on the reasoning",
    ),
    "A3.middle": Claim(
        "Reasoning-Focus Heads lie in the middle layers",
        "Paper A, section 4.2, Fig. 3",
        "6, 7 and 5 of the ten listed lie in the middle third (Llama-8B, Qwen-7B, Qwen-1.5B); p ours: .17, .03, .37",
        "heads",
        "such heads lie in middle layers",
    ),
    "A3.induction": Claim(
        "Reasoning-Focus Heads are hardly ever induction heads",
        "Paper A, section 4.2, Fig. 3",
        "little overlap, no number",
        "heads",
        "they are no induction heads",
    ),
    "A3.retrieval": Claim(
        "Reasoning-Focus Heads are hardly ever retrieval heads",
        "Paper A, section 4.2, Fig. 3",
        "little overlap, no number",
        "heads",
        "they are no retrieval heads",
    ),
    "A4": Claim(
        "Reasoning-Focus Heads walk along the reasoning as the answer goes on",
        "Paper A, section 4.2, Fig. 4",
        "shown on three traces",
        "heads",
        "they walk along the reasoning",
    ),
    "A4.stops": Claim(
        "They stop at reflection words",
        "Paper A, section 4.2, Fig. 4",
        "shown on three traces",
        "heads",
        "they stop at reflection words",
    ),
    "A5": Claim(
        "The answer stated in the reasoning carries over: its activations, patched in, move the prediction",
        "Paper A, section 5, Figs. 7-8",
        "NLD at layer 0, phrase 1 / 2: .285 / .372, .420 / .467, .359 / .509",
        "patching",
        "the stated answer carries over",
    ),
    "A5.last": Claim(
        "In the last layers the token before the answer carries it",
        "Paper A, section 5, Fig. 8",
        "NLD at the last layer, phrase 1 / 2: .800 / .821, .967 / .933, .883 / .919",
        "patching",
        "the last token carries it at last",
    ),
    "A5.reasoning": Claim(
        "The stated answer has more effect than other places of the reasoning",
        "Paper A, section 5, Figs. 7-8",
        "shown for one case",
        "patching",
        "it does more than other places",
    ),
    "A6": Claim(
        "Reasoning-Focus Heads carry the answer: cutting them hurts more than cutting other heads of their layers",
        "Paper A, sections 4-5 (implied)",
        "not measured",
        "ablate",
        "cutting such heads hurts more",
    ),
    "A6.edges": Claim(
        "What they read in the reasoning carries the answer: cutting only that hurts more than in other heads",
        "Paper A, sections 4-5 (implied)",
        "not measured",
        "ablate",
        "cutting what they read hurts more",
    ),
    "A7": Claim(
        "A changed token of the reasoning changes the answer more than a harmless change of the same traces",
        "Paper A, abstract, section 5",
        "single cases",
        "key_tokens",
        "changed tokens change the answer",
    ),
    "B1": Claim(
        "WAAD peaks lie where sentences begin, more than peaks of random heads of the same layers",
        "Paper B, section 4.1",
        "shown on one trace",
        "rhythm",
        "WAAD peaks begin sentences",
    ),
    "B2": Claim(
        "Entropy is higher at WAAD peaks, more than at those of random heads of the same layers",
        "Paper B, Table 2 (1)",
        ".361 / .239, +52 %",
        "rhythm",
        "entropy is higher at WAAD peaks",
    ),
    "B3": Claim(
        "Receiver heads' peaks are FAI peaks, more than those of random heads of the same layers",
        "Paper B, Table 2 (2)",
        "60.8 / 22.4 %, +171 %",
        "rhythm",
        "receiver peaks are FAI peaks",
    ),
    "B4": Claim(
        "FAI peaks stand at or right after WAAD peaks, more than those of random heads of the same layers",
        "Paper B, Table 2 (3)",
        "52.5 / 36.9 %, +42 %",
        "rhythm",
        "FAI peaks follow WAAD peaks",
    ),
    "B5": Claim(
        "Another token at a place of high FAI changes what follows more than at one of low FAI, of the same position, "
        "and of the same entropy",
        "Paper B, Table 1; the matched controls are ours",
        "Jaccard overlap .534 at high, .631 at low FAI, 70 problems",
        "perturb",
        "high-FAI tokens change more",
    ),
    "B6": Claim(
        "Coupled credit trains better than plain GRPO",
        "Paper B, section 5",
        "Countdown 63.1 against 52.6 %",
        "credit",
        "coupled credit beats GRPO",
    ),
    "B6.random": Claim(
        "Coupled credit trains better than credit at random tokens",
        "Paper B, section 5",
        "Countdown 63.1 against 55.0 %",
        "credit",
        "coupled credit beats random",
    ),
    "B6.bottom": Claim(
        "Credit at the lowest values harms",
        "Paper B, section 5",
        "math average 32.5 against 39.4 (GRPO); credit at the highest values 43.2",
        "credit",
        "credit at the bottom harms",
    ),
}  # fmt: skip
