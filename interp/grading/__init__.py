"""Which answer a text gives, whether it is right, and whether reasoning made it right (Paper A, section 3)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
