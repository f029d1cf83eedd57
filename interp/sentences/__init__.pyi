from .demands import demanded as demanded
from .suppression import Suppressed as Suppressed
from .suppression import suppressed as suppressed
