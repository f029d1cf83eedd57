"""What experiments run on: questions, given traces, the files they lie in."""
