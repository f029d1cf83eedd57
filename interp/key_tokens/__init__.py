"""Single changes of the reasoning, and whether the answer follows them (Paper A, section 5)."""
