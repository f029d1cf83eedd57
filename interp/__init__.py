"""Measures and interventions that show how a reasoning model's thoughts cause its answer.

    import interp

    lens = interp.load("reasoner")
    trace = interp.answer(lens, "V 15. K J - 3. J M + 2. X 9. R 2. L 20. H 13. M 5. Say R, H, J, then find K.")
    interp.measure_heads(lens, trace).plot()

Everything is loaded when it is first used; importing changes no setting of any library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
