"""A model ready for measuring: loading, self-check, structure, attention row by row, continuing a text."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
