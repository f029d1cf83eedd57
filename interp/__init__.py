"""Measures and interventions that show how a reasoning model's thoughts cause its answer.

    import interp

    lens = interp.load("reasoner")
    trace = interp.answer(lens, "B A + 3. K 9. C B - 2. A 5. Say B, K, then find C.")
    interp.measure_heads(lens, trace).plot()

Everything is loaded when it is first used; importing changes no setting of any library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
