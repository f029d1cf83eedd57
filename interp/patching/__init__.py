"""Activation patching on contrast pairs, exact, and what a patch does to the answer (Paper A, section 5)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
