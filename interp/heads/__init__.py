"""Scores of attention heads: masses and RFHs, trajectories, known kinds of heads, rankings (Paper A, section 4)."""
