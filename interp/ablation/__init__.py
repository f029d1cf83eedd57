"""Heads cut out and attention edges removed while the model runs, and what the answer makes of it."""
