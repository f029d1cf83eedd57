"""Figures from tables: no function here sees a model, so every figure can be drawn again from a finished run."""
