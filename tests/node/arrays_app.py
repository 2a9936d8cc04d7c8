"""What tests/node/ndarray.test.mjs calls."""

import numpy as np

import isthmus

TYPED = {
    "seconds": np.array(["2024-01-02T03:04:05", "1969-12-31"], "M8[s]"),
    "span": np.array([1500, -1], "m8[ms]"),
    "bytes": np.array([b"abc", b""], "S5"),
    "text": np.array(["häß", "😀"], "U3"),
    "raw": np.array([b"\1\2", b"\3\4"], "V2"),
    "records": np.array(
        [(1, 2.5, [1, 2]), (3, 4.5, [3, 4])],
        dtype=[("id", "<i4"), ("weight", "<f8"), ("at", "<i2", (2,))],
    ),
}


@isthmus.export
def views():
    whole = np.arange(240_000, dtype="float32").reshape(400, 600)
    return [whole.T, whole[::2, ::-3], whole[5:, 3:7]]


@isthmus.export
def seen(x):
    return {
        "dtype": x.dtype.name,
        "shape": x.shape,
        "strides": x.strides,
        "first": x[0, 0],
        "last": x[-1, -1],
    }


@isthmus.export
def typed(name):
    return TYPED[name]


@isthmus.export
def is_typed(name, array):
    return bool(array.dtype == TYPED[name].dtype and (array == TYPED[name]).all())


@isthmus.export
def dates(count):
    return np.arange(count).astype("M8[ns]")


@isthmus.export
def text_of(array):
    return str(array)


@isthmus.export
def zeros(array):
    """The array, its shape, and whether all its bytes are 0."""
    return [array, list(array.shape), not array.tobytes().strip(b"\0")]


@isthmus.export
def brightness(pixels):
    return float(np.frombuffer(pixels, np.uint8).mean())


@isthmus.export
def doubled(array):
    array *= 2
    return array
