"""Equality as the values table means it, between what was sent and what it is after a journey."""

import math
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from uuid import UUID

import numpy as np


def plain(v):
    """Two values are the same when their plain forms are equal; kinds count, unless journeys unite them."""
    if isinstance(v, Enum):
        return plain(v.value)
    if isinstance(v, np.generic):
        return plain(v.item())
    if v is None or isinstance(v, bool):
        return ("constant", v)
    if isinstance(v, float) and (math.isnan(v) or v == 0):
        return ("float", repr(v)) if math.isnan(v) or math.copysign(1, v) < 0 else 0
    if isinstance(v, int | float):
        return v
    if isinstance(v, complex):
        return plain({"re": v.real, "im": v.imag})
    if isinstance(v, str):
        return v.encode("utf-16-le", "surrogatepass")
    if isinstance(v, Decimal | UUID | PurePath):
        return plain(str(v))
    if isinstance(v, datetime):
        return v.replace(microsecond=v.microsecond // 1000 * 1000)
    if isinstance(v, date | time):
        return plain(v.isoformat())
    if isinstance(v, timedelta):
        return v.total_seconds()
    if isinstance(v, bytes | bytearray | memoryview):
        return ("array", "uint8", (len(bytes(v)),), bytes(v))
    if isinstance(v, np.ndarray):
        v = v.astype(v.dtype.newbyteorder("="))
        return ("array", v.dtype.name, v.shape, v.tobytes())
    if is_dataclass(v):
        return plain({field.name: getattr(v, field.name) for field in fields(v)})
    if isinstance(v, tuple) and hasattr(v, "_asdict"):
        return plain(v._asdict())
    if isinstance(v, list | tuple):
        return ("list", *map(plain, v))
    if isinstance(v, set | frozenset):
        return ("set", frozenset(map(plain, v)))
    if isinstance(v, dict):
        return {plain(key): plain(value) for key, value in v.items()}
    return v


def same(a, b):
    return plain(a) == plain(b)
