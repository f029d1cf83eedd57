"""A model ready for measuring: loading, self-check, structure, attention row by row, continuing a text."""
