"""A token forced, and how far what follows changes (Paper B, Table 1)."""
