"""Text becomes a trace: one token sequence, cut into segments by the think markers; prompts, and kinds of tokens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
