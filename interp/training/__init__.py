"""Training of the default model, and what it can do."""
