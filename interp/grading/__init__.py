"""Which answer a text gives, whether it is right, and whether reasoning made it right (Paper A, section 3)."""
