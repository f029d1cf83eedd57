"""Text becomes a trace: one token sequence, cut into segments by the think markers; prompts, and kinds of tokens."""
