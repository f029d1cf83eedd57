"""What the report says of each part: its question, what the papers found, and how their figures are called."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """One part of the report."""

    title: str
    question: str
    published: str
    """What the paper found, on its own models."""
    figures: dict[str, str]
    """Captions of figures and tables by the name of their file; further ones are shown behind these by their names."""
    beside: dict[str, str] = field(default_factory=dict)
    """What the paper published for the first headline number whose name contains the key."""


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
            "evaluate_groups": "The effect by kind and difficulty of the question; filled: q < .05.",
            "evaluate_length": "The effect by the length of the reasoning; filled: q < .05.",
            "evaluate_outcomes": "What became of all responses, before any filter.",
            "evaluate_pass_at_k": "Pass@k over several answers to each question.",
        },
        {
            "accuracy, with reasoning": ".935 (R1-Distill-Llama-8B), .943 (Qwen-7B), .895 (Qwen-1.5B), MATH-500",
            "with reasoning minus without reasoning": "+.138, +.103, +.085 (the same)",
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
        {
            "mass answer->bos, all heads": ".617 (R1-Distill-Llama-8B), .096 (Qwen-7B), .151 (Qwen-1.5B)",
            "mass answer->prompt, all heads": ".014, .138, .032 (the same)",
            "mass answer->reasoning, all heads": ".138, .294, .259",
            "mass answer->answer, all heads": ".230, .463, .545",
            "in the middle third": "Reasoning-Focus Heads in layers 8-16 of 32, 14-22 of 28, 12-20 of 28",
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
            "patch_heads": "NLD of patching each head's output at the two tokens; boxes: Reasoning-Focus Heads.",
            "patch_paths": "How much of the effect passes through the Reasoning-Focus Heads, beside random heads.",
            "patch_attribution": "First-order estimates against exact patches.",
            "patch_map_0": "NLD of every layer and position of one pair.",
        },
        {
            "(its peak)": "at layer 0 .285 (R1-Distill-Llama-8B), .420 (Qwen-7B), .359 (Qwen-1.5B), phrase 1",
            "NLD, the predicting token": ".800, .967, .883 (last layer)",
            "the predicting token rises above half": "above the first curve from layer 15 of 32, 20 of 28, 21 of 28",
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
            "rhythm_lags": "FAI and entropy around WAAD peaks; grey: shifted in a circle.",
            "rhythm_shares": "The couplings by the share of tokens that count as peaks.",
            "rhythm_types": "Which types of tokens are peaks, beside their share of all tokens.",
            "rhythm_boundaries": "WAAD peaks as detectors of boundaries; grey: peaks at random places.",
        },
        {
            "entropy at WAAD peaks": ".361 against .239, +52 % (Qwen3-4B-Base; its unit is not stated)",
            "share of receiver-FAI peaks that are FAI peaks": ".608 against .224, +171 %",
            "share of FAI peaks at or right after a WAAD peak": ".525 against .369, +42 %",
        },
    ),
    "ablate": About(
        "Do the heads matter that look at the reasoning?",
        "Heads are cut, and edges of attention from one segment to another, beside random heads of the same layers.",
        "The papers have no such experiment: attention alone does not show influence.",
        {
            "ablate_doses": "Effects by the number of heads that are cut; grey: random heads of the same layers.",
            "ablate_heads": "What cutting each head alone does to the answer's logit difference.",
            "knockout_whole": "Edges of attention between two segments cut in all heads and layers.",
            "knockout_windows": "The same cut in a window of layers, by its first layer.",
        },
    ),
    "perturb": About(
        "Do high-FAI tokens decide what follows?",
        "Other tokens are forced at positions of high and of low FAI, and everything behind them is written anew.",
        "Paper B, Table 1, 70 problems: Jaccard overlap with the original .534 at high FAI, .631 at low FAI; lower at "
        "high FAI in 87 % of the problems.",
        {
            "b_table1_perturbed": "B-Table-1. Overlap after a forced token, by group of positions.",
            "b_fig3_problems": "B-Fig-3. The same, problem by problem.",
            "perturb_predictors": "How well each score foretells the effect of a forced token, over all positions.",
        },
        {"Jaccard overlap of content words: top": ".534 against .631 (Qwen3-4B-Base, 70 problems)"},
    ),
    "key_tokens": About(
        "Do changed reasoning tokens alter the answer?",
        "Numbers, names and steps of the reasoning are changed, and the answer is written anew.",
        "Paper A patches such changes in single cases (section 5) and gives no rates.",
        {
            "key_kinds": "What becomes of the answer, by kind of change.",
            "key_places": "The share of answers that change, by where in the reasoning the change lies.",
            "key_way": "The way of a change: NLD of patching clean activations back, by layer and part of the text.",
        },
    ),
    "credit": About(
        "Does credit from the rhythm make RL better?",
        "One training with GRPO whose advantages are weighted by token, measured on held-out questions.",
        "Paper B, section 5, Countdown, Qwen3-4B-Base: GRPO 52.6, random 55.0, entropy 57.7, local-chunk 59.9, "
        "global-anchor 60.4, coupled rhythm 63.1 %.",
        {"credit_curve": "B-Fig-4. Learning curve of one training.", "credit_tokens": "Where the credit goes."},
        {"held-out accuracy after": ".526 (GRPO) to .631 (coupled rhythm), Countdown, Qwen3-4B-Base"},
    ),
}
