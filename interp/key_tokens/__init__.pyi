from .corruptions import Corrupted as Corrupted
from .corruptions import Corruption as Corruption
