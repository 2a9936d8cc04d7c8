"""Arrays in the memory of a bus."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, SupportsIndex

from ._isthmus import allocate, dtypes, restore_numpy_memory, use_numpy_memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["empty", "numpy_memory"]


def empty(
    shape: SupportsIndex | Iterable[SupportsIndex], dtype: npt.DTypeLike = "float64"
) -> np.ndarray[Any, Any]:
    """A new array in the memory of the bus, with arbitrary contents, in C order.

    ``shape`` is a length or a sequence of lengths, ``dtype`` one of bool, int8 to int64, uint8 to uint64,
    float16 to float64, complex64 and complex128, as a name or a numpy dtype. Returned from an export, or
    sent as an argument, the array is not copied, whatever its size. Where there is no numpy, it is a
    writable memoryview.

    With several buses, an export gets memory of the one that it is called over, and other code of the one
    joined last. Raises isthmus.PeerLost when this process is on no bus, isthmus.BusFull when the bus has no
    memory left, ValueError for another dtype. Any thread.
    """
    lengths = (shape,) if isinstance(shape, SupportsIndex) else tuple(shape)
    array: np.ndarray[Any, Any] = allocate(_code(dtype), tuple(map(operator.index, lengths)))
    return array


@contextmanager
def numpy_memory(on: bool = True) -> Iterator[None]:
    """Within it, arrays that numpy makes lie in the memory of the bus, from 32 KiB on (NEP 49).

    Exports have it on already; here it is for arrays that are prepared ahead, or, with ``on=False``, for an
    export that makes arrays which never leave it. It holds for the current context, so for this thread or
    asyncio task. Arrays stay where they are afterwards, for as long as they are kept. Where the bus has no
    memory left, and where this process is on no bus, numpy allocates as ever.

    Raises ImportError when there is no numpy.
    """
    before = use_numpy_memory(on)
    try:
        yield
    finally:
        restore_numpy_memory(before)


def _code(dtype: npt.DTypeLike) -> int:
    name = dtype if isinstance(dtype, str) else None
    if name not in dtypes:
        try:
            import numpy as np
        except ImportError:
            pass
        else:
            wanted = np.dtype(dtype)
            name = wanted.name if wanted.isnative else None
    if name is None or name not in dtypes:
        raise ValueError(
            f"an array in bus memory can't have the dtype {dtype!r}: use one of {', '.join(dtypes)}"
        )
    return dtypes[name]
