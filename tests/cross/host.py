"""The callee of the conversations."""

import math
import os
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

import isthmus

used_by_rows = (math, OrderedDict, date, time, timedelta, Decimal, Path, UUID, np)


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Pair(Enum):
    A = (1, 2)


@dataclass
class Point:
    x: Any
    y: Any


@dataclass(slots=True)
class Slim:
    x: Any


class Range(NamedTuple):
    low: int
    high: int


EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


def depth(v):
    levels = 0
    while not isinstance(v, str):
        v = v[0] if isinstance(v, list) else next(iter(v.values()))
        levels += 1
    return levels


def filled(array, value):
    array[...] = value
    return array


names = globals()


@lru_cache(4096)
def compiled(expression):
    return compile(expression, "<row>", "eval")


@isthmus.export
def check(v, expression):
    if bool(eval(compiled(expression), names, {"v": v})):
        return True
    return f"Python saw {type(v).__name__} {v!r:.200}"


@isthmus.export
def make(expression):
    return eval(compiled(expression), names)


@isthmus.export
def echo(v):
    return v


kept = {}


@isthmus.export
def keep(key, v):
    kept[key] = v


@isthmus.export
def check_kept(key, expression):
    return check(kept[key], expression)


@isthmus.export
def take_kept(key):
    return kept.pop(key)


@isthmus.export
def pid():
    return os.getpid()
