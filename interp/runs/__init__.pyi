from .headlines import Findings as Findings
from .headlines import Headline as Headline
from .load import Runs as Runs
from .load import load as load
from .store import RunStore as RunStore
from .store import read_table as read_table
from .store import tables_of as tables_of
