"""Arrays: every dtype and order, shared where they lie in bus memory and copied once where they do not."""

import array
import gc
import os
import re
import weakref

import numpy as np
import pytest

import isthmus

INTEGERS = [f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64", "complex64", "complex128"]
SIZES = [0, 1, 3, 255, 300, 5_000, 70_000]  # in the frame, in a small block, copied without the GIL


def sample(dtype, size):
    values = np.arange(size) % 100
    return (values * (1 + 2j)).astype(dtype) if dtype.startswith("complex") else values.astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_comes_back_as_it_was(echo, dtype, size):
    value = sample(dtype, size)
    back = echo.call("echo", value)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert np.array_equal(back, value)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 3), (3, 0, 2), (2, 3, 4, 5), (40, 50, 60)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_keeps_its_shape_and_order(echo, shape, order):
    value = np.asarray(np.arange(np.prod(shape, dtype=int), dtype="float32").reshape(shape), order=order)
    back = echo.call("echo", value)
    assert back.shape == shape
    assert np.array_equal(back, value)
    if value.size > 0:
        assert back.flags.f_contiguous == value.flags.f_contiguous


@pytest.mark.parametrize("size", [12, 3_000, 60_000])
def test_an_array_with_gaps_or_foreign_bytes_is_put_in_order(echo, size):
    whole = np.arange(size * 2, dtype="int32")
    square = np.arange(size).reshape(3, 2, -1)
    for value in (
        whole[::2],
        whole[::-1],
        whole.astype(">i4"),
        whole.astype(">f8")[::3],
        (whole + 1j * whole).astype(">c16"),
        (whole + 1j * whole).astype(">c8")[1::2],
        square.transpose(1, 0, 2),
        square[:, ::-1, ::2],
        np.broadcast_to(np.float32(3), (4, size)),
    ):
        back = echo.call("echo", value)
        assert back.dtype == value.dtype.newbyteorder("=")
        assert np.array_equal(back, value)


def test_whatever_shows_a_buffer_travels_as_an_array(echo):
    assert np.array_equal(echo.call("echo", array.array("d", [1, 2])), [1.0, 2.0])
    assert echo.call("echo", memoryview(array.array("H", [1, 2]))).dtype == "uint16"
    grid = memoryview(bytes(6)).cast("B", (2, 3))
    assert echo.call("echo", grid).shape == (2, 3)


def test_a_0_d_array_stays_an_array_and_a_scalar_does_not(echo):
    assert echo.call("echo", np.array(5.0)).shape == ()
    assert type(echo.call("echo", np.float64(5))) is float


LENDING = """
    import isthmus, numpy as np

    kept = []

    @isthmus.export
    def flags(x):
        return [x.flags.writeable, x.flags.c_contiguous, x.dtype.name]

    @isthmus.export
    def write(x):
        x[0] = 1

    @isthmus.export
    def keep(x):
        kept.append(x)

    @isthmus.export
    def kept_sum():
        return [float(x.sum()) for x in kept]

    @isthmus.export
    def forget():
        kept.clear()

    @isthmus.export
    def fresh(size):
        return np.full(size, 7.0)

    @isthmus.export
    def elsewhere(size):
        with isthmus.numpy_memory(False):
            return np.full(size, 7.0)

    @isthmus.export
    def shaped(size):
        return np.full(size, 7.0).reshape(2, -1)

    with_bus = []

    @isthmus.export
    def held():
        with_bus.append(np.full(100_000, 7.0))
        return with_bus[-1]

    @isthmus.export
    def part_of_held():
        return with_bus[-1][10:]

    @isthmus.export
    def in_bus(size):
        x = isthmus.empty(size, "float64")
        x[:] = 7
        return x

    @isthmus.export
    def part(x):
        return x[2:5]

    @isthmus.export
    def twice(x):
        return {"a": x, "b": [x, x[1:]]}
"""


WRITING = """
    from types import SimpleNamespace
    import isthmus, numpy as np

    def give(x): x.flags.writeable = True

    WAYS = {
        "item": lambda x: x.__setitem__(0, 1),
        "in place": lambda x: np.add(x, 1, out=x),
        "sort": lambda x: x.sort(),
        "copyto": lambda x: np.copyto(x, 1),
        "view": lambda x: x.view().fill(1),
        "other dtype": lambda x: x.view("u1").fill(1),
        "part": lambda x: x[1:].fill(1),
        "turned": lambda x: x.reshape(1, -1).T.fill(1),
        "setflags": lambda x: x.setflags(write=True),
        "flag": give,
        "setflags of a view": lambda x: x[:].setflags(write=True),
        "asarray": lambda x: np.asarray(x).data.__setitem__(0, 1),
        "memoryview": lambda x: memoryview(x).cast("B").__setitem__(0, 1),
        "frombuffer": lambda x: np.frombuffer(x).setflags(write=True),
        "ndarray": lambda x: np.ndarray(len(x), buffer=x.data).fill(1),
        "strides": lambda x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides).fill(1),
        "interface": lambda x: np.asarray(SimpleNamespace(__array_interface__=x.__array_interface__)).fill(1),
        "dlpack": lambda x: np.from_dlpack(x).fill(1),
        "base": lambda x: np.frombuffer(x.base if x.base is not None else x, "u1").fill(1),
        "setflags of the base": lambda x: x.base.setflags(write=True),
    }

    @isthmus.export
    def write(how, x):
        before = x.copy()
        assert not x.flags.writeable
        try:
            WAYS[how](x)
        except (ValueError, TypeError, AttributeError, BufferError) as error:
            return (x == before).all() and str(error)
"""


@pytest.fixture(scope="module")
def writer(tmp_path_factory, served_type):
    served = served_type(tmp_path_factory.mktemp("writer"), f"writer-{os.getpid()}", WRITING).ready()
    with isthmus.connect(served.name) as bus:
        yield bus
    assert served.end() == 0
    served.close()


WAYS = re.findall(r'^ {8}"([\w ]+)": ', WRITING, re.MULTILINE)


@pytest.mark.parametrize("how", WAYS)
def test_nothing_leads_to_writing_to_what_is_lent(writer, how):
    lent = isthmus.empty(1000)
    lent[:] = range(1000, 0, -1)
    values = [
        lent,
        lent.reshape(10, 100)[:, 3],
        np.arange(1000.0)[::-1],
        np.arange(3.0),
        np.arange(100_000.0),
    ]
    for value in values:
        before = value.copy()
        assert writer.call("write", how, value), "it was written to"
        assert np.array_equal(value, before)


def host(bus, counter):
    return bus.stats()["host"][counter]


@pytest.mark.parametrize("size", [3, 1000, 100_000])
def test_an_argument_is_read_only(serve, name, size):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("flags", np.zeros(size)) == [False, True, "float64"]
        with pytest.raises(isthmus.PythonError, match="read-only"):
            bus.call("write", np.zeros(size))


def test_an_array_in_bus_memory_is_not_copied_whatever_its_size(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        for size in (1, 100, 1_000_000):
            value = isthmus.empty(size)
            value[:] = 3
            back = bus.call("twice", value)
            assert np.array_equal(back["a"], value)
            assert back["a"].ctypes.data == value.ctypes.data == back["b"][0].ctypes.data
        part = bus.call("part", value)
        assert part.ctypes.data == value[2:].ctypes.data
        result = bus.call("in_bus", 1_000_000)
        assert result.sum() == 7_000_000
        stats = bus.stats()
        assert stats["self"]["bytes_copied"] == stats["host"]["bytes_copied"] == 0


def test_an_array_elsewhere_is_copied_once(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        assert bus.call("elsewhere", 1_000_000).sum() == 7_000_000
        stats = bus.stats()
        assert stats["host"]["bytes_copied"] == 8_000_000
        bus.call("flags", np.zeros(1_000_000))
        assert bus.stats()["self"]["bytes_copied"] == 8_000_000


@pytest.mark.parametrize("export", ["fresh", "elsewhere", "shaped"])
def test_a_result_that_nobody_else_holds_belongs_to_the_caller(serve, name, export):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        for size in (4, 1000, 100_000):
            result = bus.call(export, size)
            result += 1
            assert result.sum() == 8 * size


def test_a_result_that_the_host_holds_is_lent(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        for export in ("held", "part_of_held"):
            result = bus.call(export)
            assert (result == 7).all()
            with pytest.raises(ValueError, match="read-only"):
                result += 1


def test_what_the_host_keeps_stays_valid_and_its_lease_ends_with_it(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        for value in range(20):
            bus.call("keep", np.full(50_000, float(value)))
        for _ in range(200):
            bus.call("flags", np.ones(50_000))
        assert bus.call("kept_sum") == [value * 50_000.0 for value in range(20)]
        bus.call("forget")
        assert host(bus, "leases_taken") - host(bus, "leases_released") == 0


def test_a_result_that_is_dropped_gives_its_memory_back(serve, name):
    serve(LENDING, "--memory", "32MiB").ready()
    with isthmus.connect(name) as bus:
        for _ in range(100):
            assert bus.call("fresh", 500_000)[0] == 7
            assert bus.call("in_bus", 500_000)[0] == 7
        stats = bus.stats()["self"]
        assert stats["leases_taken"] == stats["leases_released"]


def test_results_that_are_kept_fill_the_bus_and_say_so(serve, name):
    serve(LENDING, "--memory", "16MiB").ready()
    with isthmus.connect(name) as bus:
        kept = []

        def keep_on():
            while True:
                kept.append(bus.call("fresh", 500_000))

        with pytest.raises(isthmus.BusFull, match="release arrays"):
            keep_on()
        assert 2 <= len(kept) <= 4
        assert all(x[0] == 7 for x in kept)
        with pytest.raises(isthmus.BusFull):
            bus.call("flags", np.zeros(2_000_000))
        with pytest.raises(isthmus.PythonError, match=r"BusFull.*release arrays"):
            bus.call("in_bus", 2_000_000)
        kept.clear()
        assert bus.call("fresh", 500_000)[-1] == 7


def test_an_array_outlives_the_bus_with_its_bytes(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus, isthmus.connect(name) as other:
        large, small, own = bus.call("fresh", 300_000), bus.call("in_bus", 300), bus.call("in_bus", 3000)
        bus.close()
        for _ in range(50):  # what was freed is used again
            other.call("flags", np.full(300_000, -1.0))
            other.call("in_bus", 300)
        assert (large == 7).all()
        assert (small == 7).all()
        assert (own == 7).all()
        large += 1
        assert large.sum() == 8 * 300_000
    with pytest.raises(isthmus.PeerLost, match="connect to it again"):
        bus.call("fresh", 1)


def leases(bus):
    stats = bus.stats()["self"]
    return stats["leases_taken"] - stats["leases_released"]


def test_bytes_can_be_given_back_early(echo, until):
    view = echo.call("echo", bytes(100_000))
    lease = view.obj
    assert lease.in_bus
    assert lease.nbytes == 100_000
    with pytest.raises(BufferError, match=r"1 array\(s\) or memoryview\(s\) still look at this memory"):
        lease.release()
    view.release()
    lease.release()
    lease.release()
    assert lease.released
    until(lambda: leases(echo) == 0)
    with pytest.raises(BufferError, match="released already"):
        memoryview(lease)


def test_a_lease_ends_with_its_block(echo):
    with echo.call("echo", bytes(100_000)) as view:
        lease = view.obj
    with lease:
        pass
    assert lease.released


def test_what_was_copied_from_is_let_go(echo):
    value = np.ones(100_000)
    gone = weakref.ref(value)
    echo.call("echo", value)
    del value
    gc.collect()
    assert gone() is None


def test_an_export_gets_memory_of_the_bus_that_it_is_called_over(name):
    @isthmus.export(name="grid")
    def grid(size):
        x = isthmus.empty(size)
        x[:] = 4
        return x

    second = f"{name}-b"
    with (
        isthmus.Host(name) as one,
        isthmus.Host(second) as two,
        isthmus.connect(name) as to_one,
        isthmus.connect(second) as to_two,
    ):
        assert to_one.call("grid", 100_000).sum() == to_two.call("grid", 100_000).sum() == 400_000
        assert [host.stats()["self"]["bytes_copied"] for host in (one, two)] == [0, 0]
        assert to_one.stats()["host"] == one.stats()["host"]


def test_without_a_bus_there_is_no_memory_to_give(run):
    done = run("import isthmus\nisthmus.empty(3)")
    assert "PeerLost: this process is on no bus" in done.stderr


def test_empty_makes_arrays_of_every_dtype_and_shape(echo):
    for dtype in DTYPES:
        assert isthmus.empty(3, dtype).dtype == dtype
        assert isthmus.empty((2, 0), np.dtype(dtype)).shape == (2, 0)
    assert isthmus.empty(np.int64(4)).shape == (4,)
    assert isthmus.empty([2, 3], int).dtype == "int64"
    assert isthmus.empty(()).shape == ()
    assert isthmus.empty((480, 640, 3), "uint8").flags.writeable


@pytest.mark.parametrize("dtype", ["object", "datetime64[s]", "U3", ">f8", "longdouble", "no such"])
def test_empty_refuses_other_dtypes(echo, dtype):
    with pytest.raises((ValueError, TypeError)):
        isthmus.empty(3, dtype)


@pytest.mark.parametrize("shape", [-1, (2, -3), (1,) * 65, 2**62, (2**40, 2**40)])
def test_empty_refuses_impossible_shapes(echo, shape):
    with pytest.raises((ValueError, isthmus.BusFull, isthmus.Error)):
        isthmus.empty(shape)


WITHOUT_NUMPY = """
    import sys
    sys.modules["numpy"] = None
    import isthmus

    @isthmus.export
    def see(x):
        return [type(x).__name__, x.format, list(x.shape), x.readonly, x.f_contiguous, len(x.tobytes())]

    @isthmus.export
    def echo(x):
        return x

    @isthmus.export
    def fresh():
        x = isthmus.empty((2, 3), "int16")
        x[1, 2] = 5
        return x
"""


def test_without_numpy_an_array_is_a_memoryview_of_its_format(serve, name):
    serve(WITHOUT_NUMPY).ready()
    with isthmus.connect(name) as bus:
        for size in (4, 1000, 100_000):
            assert bus.call("see", np.zeros(size, "int32")) == [
                "memoryview",
                "i",
                [size],
                True,
                True,
                4 * size,
            ]
        see = bus.call("see", np.zeros((2, 3), "float64", order="F"))
        assert see == ["memoryview", "d", [2, 3], True, True, 48]
        assert bus.call("see", np.zeros(3, "complex128"))[1] == "Zd"
        for dtype in DTYPES:
            value = sample(dtype, 300).reshape(3, 100)
            assert np.array_equal(bus.call("echo", value), value)
        assert bus.call("fresh")[1, 2] == 5


TYPED = [
    np.array(["2024-01-02", "NaT"], "M8[D]"),
    np.array([1, -1], "m8[us]"),
    np.array([b"abc", b""], "S5"),
    np.array([["häß", "😀"], ["", "a"]], "U3"),
    np.array([(1, 2.5), (3, 4.5)], dtype=[("id", "<i4"), ("weight", "<f8")]),
    np.array([(1, (2, b"x"))], dtype=[("id", "<i2"), ("in", [("a", "<i4"), ("b", "S3")])]),
    np.array([(1, 2)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.zeros((0, 3), "M8[s]"),
    np.array("2024-01-02", "M8[D]"),
]


@pytest.mark.parametrize("repeat", [1, 2000])
@pytest.mark.parametrize("value", TYPED, ids=lambda value: value.dtype.str)
def test_an_array_of_dates_texts_or_records_comes_back_as_it_was(echo, value, repeat):
    value = np.repeat(value, repeat, axis=0) if value.ndim > 0 else value
    back = echo.call("echo", value)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert np.array_equal(back, value, equal_nan=value.dtype.kind in "mM")


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array([1.0], "longdouble"), np.array([(object(),)], dtype=[("a", "O")])],
    ids=["objects", "longdouble", "records of objects"],
)
def test_an_array_that_has_no_form_outside_of_python_is_an_error(echo, value):
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\] is an array of dtype"):
        echo.call("echo", value)


def test_a_part_with_gaps_of_bus_memory_is_seen_where_it_lies(serve, name):
    serve(LENDING).ready()
    with isthmus.connect(name) as bus:
        whole = isthmus.empty((60, 80, 3), "uint8")
        whole[:] = np.arange(60 * 80 * 3).reshape(whole.shape) % 251
        for part in (whole[5:50, 10:70], whole[::2, ::-1], whole.transpose(2, 0, 1), whole[:, :, 1]):
            back = bus.call("twice", part)["a"]
            assert np.array_equal(back, part)
            assert back.strides == part.strides
            assert back.ctypes.data == part.ctypes.data
        stats = bus.stats()
        assert stats["self"]["bytes_copied"] == stats["host"]["bytes_copied"] == 0
