"""A run's directory: tables written example by example, what their columns mean, training state, the report."""
