"""Heads cut out and attention edges removed while the model runs, and what the answer makes of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
