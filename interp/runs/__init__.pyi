from .finished import Runs as Runs
from .finished import load as load
from .headlines import Findings as Findings
from .headlines import Headline as Headline
from .store import RunStore as RunStore
from .store import read_table as read_table
from .store import tables_of as tables_of
