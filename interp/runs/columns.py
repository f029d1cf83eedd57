"""What a column of a table is, and the columns and meanings of null that several tables share."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import walk_packages

import pyarrow as pa

import interp
from interp.stats import FEWEST

TEXT, INT, FLOAT, BOOL = pa.string(), pa.int32(), pa.float64(), pa.bool_()
IDS = pa.list_(pa.int32())
SPANS = pa.list_(pa.struct([("segment", TEXT), ("start", INT), ("end", INT)]))


@dataclass(frozen=True)
class Column:
    """`null` says what null means; a column without it is never null."""

    name: str
    type: pa.DataType
    meaning: str
    null: str = ""


def ends(prefix: str, of: str, null: str = "") -> tuple[Column, Column]:
    """The columns `prefix`low and `prefix`high: the ends of an interval."""
    low, high = f"lower end of {of}", "upper end of it"
    return Column(f"{prefix}low", FLOAT, low, null), Column(f"{prefix}high", FLOAT, high, null)


@dataclass(frozen=True)
class Table:
    """A table of a run, declared beside the code that makes its rows. Declaring it makes its name known."""

    name: str
    columns: tuple[Column, ...]

    def __init__(self, name: str, *columns: Column) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "columns", columns)
        TABLES[name] = self

    @property
    def schema(self) -> pa.Schema:
        """Its own columns, then the common ones."""
        return pa.schema([pa.field(c.name, c.type) for c in (*self.columns, *COMMON)])


TABLES: dict[str, Table] = {}
"""All tables that are declared in the modules imported so far, by name."""


NEEDS_MORE = ("interp.model.vllm", "interp.grading.worker")
"""Modules that need optional packages, or are programs."""


def declared() -> dict[str, Table]:
    """Every table that a module of `interp` declares, by name."""
    for module in walk_packages(interp.__path__, "interp."):
        if module.name not in NEEDS_MORE:
            import_module(module.name)
    return dict(sorted(TABLES.items()))


def table_of(name: str) -> Table:
    """A declared table. Raises ValueError for a name that no module of `interp` declares."""
    # Whoever writes rows need not have imported the module that declares their table.
    if name not in TABLES and name not in declared():
        raise ValueError(f"no table {name} is declared: see interp/runs/columns.py")
    return TABLES[name]


COMMON = (
    Column("experiment", TEXT, "name of the experiment"),
    Column("model", TEXT, "name of the model's configuration; of random weights NAME-untrained-SEED"),
    Column("data", TEXT, "name of the data's configuration; of texts in random order NAME-scrambled-SEED"),
    Column("seed", pa.int64(), "seed of the run"),
)
EXAMPLE = Column("example", TEXT, "id of the example in its data set")

NOT_MEASURED = "not measured in this experiment"
NO_DISTANCE = "the head gives other tokens less than 1 %, or not measured"
TOO_LITTLE_MASS = "the head gives the reasoning less than experiment.min_mass"
NO_TRAJECTORY = f"{TOO_LITTLE_MASS}, fewer than 8 answer tokens, or it always looks at the same place"
NO_STOP = f"no stop or no reflection word, or {TOO_LITTLE_MASS}"
NO_INTERVAL = f"n < {FEWEST}, or all values are equal"
"""Where `interp.stats.bootstrap_mean` has none."""
NOT_APPLICABLE = "not applicable to this measurement"

LAYERS = Column("layers", TEXT, "name of the set of layers: see interp/model/layers.py")
SINKS = Column("sinks", TEXT, "`kept`, or `removed`: without attention to the first four tokens")
UNDEFINED = "NaN where undefined"

NO_EFFECT = (
    "undefined, such as a normalised effect over a zero difference, or `flipped` of a token that was not the likeliest"
)
EFFECTS_TABLE = Table(
    "effects",
    EXAMPLE,
    Column("intervention", TEXT, "verb_site, such as `patch_resid_pre` or `ablate_head_mean`"),
    Column("layer", INT, "layer, from 0", null=NOT_APPLICABLE),
    Column("head", INT, "head, from 0", null=NOT_APPLICABLE),
    Column("position", INT, "first position in the whole sequence, from 0", null=NOT_APPLICABLE),
    Column("position_end", INT, "position after the last one", null=NOT_APPLICABLE),
    Column("segment", TEXT, "segment of the position", null=NOT_APPLICABLE),
    Column("token", TEXT, "text of the token at the position", null=NOT_APPLICABLE),
    Column(
        "role",
        TEXT,
        "a position in a contrast pair (`Role`), or where words of an answer are from (`AnswerRole`)",
        null="none of those",
    ),
    Column("heads_kind", TEXT, "which list the heads were taken from", null="not a list of heads"),
    Column("n_heads", INT, "how many heads, from the top of that list", null="not a list of heads"),
    Column("rows", TEXT, "`answer` or `all`: at which queries heads were cut", null=NOT_APPLICABLE),
    Column("layer_end", INT, "layer after the last one", null="one layer, or all"),
    Column("draw", INT, "number of the random draw or of the forced candidate, from 0", null="there is one"),
    Column("forced", TEXT, "text of the forced token", null=NOT_APPLICABLE),
    Column("metric", TEXT, "what was measured, such as `nld`, `ld`, `kl`, `flipped`, `jaccard`"),
    Column("clean", FLOAT, "the metric in the clean run", null=NOT_APPLICABLE),
    Column("corrupted", FLOAT, "the metric in the corrupted run", null=NOT_APPLICABLE),
    Column("patched", FLOAT, "the metric in the run with the intervention", null=NOT_APPLICABLE),
    Column("value", FLOAT, "the effect", null=NO_EFFECT),
    Column("control", TEXT, "kind of control", null="the measurement itself"),
)
"""Causal effects, one row per measurement, whatever intervened and whatever was measured."""
