"""The rhythm as per-token credit in GRPO (Paper B, section 5)."""
