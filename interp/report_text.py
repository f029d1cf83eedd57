"""What the report says of each part: its question, what the papers found, and how their figures are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """One part of the report."""

    title: str
    question: str
    published: str
    """What the paper found, on its own models."""
    figures: dict[str, str]
    """Captions of figures and tables by the name of their file; others are shown behind them."""


ABOUT: dict[str, About] = {
    "evaluate": About(
        "Does reasoning improve the answer?",
        "Each question is answered with the think tag opened and with a short finished thought in its place.",
        "Paper A, section 3, MATH-500, with and without reasoning: R1-Distill-Llama-8B 93.5 and 79.7 %, Qwen-7B 94.3 "
        "and 84.0 %, Qwen-1.5B 89.5 and 81.0 %, all p < .05.",
        {
            "a_fig1_accuracy": "A-Fig-1. Accuracy with and without reasoning.",
            "a_table2_filters": "A-Table-2. How many answers each filter leaves.",
            "a_table3_effect": "A-Table-3. The paired effect of reasoning.",
        },
    ),
    "heads": About(
        "Where do answers look?",
        "The attention of answer tokens to each segment, the heads that look at the reasoning most (Reasoning-Focus "
        "Heads), whether they move through it, and whether other known kinds of heads are the same.",
        "Paper A, section 4: mean answer->reasoning mass .138 (R1-Distill-Llama-8B), .294 (Qwen-7B), .259 (Qwen-1.5B); "
        "Reasoning-Focus Heads lie in middle layers and overlap little with induction and retrieval heads.",
        {
            "a_fig2_segment_masses": "A-Fig-2. Attention of answer tokens to each segment.",
            "a_fig3_head_masses": "A-Fig-3. The same for each head; boxes: top heads, marks: induction and retrieval.",
            "a_fig3_layers": "A-Fig-3, by layer. In which layers the top heads lie.",
            "a_fig3_stability": "A-Fig-3, stability. What of the ranking other traces would keep.",
            "a_fig3_overlaps": "A-Fig-3, overlaps between lists of heads.",
            "a_fig4_maps": "A-Fig-4. Maps of a top head.",
            "a_fig5_tokens": "A-Fig-5. Where chosen answer tokens look.",
        },
    ),
    "patching": About(
        "Does the answer come from the reasoning?",
        "Activations of a clean run are put into a corrupted one, position by position and layer by layer. NLD is 0 "
        "where nothing changes and 1 where the answer becomes the clean one.",
        "Paper A, section 5: NLD .285 to .509 at the answer in the reasoning (layer 0), .800 to .967 at the predicting "
        "token (last layer); the second curve rises where the first falls, after half to three quarters of the layers.",
        {
            "a_fig6_pair": "A-Fig-6. An aligned pair.",
            "a_fig7_case": "A-Fig-7. NLD by layer and token of one pair.",
            "a_fig8_hand_over": "A-Fig-8. The hand-over from the reasoning to the answer.",
        },
    ),
    "rhythm": About(
        "Do models preplan and anchor?",
        "WAAD (how far local heads look back) and FAI (how much later tokens look at a token), their peaks, and "
        "whether these go together with entropy, with receiver heads, and with each other.",
        "Paper B, section 4.2, Qwen3-4B-Base: entropy +52 % at WAAD peaks, receiver peaks at FAI peaks +171 %, FAI "
        "peaks at or right after WAAD peaks +42 %.",
        {
            "b_fig2_curves": "B-Fig-2, right. WAAD, FAI and entropy along a response.",
            "b_fig2_maps": "B-Fig-2, left. Mean maps of local and global heads.",
            "b_table2_couplings": "B-Table-2. The three couplings with their null models.",
            "b_table10_layers": "B-Table-10. The couplings by layers.",
        },
    ),
    "ablate": About(
        "Do the heads matter that look at the reasoning?",
        "Heads are cut, and edges of attention from one segment to another, beside random heads of the same layers.",
        "The papers have no such experiment: attention alone does not show influence.",
        {},
    ),
    "perturb": About(
        "Do high-FAI tokens decide what follows?",
        "Other tokens are forced at positions of high and of low FAI, and everything behind them is written anew.",
        "Paper B, Table 1, 70 problems: Jaccard overlap with the original .534 at high FAI, .631 at low FAI; lower at "
        "high FAI in 87 % of the problems.",
        {
            "b_table1_perturbed": "B-Table-1. Overlap after a forced token, by group of positions.",
            "b_fig3_problems": "B-Fig-3. The same, problem by problem.",
        },
    ),
    "key_tokens": About(
        "Do changed reasoning tokens alter the answer?",
        "Numbers, names and steps of the reasoning are changed, and the answer is written anew.",
        "Paper A patches such changes in single cases (section 5) and gives no rates.",
        {},
    ),
    "credit": About(
        "Does credit from the rhythm make RL better?",
        "One training with GRPO whose advantages are weighted by token, measured on held-out questions.",
        "Paper B, section 5, Countdown, Qwen3-4B-Base: GRPO 52.6, random 55.0, entropy 57.7, local-chunk 59.9, "
        "global-anchor 60.4, coupled rhythm 63.1 %.",
        {"credit_curve": "B-Fig-4. Learning curve of one training.", "credit_tokens": "Where the credit goes."},
    ),
}
