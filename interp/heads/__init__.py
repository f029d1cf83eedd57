"""Scores of attention heads: masses and RFHs, trajectories, known kinds of heads, rankings (Paper A, section 4)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
