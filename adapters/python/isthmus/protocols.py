"""What objects show of their elements where it is no buffer of plain numbers: all that the encoder asks."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ._isthmus import tensor, view

if TYPE_CHECKING:
    import numpy as np

__all__ = ["dtype_from", "elements_of"]

ADVICE = "which can't travel: convert it to bool, int8 to uint64, float16 to float64 or complex"


def elements_of(value: Any) -> tuple[str, Any] | str:
    """numpy's code for the elements of ``value`` (a record's fields as JSON), and what has a buffer of them.

    Where they can't travel: what is wrong, without where. Called by the encoder for what has no buffer of
    plain numbers.
    """
    np = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray):
        return _of_ndarray(value)
    try:
        return _of_buffer(value, memoryview(value))
    except (TypeError, BufferError, ValueError) as error:
        refusal: Exception = error
    try:
        interface = getattr(value, "__array_interface__", None)
        if interface is not None:
            return _of_interface(value, interface)
        if hasattr(value, "__dlpack__"):
            return _of_tensor(value)
    except Exception as error:
        refusal = error
    return f"is a {type(value).__name__} that does not show its elements: {type(refusal).__name__}: {refusal}"


# --- numpy -----------------------------------------------------------------------------------------------


def _of_ndarray(array: np.ndarray[Any, Any]) -> tuple[str, Any] | str:
    import numpy as np

    dtype = array.dtype
    if dtype.hasobject or dtype.kind not in "mMSUV" or dtype.itemsize == 0:
        return f"is an array of dtype {dtype}, {ADVICE}"
    if dtype.fields is None:
        code = dtype.str
    else:
        if not dtype.isnative:
            dtype = dtype.newbyteorder("=")
            array = array.astype(dtype)
        if not _is_packed(dtype):
            return f"is an array of dtype {dtype}, whose fields overlap or have titles: copy those you want"
        code = json.dumps(dtype.descr)
    return code, array.view(np.ndarray).view(f"V{dtype.itemsize}")


def _is_packed(dtype: np.dtype[Any]) -> bool:
    """Whether its fields say all about it: none overlap, none have titles."""
    try:
        return dtype_from(json.dumps(dtype.descr)) == dtype
    except (TypeError, ValueError):
        return False


def dtype_from(code: str) -> np.dtype[Any]:
    """The dtype that a code or fields name. Called by the decoder. Raises ValueError for what is none."""
    import numpy as np

    try:
        dtype = np.dtype(_fields(json.loads(code)) if code.startswith("[") else code)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'{code[:200]}' is no dtype: {error}") from None
    if dtype.hasobject or dtype.kind not in "biufcmMSUV":  # they hold pointers, which a peer may not choose
        raise ValueError(f"arrays of dtype '{code[:200]}' can't travel")
    return dtype


def _fields(listed: Any) -> Any:
    """A record's dtype. A field without a name is room that is left free."""
    import numpy as np

    names, formats, offsets, end = [], [], [], 0
    for name, of, *more in listed:
        field = np.dtype(_fields(of) if isinstance(of, list) else of)
        if more:
            field = np.dtype((field, tuple(more[0])))
        if name:
            names.append(name)
            formats.append(field)
            offsets.append(end)
        end += field.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})


# --- PEP 3118 --------------------------------------------------------------------------------------------


def _of_buffer(value: Any, seen: memoryview) -> tuple[str, Any] | str:
    try:
        return _Format(seen.format).code(seen.itemsize), value
    except ValueError as error:
        wrong = f"is a buffer of format '{seen.format}', {error}"
    try:  # ctypes did not tell of the room between fields before Python 3.14
        return _Format(seen.format, aligned=True).code(seen.itemsize), value
    except ValueError:
        return wrong


class _Item(NamedTuple):
    """Of a format: numpy's code, or the list of a record's fields."""

    name: str
    of: str | list[Any]
    shape: list[int]
    size: int
    align: int

    @property
    def is_room(self) -> bool:
        return not self.name and isinstance(self.of, str) and self.of[:2] == "|V"


class _Format:
    """A format of PEP 3118, read from left to right into what numpy would call it."""

    KINDS = (
        dict.fromkeys("bhilqn", "i") | dict.fromkeys("BHILQN", "u") | dict.fromkeys("efd", "f") | {"?": "b"}
    )
    ITEM = re.compile(r"\s*([@=<>!^]?)(?:\(([\d,\s]+)\))?([@=<>!^]?)(\d*)(Z?[^\s:}])")
    NAME = re.compile(r":([^:]*):")

    def __init__(self, text: str, aligned: bool = False) -> None:
        self._text = text
        self._aligned = aligned  # whatever the order
        self._at = 0
        self._order = "@"

    def code(self, item_bytes: int) -> str:
        """numpy's code, or fields as JSON. ValueError for what can't travel, or makes another size."""
        items = self._items("")
        alone = len(items) == 1 and not items[0].name and not items[0].shape
        whole = items[0] if alone else self._record(items)
        if whole.size != item_bytes:
            raise ValueError(f"which makes {whole.size} bytes and not {item_bytes}")
        return whole.of if isinstance(whole.of, str) else json.dumps(whole.of)

    def _items(self, end: str) -> list[_Item]:
        items = []
        while not self._text.startswith(end, self._at) if end else self._at < len(self._text):
            found = self.ITEM.match(self._text, self._at)
            if found is None:
                raise ValueError("which is no format")
            self._at = found.end()
            self._order = found[3] or found[1] or self._order
            item = self._item(found[5], found[4])
            if found[2]:
                lengths = [int(length) for length in found[2].split(",")]
                item = item._replace(shape=lengths + item.shape, size=item.size * math.prod(lengths))
            named = self.NAME.match(self._text, self._at)
            if named is not None:
                self._at = named.end()
                item = item._replace(name=named[1])
            items.append(item)
        self._at += len(end)
        return items

    def _item(self, letter: str, count: str) -> _Item:
        many = int(count or 1)
        if letter == "T" and self._text.startswith("{", self._at):
            self._at += 1
            record = self._record(self._items("}"))
            return record._replace(shape=[many] if count else [], size=record.size * many)
        order = "<" if self._order == "<" or (self._order not in ">!" and sys.byteorder == "little") else ">"
        if letter in "sxc":
            return _Item("", f"|{'V' if letter == 'x' else 'S'}{many}", [], many, 1)
        if letter == "w":
            return _Item("", f"{order}U{many}", [], 4 * many, 4)
        native = self._order in "@^" or letter in "nN"
        if letter in ("Zf", "Zd"):
            kind, size = "c", 8 if letter == "Zf" else 16
        elif letter in self.KINDS:
            kind, size = self.KINDS[letter], struct.calcsize(("@" if native else "=") + letter)
        else:
            raise ValueError(f"whose '{letter}' can't travel")
        align = struct.calcsize(f"@c0{letter[-1]}") if self._aligned or self._order == "@" else 1
        return _Item(
            "", f"{'|' if size == 1 else order}{kind}{size}", [many] if count else [], size * many, align
        )

    def _record(self, items: list[_Item]) -> _Item:
        """Its fields, at their places: in a native format each is aligned."""
        fields: list[Any] = []
        end, align = 0, max((item.align for item in items), default=1)
        for i, item in enumerate([*items, _Item("", "|V0", [], 0, align)]):
            gap = -end % item.align
            if gap:
                fields.append(["", f"|V{gap}"])
            if item.size:
                name = "" if item.is_room else item.name or f"f{i}"
                fields.append([name, item.of, item.shape] if item.shape else [name, item.of])
            end += gap + item.size
        return _Item("", fields, [], end, align)


# --- __array_interface__ -----------------------------------------------------------------------------------


def _of_interface(value: Any, interface: dict[str, Any]) -> tuple[str, Any] | str:
    if interface.get("mask") is not None:
        return "has a mask, which can't travel: fill it first"
    code: str = interface["typestr"]
    described = interface.get("descr")
    item_bytes = int(re.sub(r"\D.*", "", code[2:])) * (4 if code[1] == "U" else 1)
    if code[1] == "V" and described and described != [("", code)]:
        code = json.dumps(described)
    data, offset = interface.get("data"), interface.get("offset", 0)
    shape, strides = interface["shape"], interface.get("strides")
    where = data[0] if isinstance(data, tuple) else value if data is None else data
    # Who made the interface keeps the memory.
    return code, view((value, interface), where, offset, item_bytes, shape, strides)


# --- DLPack ----------------------------------------------------------------------------------------------

CPU = 1
DEVICES = {
    2: "CUDA",
    3: "CUDA host",
    4: "OpenCL",
    7: "Vulkan",
    8: "Metal",
    10: "ROCm",
    13: "CUDA managed",
    14: "oneAPI",
}


def _of_tensor(value: Any) -> tuple[str, Any] | str:
    device, number = value.__dlpack_device__()
    if device != CPU:
        name = DEVICES.get(int(device), f"type {int(device)}")
        return (
            f"is a {type(value).__name__} on a device ({name} {number}), whose memory others can't see: "
            "bring it to the CPU first"
        )
    try:
        capsule = value.__dlpack__(max_version=(1, 0))
    except TypeError:  # from before versions
        capsule = value.__dlpack__()
    return tensor(capsule)
