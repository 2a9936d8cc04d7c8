"""Arrays of any library: PEP 3118 in every format, __array_interface__, and DLPack both ways."""

import array
import ctypes
import gc

import numpy as np
import pytest

import isthmus


@pytest.fixture
def copied(echo):
    """How many bytes this peer copies into the bus meanwhile."""

    def copied(work):
        before = echo.stats()["self"]["bytes_copied"]
        result = work()
        return result, echo.stats()["self"]["bytes_copied"] - before

    return copied


def in_bus(values):
    values = np.asarray(values)
    x = isthmus.empty(values.shape, values.dtype)
    x[...] = values
    return x


def address(x):
    return x.__array_interface__["data"][0]


@pytest.mark.parametrize("offsets", [[0, 0], [4, 0]])
def test_records_whose_fields_overlap_or_are_out_of_order_are_refused_with_their_place(echo, offsets):
    dtype = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": offsets})
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\]\[1\] is an array .* overlap"):
        echo.call("echo", [1, np.zeros(3, dtype)])


# --- PEP 3118 --------------------------------------------------------------------------------------------


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))


class Track(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 3), ("points", Point * 2), ("length", ctypes.c_float))


class Foreign(ctypes.BigEndianStructure):
    _fields_ = (("x", ctypes.c_int16), ("y", ctypes.c_int32))


@pytest.mark.parametrize("count", [1, 3, 5000])
@pytest.mark.parametrize("kind", [Point, Track, Foreign])
def test_records_of_ctypes_travel(echo, kind, count):
    value = (kind * count)()
    expected = np.frombuffer(value, dtype=np.dtype(kind))
    expected.view("u1")[:] = np.arange(expected.nbytes) % 2
    back = echo.call("echo", value)
    assert back.shape == (count,)
    assert list(back.dtype.names) == list(expected.dtype.names)
    for name in back.dtype.names:
        assert np.array_equal(back[name], expected[name])


FORMATS = [
    np.array([b"abc", b"d"]),
    np.array(["häß", "😀"]),
    np.array(["häß", "😀"]).astype(">U3"),
    np.array(["2024-01-02", "NaT"], "M8[D]").astype(">M8[D]"),
    np.array([[1, 2], [3, 4]], "m8[s]").T,
    np.array([(1, (2.5, b"x"))] * 3, [("a", "i1"), ("in", [("b", "f8"), ("c", "S2")])])[::2],
    np.array([(1, 2.5)] * 4, np.dtype([("a", "i1"), ("b", ">f8")], align=True)).reshape(2, 2),
    np.array([(1, [[2, 3], [4, 5]])], [("a", "u2"), ("b", "i4", (2, 2))]),
]


@pytest.mark.parametrize("value", FORMATS, ids=lambda value: str(value.dtype))
def test_what_numpy_calls_no_number_travels_strided_too(echo, value):
    for one in (value, np.repeat(value, 2000, axis=0), np.repeat(value, 4000, axis=0)[::-2]):
        back = echo.call("echo", one)
        assert back.shape == one.shape
        assert back.dtype == one.dtype.newbyteorder("=")
        assert np.array_equal(back, one, equal_nan=value.dtype.kind in "mM")


def test_dates_and_records_in_the_bus_are_not_copied_and_elsewhere_once(echo, copied):
    for dtype in ("M8[ns]", "S8", [("a", "i4"), ("b", "f4")]):
        there = isthmus.empty((300, 40), "int64")
        there[...] = np.arange(12_000).reshape(300, 40)
        for one in (there.view(dtype), there.view(dtype)[::3, 5:9], there.view(dtype)[7]):
            back, bytes_copied = copied(lambda one=one: echo.call("echo", one))
            assert np.array_equal(back, one)
            assert bytes_copied == 0
            assert address(back) == address(one)
        for one in (there.view(dtype).copy(), there.copy().view(dtype)[::2, ::2]):
            back, bytes_copied = copied(lambda one=one: echo.call("echo", one))
            assert np.array_equal(back, one)
            assert bytes_copied == one.nbytes


PLAIN = """
    import sys
    sys.modules["numpy"] = None
    import array, ctypes, isthmus

    class Point(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))

    class Image:
        pixels = bytes(range(24))
        __array_interface__ = {"version": 3, "shape": (2, 4, 3), "typestr": "|u1", "data": pixels}

    @isthmus.export
    def points(count):
        return (Point * count)(*[(i, i / 2) for i in range(count)])

    @isthmus.export
    def grid():
        return ((ctypes.c_int16 * 3) * 2)((1, 2, 3), (4, 5, 6))

    @isthmus.export
    def gaps():
        return memoryview(array.array("d", range(5000)))[::3]

    @isthmus.export
    def image():
        return Image()

    @isthmus.export
    def text():
        return array.array("w" if sys.version_info >= (3, 13) else "u", "häß")
"""


def test_numpy_is_not_needed_to_send_any_of_it(serve, name):
    serve(PLAIN).ready()
    with isthmus.connect(name) as bus:
        for count in (2, 4000):
            points = bus.call("points", count)
            assert np.array_equal(points["x"], np.arange(count))
            assert np.array_equal(points["y"], np.arange(count) / 2)
        assert bus.call("grid").tolist() == [[1, 2, 3], [4, 5, 6]]
        assert np.array_equal(bus.call("gaps"), np.arange(0.0, 5000, 3))
        assert np.array_equal(bus.call("image"), np.arange(24, dtype="u1").reshape(2, 4, 3))
        assert bus.call("text").tolist() == list("häß")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((ctypes.c_longdouble * 2)(), "format '<g', whose 'g' can't travel"),
        ((ctypes.c_void_p * 2)(), "format '<P', whose 'P' can't travel"),
        ((ctypes.py_object * 2)(), "format '<O', whose 'O' can't travel"),
    ],
)
def test_a_format_that_means_nothing_elsewhere_is_an_error(echo, value, says):
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\]\.rows\[1\] is a buffer of " + says):
        echo.call("echo", {"rows": [1, value]})


def test_a_buffer_that_is_gone_is_an_error_in_its_own_words(echo):
    gone = memoryview(bytes(3))
    gone.release()
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\] is a memoryview .* released memoryview"):
        echo.call("echo", gone)


# --- __array_interface__ ---------------------------------------------------------------------------------


class OfType:
    """Shows only this, as a library's class does."""

    def __init__(self, values, **about):
        self.values = values
        self.about = about

    @property
    def __array_interface__(self):
        return {**self.values.__array_interface__, **self.about}


class OfInstance:
    """As objects do whose class does not know."""

    def __init__(self, values):
        self.__array_interface__ = dict(values.__array_interface__)
        self.values = values


READ_ONLY = np.arange(10_000.0)
READ_ONLY.setflags(write=False)


@pytest.mark.parametrize("kind", [OfType, OfInstance])
@pytest.mark.parametrize(
    "values",
    [
        np.arange(3),
        READ_ONLY,
        np.arange(24.0).reshape(2, 3, 4)[:, ::-1, ::2],
        np.zeros((0, 3)),
        np.array(5.0),
        np.arange(1000, dtype=">i4"),
        np.array(["2024-01-02"], "M8[D]"),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
        np.array(["ab"]),
        np.array([True, False]),
    ],
    ids=lambda values: f"{values.dtype} {values.shape}",
)
def test_what_has_only_an_array_interface_is_an_array(echo, kind, values):
    back = echo.call("echo", kind(values))
    assert back.dtype == values.dtype.newbyteorder("=")
    assert back.shape == values.shape
    assert np.array_equal(back, values)


def test_an_interface_to_bus_memory_is_not_copied_and_any_other_once(echo, copied):
    there = in_bus(np.arange(40_000.0).reshape(200, 200))
    for values in (there, there[::2], there[:, 3:9]):
        back, bytes_copied = copied(lambda values=values: echo.call("echo", OfType(values)))
        assert address(back) == address(values)
        assert bytes_copied == 0
    _, bytes_copied = copied(lambda: echo.call("echo", OfType(there.copy()[::2])))
    assert bytes_copied == there.nbytes // 2


def test_an_interface_may_name_a_buffer_and_a_place_in_it(echo):
    class Header:
        def __init__(self, offset, shape, strides=None):
            data = bytearray(b"head") + array.array("h", range(50)).tobytes()
            self.__array_interface__ = {
                "version": 3,
                "typestr": "<i2",
                "data": data,
                "offset": offset,
                "shape": shape,
                "strides": strides,
            }

    assert np.array_equal(echo.call("echo", Header(4, (50,))), np.arange(50))
    assert np.array_equal(echo.call("echo", Header(102, (25,), (-4,))), np.arange(49, -1, -2))
    for outside in (Header(6, (50,)), Header(-2, (3,)), Header(4, (2**40,)), Header(4, (50,), (-2,))):
        with pytest.raises(isthmus.EncodeError, match="lie outside of the buffer"):
            echo.call("echo", outside)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"mask": np.zeros(3)}, "has a mask"),
        ({"typestr": "|O8"}, "type '|O8', which can't travel"),
        ({"typestr": "no"}, "does not show its elements"),
        ({"shape": (-1,)}, "make no array"),
        ({"shape": (2**62, 4)}, "make no array"),
        ({"shape": (3,), "strides": (8, 8)}, "make no array"),
        ({"data": (0, True)}, "no address"),
        ({"data": None}, "does not show its elements: TypeError"),
    ],
)
def test_an_interface_that_makes_no_array_is_an_error(echo, about, says):
    with pytest.raises(isthmus.EncodeError, match=r"kwargs\.x\[0\] ") as error:
        echo.call("echo", x=[OfType(np.arange(3.0), **about)])
    assert says in str(error.value)


def test_a_class_with_an_interface_is_still_a_class(echo):
    assert echo.call("echo", OfType) is OfType


# --- DLPack: objects of other libraries ------------------------------------------------------------------


class Tensor:
    """What a library of tensors shows, by the help of numpy."""

    def __init__(self, values, device=(1, 0)):
        self.values = values
        self.device = device
        self.asked = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        self.asked.append(max_version)
        return self.values.__dlpack__(max_version=max_version)


class OldTensor(Tensor):
    """From before DLPack had versions."""

    def __dlpack__(self, stream=None):
        self.asked.append(None)
        return self.values.__dlpack__()


class Refusing(Tensor):
    def __dlpack__(self, **_):
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")


@pytest.mark.parametrize("kind", [Tensor, OldTensor])
@pytest.mark.parametrize(
    "values",
    [
        np.arange(3),
        np.arange(24.0).reshape(2, 3, 4)[:, ::-1, ::2],
        np.zeros((0, 3), "f4"),
        np.array(5, "u2"),
        np.ones((200, 300), "c8").T,
        np.ones(5, "f2"),
        np.array([True, False]),
        np.arange(20_000, dtype="i8"),
    ],
    ids=lambda values: f"{values.dtype} {values.shape}",
)
def test_a_tensor_of_another_library_is_an_array(echo, kind, values):
    tensor = kind(values)
    back = echo.call("echo", tensor)
    assert tensor.asked[-1] == ((1, 0) if kind is Tensor else None)
    assert back.dtype == values.dtype
    assert back.shape == values.shape
    assert np.array_equal(back, values)


def test_a_read_only_tensor_is_sent_like_any_other(echo):
    assert np.array_equal(echo.call("echo", Tensor(READ_ONLY)), READ_ONLY)


@pytest.mark.parametrize("kind", [Tensor, OldTensor])
def test_a_tensor_over_bus_memory_is_not_copied_and_any_other_once(echo, copied, kind):
    there = in_bus(np.arange(40_000.0).reshape(200, 200))
    for values in (there, there.T, there[::2], there[:, 3:9]):
        back, bytes_copied = copied(lambda values=values: echo.call("echo", kind(values)))
        assert np.array_equal(back, values)
        assert address(back) == address(values)
        assert bytes_copied == 0
    _, bytes_copied = copied(lambda: echo.call("echo", kind(there.copy())))
    assert bytes_copied == there.nbytes


def test_a_tensor_elsewhere_than_in_the_cpus_memory_is_an_error(echo):
    for device, says in (((2, 1), r"\(CUDA 1\)"), ((99, 0), r"\(type 99 0\)")):
        with pytest.raises(
            isthmus.EncodeError,
            match=rf"args\[0\]\.layers\[1\] is a Tensor on a device {says}.* to the CPU first",
        ):
            echo.call("echo", {"layers": [0, Tensor(np.ones(3), device)]})


def test_a_tensor_that_does_not_want_to_be_seen_is_an_error_in_its_own_words(echo):
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\] is a Refusing .* use tensor.detach\(\)"):
        echo.call("echo", Refusing(np.ones(3)))


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


NAME = b"dltensor_versioned"
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = (
    ctypes.py_object,
    [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
)
pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
pointer_in.restype, pointer_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Handmade:
    """A tensor to the last byte, that counts how often it was given back."""

    def __init__(self, major=1, code=2, bits=32, lanes=1, offset=0, count=6, device=1):
        self.values = (ctypes.c_float * count)(*range(count))
        self.shape = (ctypes.c_int64 * 1)(count - offset // 4)
        self.deleted = 0
        self.managed = Versioned(major=major, minor=7, deleter=Deleter(self._delete))
        tensor = self.managed.tensor
        tensor.data = ctypes.addressof(self.values)
        tensor.device_type = device
        tensor.ndim = 1
        tensor.code, tensor.bits, tensor.lanes = code, bits, lanes
        tensor.shape = self.shape
        tensor.byte_offset = offset

    def _delete(self, _):
        self.deleted += 1

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        return new_capsule(ctypes.addressof(self.managed), NAME, None)


@pytest.mark.parametrize("count", [6, 300_000])
def test_a_tensor_without_strides_and_with_an_offset_is_given_back_once(echo, count):
    tensor = Handmade(offset=8, count=count)
    assert np.array_equal(echo.call("echo", tensor), np.arange(2, count, dtype="f4"))
    gc.collect()
    assert tensor.deleted == 1


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Handmade(major=2), "a version of DLPack that is newer than 1"),
        (Handmade(code=4, bits=16), "such as bfloat16: convert them to float32"),
        (Handmade(code=0, bits=4), "no numbers that can travel"),
        (Handmade(lanes=4), "no numbers that can travel"),
        (Handmade(code=2, bits=128), "type '<f16', which can't travel"),
        (Handmade(device=2), "does not lie in the memory of the CPU"),
    ],
    ids=["version 2", "bfloat16", "4 bits", "lanes", "128 bits", "device"],
)
def test_a_tensor_that_has_no_counterpart_is_an_error_and_given_back(echo, tensor, says):
    with pytest.raises(isthmus.EncodeError, match=r"args\[0\] ") as error:
        echo.call("echo", tensor)
    assert says in str(error.value)
    gc.collect()
    assert tensor.deleted == 1


# --- DLPack: what came over the bus ----------------------------------------------------------------------


@pytest.fixture
def lent(echo):
    """An array that came and is read-only, in the bus and in the frame."""
    return [echo.call("echo", in_bus(np.arange(float(count)))) for count in (4, 10_000)]


def test_other_libraries_see_what_came_where_it_lies(lent):
    for x in lent:
        seen = np.from_dlpack(x)
        assert np.shares_memory(seen, x)
        assert not seen.flags.writeable
        assert np.array_equal(seen, x)


def test_the_protocol_tells_that_what_was_lent_is_read_only(lent):
    read_only = 1
    for x in lent:
        capsule = x.__dlpack__(max_version=(1, 0))
        managed = Versioned.from_address(pointer_in(capsule, NAME))
        assert managed.major == 1
        assert managed.flags & read_only
        assert managed.tensor.data == address(x)
        with pytest.raises(BufferError):
            x.__dlpack__()  # without a version it could not tell


def test_what_belongs_to_its_receiver_is_seen_by_everyone_and_may_be_written(echo):
    for count in (4, 10_000):
        x = echo.call("echo", np.arange(float(count)))
        if not x.flags.writeable:
            x = x.copy()
        capsule = x.__dlpack__()
        tensor = DLTensor.from_address(pointer_in(capsule, b"dltensor"))
        assert tensor.data == address(x)
        np.from_dlpack(x)[0] = 7
        assert x[0] == 7


@pytest.mark.parametrize(
    "code", ["O", "|O8", "T", '[["a", "|O"]]', '[["a", [["b", "|O"]], [2]]]', "no dtype", "[1]"]
)
def test_no_peer_names_a_dtype_whose_elements_are_pointers(code):
    with pytest.raises(ValueError, match=r"can't travel|is no dtype"):
        isthmus.protocols.dtype_from(code)
