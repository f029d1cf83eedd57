"""The explorer: a page per run on which every token of its traces can be asked where it looks, and who looks at it."""
