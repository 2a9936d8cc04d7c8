"""Makes tables, and looks at those that it gets."""

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

import isthmus

POINT = pa.struct([("x", pa.float64()), ("name", pa.string())])
WHEN = datetime.datetime(2024, 2, 29, 12, 30, 15)
COLUMNS = {
    "n": pa.nulls(3),
    "b": pa.array([True, None, False]),
    "i8": pa.array([-1, None, 2], pa.int8()),
    "u16": pa.array([1, None, 65535], pa.uint16()),
    "i32": pa.array([-1, None, 2], pa.int32()),
    "i64": pa.array([-1, None, 2**60]),
    "u64": pa.array([1, None, 2**64 - 1], pa.uint64()),
    "f16": pa.array([np.float16(1.5), None, np.float16(-2)], pa.float16()),
    "f32": pa.array([1.5, None, -2], pa.float32()),
    "f64": pa.array([1.5, None, -2]),
    "s": pa.array(["é", None, "longer than twelve bytes"]),
    "ls": pa.array(["é", None, "longer than twelve bytes"], pa.large_string()),
    "vs": pa.array(["é", None, "longer than twelve bytes"], pa.string_view()),
    "z": pa.array([b"a\0", None, b""]),
    "w": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "day": pa.array([WHEN.date(), None, WHEN.date()]),
    "day64": pa.array([WHEN.date(), None, WHEN.date()], pa.date64()),
    "t": pa.array([WHEN.time(), None, WHEN.time()], pa.time64("us")),
    "ts": pa.array([WHEN, None, WHEN], pa.timestamp("ms", "UTC")),
    "ns": pa.array([WHEN, None, WHEN], pa.timestamp("ns")),
    "dur": pa.array([datetime.timedelta(seconds=1), None, datetime.timedelta(0)], pa.duration("ms")),
    "mdn": pa.array([(1, 2, 3), None, (4, 5, 6)], pa.month_day_nano_interval()),
    "dec": pa.array([decimal.Decimal("12.34"), None, decimal.Decimal("-0.01")], pa.decimal128(10, 2)),
    "dic": pa.array(["x", None, "y"]).dictionary_encode(),
    "l": pa.array([[1, None], None, []], pa.list_(pa.int32())),
    "ll": pa.array([["a"], None, []], pa.large_list(pa.string())),
    "fl": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2)),
    "st": pa.array([{"x": 1.5, "name": "a"}, None, {"x": None, "name": None}], POINT),
    "m": pa.array([[("a", 1), ("b", None)], None, []], pa.map_(pa.string(), pa.int32())),
}
kept = []


@isthmus.export
def typed(kind, times=1):
    """A column of each type, three rows as often as wanted."""
    return pa.table({"column": pa.concat_arrays([COLUMNS[kind]] * times)})


@isthmus.export
def is_typed(kind, table, start=0, stop=None):
    """Whether it is what `typed` gives, or a part of it."""
    table.validate(full=True)
    expected = typed(kind, 20)
    return table.schema == expected.schema and table == expected.slice(
        start, None if stop is None else stop - start
    )


@isthmus.export
def kinds():
    return list(COLUMNS)


@isthmus.export
def same(value):
    return value


@isthmus.export
def numbers(rows, chunks=1):
    """In bus memory, as numpy computes it there."""
    one = pa.table({"x": np.arange(rows, dtype="f8") * 1, "i": np.arange(rows, dtype="i4") * 1})
    return pa.concat_tables([one] * chunks)


@isthmus.export
def texts(rows):
    return pa.table({"s": [f"text {i}" for i in range(rows)]})


@isthmus.export
def frame(library):
    columns = {"city": ["Ghent", None, "Uppsala, and more"], "area": [156.25, 41.0, None]}
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library](columns)


@isthmus.export
def described(table):
    return [
        type(table).__module__,
        table.num_rows,
        table.column_names,
        [str(kind) for kind in table.schema.types],
    ]


@isthmus.export
def total(table, column):
    return sum(chunk.to_numpy().sum() for chunk in table[column].chunks)


@isthmus.export
def keep(table):
    kept.append(table)


@isthmus.export
def kept_total(column):
    return total(kept[-1], column)


@isthmus.export
def apply(function, table):
    return function(table)


@isthmus.export
def rows(count):
    for n in range(count):
        yield pa.table({"n": [n]})


@isthmus.export
def add(a, b):
    return a + b
