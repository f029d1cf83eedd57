"""Which sentences of a reasoning carry the answer: three causal measures beside what is cheap to see."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
