"""A run's directory: tables written example by example, what their columns mean, training state, the report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
