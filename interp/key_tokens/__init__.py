"""Single changes of the reasoning, and whether the answer follows them (Paper A, section 5)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
