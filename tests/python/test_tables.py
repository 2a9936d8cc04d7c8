"""Tables of pyarrow, pandas and polars cross as Arrow: shared where they lie in the bus, else copied once."""

import datetime
import decimal
import gc
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import isthmus

DAY = datetime.date(2024, 2, 29)
NOON = datetime.time(12, 30, 15, 250_000)
THEN = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000)
HOUR = datetime.timedelta(hours=1)
POINT = pa.struct([("x", pa.float64()), ("name", pa.string())])
POINTS = [{"x": 1.5, "name": "a"}, None, {"x": None, "name": None}]

# Of each type, values that it holds.
COLUMNS = [
    *((kind, [1, None, 0]) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((kind, [200, None, 0]) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    *((kind, [1.5, None, -2.0]) for kind in (pa.float16(), pa.float32(), pa.float64())),
    (pa.bool_(), [True, None, False]),
    (pa.null(), [None, None, None]),
    *((kind, ["é", None, "longer than twelve bytes"]) for kind in (pa.string(), pa.large_string())),
    (pa.string_view(), ["é", None, "longer than twelve bytes"]),
    *((kind, [b"a\0b", None, b""]) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), [b"abc", None, b"def"]),
    *((kind, [DAY, None, DAY]) for kind in (pa.date32(), pa.date64())),
    *((kind, [NOON, None, NOON]) for kind in (pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
    (pa.time32("s"), [NOON.replace(microsecond=0), None, NOON.replace(microsecond=0)]),
    *((pa.timestamp(unit), [THEN, None, THEN]) for unit in ("ms", "us", "ns")),
    (pa.timestamp("s", "Europe/Lisbon"), [THEN.replace(microsecond=0), None, THEN.replace(microsecond=0)]),
    *((pa.duration(unit), [HOUR, None, HOUR]) for unit in ("s", "ms", "us", "ns")),
    (pa.month_day_nano_interval(), [(1, 2, 3), None, (4, 5, 6)]),
    (pa.decimal128(10, 2), [decimal.Decimal("12.34"), None, decimal.Decimal("-0.01")]),
    (pa.decimal256(50, 3), [decimal.Decimal("12.345"), None, decimal.Decimal("-0.001")]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b"]),
    *((kind(pa.int32()), [[1, None], None, []]) for kind in (pa.list_, pa.large_list)),
    (pa.list_(pa.int16(), 2), [[1, 2], None, [3, None]]),
    (POINT, POINTS),
    (pa.list_(POINT), [POINTS, None, []]),
    (pa.map_(pa.string(), pa.int32()), [[("a", 1), ("b", None)], None, []]),
    (
        pa.struct([("deep", pa.list_(pa.list_(pa.string())))]),
        [{"deep": [["a"], [], None]}, None, {"deep": []}],
    ),
]


def copied(bus):
    """What this peer and its host have copied so far, in bytes."""
    stats = bus.stats()
    return stats["self"]["bytes_copied"] + stats["host"]["bytes_copied"]


def held(bus):
    """How many blocks of others this peer holds."""
    stats = bus.stats()["self"]
    return stats["leases_taken"] - stats["leases_released"]


@pytest.mark.parametrize(("kind", "values"), COLUMNS, ids=lambda each: str(each)[:40])
@pytest.mark.parametrize("rows", [3, 3000])
def test_a_column_of_each_type_comes_back_as_it_was(echo, kind, values, rows):
    table = pa.table({"column": pa.array(values * (rows // 3), kind)})
    back = echo.call("echo", table)
    back.validate(full=True)
    assert back == table
    assert back.schema == table.schema


@pytest.mark.parametrize(("kind", "values"), COLUMNS, ids=lambda each: str(each)[:40])
def test_a_part_of_a_table_comes_back_as_it_was(echo, kind, values):
    table = pa.table({"column": pa.array(values * 20, kind), "other": pa.array(range(60))})
    for offset, length in [(0, 60), (1, 7), (9, 40), (16, 20), (59, 1), (30, 0)]:
        part = table.slice(offset, length)
        back = echo.call("echo", part)
        back.validate(full=True)
        assert back == part
        # What is received has offsets of its own.
        assert echo.call("echo", back.slice(1)) == part.slice(1)


def test_chunks_metadata_and_empty_tables_stay_what_they_were(echo):
    chunks = pa.table({"x": pa.chunked_array([[1, 2], [], [3]]), "s": pa.chunked_array([["a"], ["b", None]])})
    told = chunks.replace_schema_metadata({"about": "é", b"raw": b"\xff\0"})
    named = pa.table([[1]], schema=pa.schema([pa.field("no name ", pa.int8(), False, {"unit": "m"})]))
    for table in (chunks, told, named, chunks.schema.empty_table(), pa.table({}), chunks.slice(3)):
        back = echo.call("echo", table)
        assert back.equals(table, check_metadata=True)
        assert back.num_rows == table.num_rows


def test_tables_of_other_libraries_arrive_as_pyarrow_tables(echo):
    columns = {"city": ["Ghent", None, "Uppsala, and more"], "area": [156.25, 41.0, None]}
    frame = pl.DataFrame(columns)
    assert echo.call("echo", frame).to_pydict() == columns
    assert pl.from_arrow(echo.call("echo", frame)).equals(frame)
    frame = pd.DataFrame({"city": ["a", "b"], "n": [1, 2]}, index=pd.Index([5, 6], name="id"))
    pd.testing.assert_frame_equal(echo.call("echo", frame).to_pandas(), frame)
    batch = pa.record_batch({"n": [1, 2]})
    assert echo.call("echo", batch) == pa.table({"n": [1, 2]})
    reader = pa.RecordBatchReader.from_batches(batch.schema, [batch, batch])
    assert echo.call("echo", reader).num_rows == 4
    assert echo.call("see", batch).startswith("pyarrow.lib.Table ")


def test_a_table_travels_inside_of_other_values(echo):
    table = pa.table({"n": [1, 2]})
    back = echo.call("echo", {"tables": [table, table], "more": 1})
    assert back == {"tables": [table, table], "more": 1}


def test_a_column_alone_is_lent(echo):
    for column in (pa.array([1, 2]), pa.chunked_array([[1]]), pd.Series([1, 2]), pl.Series([1])):
        assert echo.call("echo", column) is column


def test_buffers_are_copied_once_and_those_in_the_bus_never(echo):
    rows = 100_000
    texts = [f"text {i}" for i in range(rows)]
    table = pa.table({"x": np.arange(rows, dtype="f8"), "s": texts})
    before = copied(echo)
    first = echo.call("echo", table)
    assert copied(echo) - before == 8 * rows + 4 * (rows + 1) + sum(map(len, texts))
    before = copied(echo)
    again = echo.call("echo", first)
    assert copied(echo) == before
    assert again == table


def test_a_part_of_a_table_takes_no_more_along_than_itself(echo):
    table = pa.table({"s": [f"{i:0100d}" for i in range(100_000)], "l": [[i] * 10 for i in range(100_000)]})
    before = copied(echo)
    part = table.slice(50_003, 1000)
    assert echo.call("echo", part) == part
    assert copied(echo) - before < 1.1 * part.nbytes


def test_numpy_arrays_in_the_bus_are_columns_without_a_copy(echo):
    x = isthmus.empty(50_000)
    x[:] = 1.5
    before = copied(echo)
    back = echo.call("echo", pa.table({"x": pa.array(x)}))
    assert copied(echo) == before
    assert back["x"].to_numpy().sum() == 75_000


def test_memory_comes_back_when_the_last_column_is_dropped(echo, until):
    until(lambda: held(echo) == 0)
    back = echo.call("echo", pa.table({"x": np.arange(10_000), "y": np.arange(10_000)}))
    column = back["x"]
    del back
    gc.collect()
    assert held(echo) > 0
    assert column[9999].as_py() == 9999
    del column
    until(lambda: held(echo) == 0)


def test_a_table_that_is_kept_outlives_the_bus(serve, name):
    served = serve(
        """
        import isthmus, numpy, pyarrow

        @isthmus.export
        def table():
            return pyarrow.table({"x": numpy.arange(50_000) * 2, "s": ["text"] * 50_000})
        """
    ).ready()
    with isthmus.connect(name) as bus:
        table = bus.call("table")
    served.end()
    table.validate(full=True)
    assert table["x"].to_numpy().sum() == 49_999 * 50_000
    assert table["s"][49_999].as_py() == "text"
    del table
    gc.collect()


def test_what_pandas_and_pyarrow_compute_with_numpy_is_not_copied(serve, name):
    serve(
        """
        import isthmus, numpy, pandas, pyarrow

        @isthmus.export
        def make(library):
            x = numpy.arange(50_000) * 1.5
            columns = {"x": x, "y": x.astype("i4")}
            return pandas.DataFrame(columns) if library == "pandas" else pyarrow.table(columns)
        """
    ).ready()
    with isthmus.connect(name) as bus:
        for library in ("pandas", "pyarrow"):
            assert bus.call("make", library)["x"][49_999].as_py() == 49_999 * 1.5
            assert copied(bus) == 0


def test_a_stream_of_rows_that_somebody_has_taken_is_refused(echo):
    class Taken:
        columns = ("x",)

        def __init__(self):
            self.capsule = pa.table({"x": [1]}).__arrow_c_stream__()
            pa.RecordBatchReader._import_from_c_capsule(self.capsule)

        def __arrow_c_stream__(self, schema=None):
            return self.capsule

    with pytest.raises(isthmus.EncodeError, match="taken by somebody else already"):
        echo.call("echo", Taken())


def test_thousands_of_tables_leave_nothing_behind(echo, until):
    table = pa.table({"x": np.arange(1000), "s": ["a", "bcd"] * 500})
    for calls in (200, 2000):
        blocks, arrow = sys.getallocatedblocks(), pa.total_allocated_bytes()
        for _ in range(calls):
            assert echo.call("echo", table).num_rows == 1000
        gc.collect()
    until(lambda: held(echo) == 0)
    assert sys.getallocatedblocks() - blocks < 300
    assert pa.total_allocated_bytes() == arrow


def test_what_has_no_counterpart_is_an_error_with_its_column(echo):
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    table = pa.table({"fine": [1], "odd one": pa.StructArray.from_arrays([union], ["inner"])})
    with pytest.raises(isthmus.EncodeError, match=r"Arrow type '\+us:0'") as error:
        echo.call("echo", [table])
    assert error.value.path == "args[0][0]['odd one'].inner"
    with pytest.raises(isthmus.EncodeError, match=r"can't become an Arrow table.*mixed"):
        echo.call("echo", pd.DataFrame({"mixed": [1, "a"]}))


def test_a_table_of_a_remote_object_stays_there_until_it_is_asked_for(serve, name):
    serve(
        """
        import isthmus, pandas

        class Shelf:
            frame = pandas.DataFrame({"n": [1, 2, 3]})
            def part(self, rows):
                return self.frame.head(rows)
            def __iter__(self):
                return iter([self.frame, self.frame])

        @isthmus.export
        def shelf():
            return Shelf()
        """
    ).ready()
    with isthmus.connect(name) as bus:
        shelf = bus.call("shelf")
        frame = shelf.frame
        assert isinstance(frame, isthmus.RemoteObject)
        assert frame.query("n > 1").n.sum() == 5
        assert [each.shape for each in shelf] == [(3, 1), (3, 1)]
        part = shelf.part(2)
        assert isinstance(part, isthmus.RemoteObject)
        assert pa.table(part).to_pydict() == {"n": [1, 2]}
        assert pl.DataFrame(frame)["n"].to_list() == [1, 2, 3]
        with pytest.raises(TypeError, match="is no table"):
            pa.table(shelf)


def test_tables_come_from_coroutines_and_in_streams(serve, name):
    serve(
        """
        import isthmus, polars

        @isthmus.export
        async def later(n):
            return polars.DataFrame({"n": [n]})

        @isthmus.export
        def rows(count):
            for n in range(count):
                yield polars.DataFrame({"n": [n] * 1000})

        @isthmus.export
        def reader(count):
            return rows(count)

        @isthmus.export
        def apply(function, table):
            return function(table)
        """
    ).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("later", 3) == pa.table({"n": [3]})
        for stream in (bus.stream("rows", 300), bus.call("reader", 300)):
            assert [each["n"][999].as_py() for each in stream] == list(range(300))
        assert bus.call("apply", lambda table: table.slice(1), pa.table({"n": [1, 2]})) == pa.table(
            {"n": [2]}
        )


def test_without_pyarrow_a_table_is_for_whoever_knows_the_interface(serve, name):
    serve(
        """
        import sys
        sys.modules["pyarrow"] = None
        import isthmus, polars

        @isthmus.export
        def same(table):
            return table

        @isthmus.export
        def look(table):
            frame = polars.DataFrame(table)
            return [repr(table), table.num_rows, table.column_names, frame["n"].sum(), frame.columns]
        """
    ).ready()
    with isthmus.connect(name) as bus:
        table = pa.table({"n": pa.chunked_array([[1, 2], [3]]), "s": ["a", None, "b"]})
        names = ["n", "s"]
        assert bus.call("look", table) == [f"<isthmus.Table of 3 rows, columns {names}>", 3, names, 6, names]
        assert bus.call("same", table) == table


simple = st.sampled_from(
    [pa.int8(), pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.string_view(), pa.binary()]
)
kinds = st.recursive(
    simple,
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(pa.large_list)
        | st.builds(pa.list_, inner, st.integers(1, 3))
        | st.lists(inner, min_size=1, max_size=3).map(
            lambda fields: pa.struct([(f"f{i}", f) for i, f in enumerate(fields)])
        )
    ),
    max_leaves=4,
)


def values_of(kind):
    if pa.types.is_boolean(kind):
        some = st.booleans()
    elif pa.types.is_integer(kind):
        some = st.integers(-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
    elif pa.types.is_floating(kind):
        some = st.floats(allow_nan=False)
    elif pa.types.is_binary(kind):
        some = st.binary(max_size=30)
    elif pa.types.is_string(kind) or pa.types.is_string_view(kind):
        some = st.text(st.characters(codec="utf-8"), max_size=20)
    elif pa.types.is_struct(kind):
        some = st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    elif pa.types.is_fixed_size_list(kind):
        some = st.lists(values_of(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    else:
        some = st.lists(values_of(kind.value_type), max_size=3)
    return st.none() | some


@st.composite
def tables(draw):
    columns = draw(st.lists(kinds, max_size=3))
    rows = draw(st.integers(0, 20))
    arrays = [
        pa.array(draw(st.lists(values_of(kind), min_size=rows, max_size=rows)), kind) for kind in columns
    ]
    table = pa.table(arrays, names=[f"c{i}" for i in range(len(arrays))])
    if draw(st.booleans()):
        table = pa.concat_tables([table, table])
    start = draw(st.integers(0, table.num_rows))
    return table.slice(start, draw(st.integers(0, table.num_rows - start)))


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(table=tables())
def test_any_table_comes_back_as_it_was(echo, table):
    back = echo.call("echo", table)
    back.validate(full=True)
    assert back == table
    assert echo.call("echo", back) == table
