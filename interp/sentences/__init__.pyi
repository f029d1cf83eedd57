from .demanded import demanded as demanded
from .suppressed import Suppressed as Suppressed
from .suppressed import suppressed as suppressed
