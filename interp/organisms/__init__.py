"""Small models of known make: hand-set or trained here."""
