"""Measures and interventions that show how a reasoning model's thoughts cause its answer. Usable without Hydra."""
