"""Activation patching on contrast pairs, exact, and what a patch does to the answer (Paper A, section 5)."""
