"""What a column of a table is, and the columns and meanings of null that several tables share."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

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


COMMON = (
    Column("experiment", TEXT, "name of the experiment"),
    Column("model", TEXT, "name of the model's configuration"),
    Column("data", TEXT, "name of the data's configuration"),
    Column("seed", pa.int64(), "seed of the run"),
)
EXAMPLE = Column("example", TEXT, "id of the example in its data set")

NOT_MEASURED = "not measured in this experiment"
NO_DISTANCE = "the head gives other tokens less than 1 %, or not measured"
TOO_LITTLE_MASS = "the head gives the reasoning less than experiment.min_mass"
NO_TRAJECTORY = f"{TOO_LITTLE_MASS}, fewer than 8 answer tokens, or it always looks at the same place"
NO_STOP = f"no stop or no reflection word, or {TOO_LITTLE_MASS}"
NOT_APPLICABLE = "not applicable to this measurement"

LAYERS = Column("layers", TEXT, "name of the set of layers: see interp/model/layers.py")
SINKS = Column("sinks", TEXT, "`kept`, or `removed`: without attention to the first four tokens")
UNDEFINED = "NaN where undefined"
