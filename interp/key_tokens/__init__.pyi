from .corruptions import Corrupted as Corrupted
from .corruptions import Corruption as Corruption
from .corruptions import corruptions as corruptions
