"""Contrast pairs: two questions that differ in one place, with different one-token answers (Paper A, section 5)."""
