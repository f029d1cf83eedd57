"""The front door: what `import interp` offers to notebooks, without Hydra and without a run directory."""
