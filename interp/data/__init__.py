"""What experiments run on: questions, given traces, the files they lie in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
