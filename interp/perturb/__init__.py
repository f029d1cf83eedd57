"""A token forced, and how far what follows changes (Paper B, Table 1)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
