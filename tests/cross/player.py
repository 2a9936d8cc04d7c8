"""The Python player: `isthmus serve player.py` is the callee, `python player.py BUS CALLEE` the caller.

$ISTHMUS_TABLE names the table as JSON. A caller prints what the JavaScript player prints.
"""

import asyncio
import inspect
import json
import math
import os
import sys
import traceback
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
from same import same

import isthmus

used_by_rows = (math, OrderedDict, date, time, timedelta, Decimal, Path, UUID, np)


rows = {row["name"]: row for row in json.loads(Path(os.environ["ISTHMUS_TABLE"]).read_text())}


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


@lru_cache(64)
def remainders(length):
    return np.arange(length) % 101


def plus_one(x):
    return x + 1


class Box:
    def __init__(self, value):
        self.value = value

    def plus(self, n):
        return self.value + n


async def counting(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def items(v):
    """All of a stream, also of one that has come home."""
    if not inspect.isasyncgen(v):
        return list(v)

    async def taken():
        return [item async for item in v]

    return asyncio.run(taken())


names = globals()


@lru_cache(4096)
def compiled(expression):
    return compile(expression, "<row>", "eval")


def evaluated(expression, **values):
    return eval(compiled(expression), names, values)


def nest(v):
    for _ in range(25):
        v = [{"v": v}]
    return v


def unnest(v):
    for _ in range(25):
        v = v[0]["v"]
    return v


def saw(v):
    return f"Python saw {type(v).__name__} {v!r:.200}"


# --- the callee ---------------------------------------------------------------------------------------------

kept = {}


@isthmus.export
def check(name, v):
    row = rows[name]
    if "python" in row:
        return bool(evaluated(row["python"], v=v)) or saw(v)
    return same(v, evaluated(row["make"])) or saw(v)


@isthmus.export
def check_nested(name, v):
    return check(name, unnest(v))


@isthmus.export
def echo(v):
    return v


@isthmus.export
def give(name):
    return evaluated(rows[name]["make"])


@isthmus.export
def give_nested(name):
    return nest(give(name))


@isthmus.export
def give_twice(name):
    yield give(name)
    yield give(name)


@isthmus.export
def apply(f, v):
    return f(v)


@isthmus.export
def restream(values):
    yield from values


@isthmus.export
def keep(name, v):
    kept[name] = v


@isthmus.export
def check_kept(name):
    return check(name, kept[name])


@isthmus.export
def take_kept(name):
    return kept.pop(name)


# --- the caller ---------------------------------------------------------------------------------------------


class Player:
    """Plays every row in every mode."""

    def __init__(self, bus, callee):
        self.bus = bus
        self.callee = callee
        self.loop = asyncio.new_event_loop()
        self.verbs = {"call": bus.call, "submit": self.submit, "call_async": self.awaited}

    def submit(self, *args, **named):
        return self.bus.submit(*args, **named).result()

    def awaited(self, *args, **named):
        async def go():
            return await self.bus.call_async(*args, **named)

        return self.loop.run_until_complete(go())

    def made(self, row):
        """The row's value, as a caller in Python has it; a new one each time."""
        if "make" in row:
            return evaluated(row["make"])
        v = self.bus.call("original", row["name"])
        if not row["lent"] and not evaluated(row.get("again") or row["python"], v=v):
            raise AssertionError(f"a result: {saw(v)}")
        return v

    def back(self, row, sent, v):
        """What is wrong with what came back."""
        if row["lent"]:
            return [] if v is sent else ["what came home is another object"]
        if "make" in row:
            is_same = same(v, sent if self.callee == "python" else self.bus.call("original", row["name"]))
        else:
            is_same = evaluated(row.get("again") or row["python"], v=v)
        return [] if is_same else [f"back: {saw(v)}"]

    def play(self, row):
        for mode, verb in self.verbs.items():
            yield mode, lambda verb=verb: self.through(row, verb)
            if not row["deepest"]:
                yield f"{mode}, nested", lambda verb=verb: self.nested(row, verb)
            yield f"{mode}, called back", lambda verb=verb: self.called_back(row, verb)
            if ("make" in row) == (self.callee == "python"):
                yield f"{mode}, given", lambda verb=verb: self.given(row, verb)
        yield "kept", lambda: self.kept(row)
        yield "stream", lambda: self.streamed(row, list)
        yield "async stream", lambda: self.streamed(row, self.iterated)
        if self.callee == "python":
            yield "named", lambda: self.named(row)

    def through(self, row, verb):
        sent = self.made(row)
        failures = self.back(row, sent, verb("echo", sent))
        return self.seen(verb("check", row["name"], self.made(row))) + failures

    def nested(self, row, verb):
        sent = self.made(row)
        failures = self.back(row, sent, unnest(verb("echo", nest(sent))))
        return self.seen(verb("check_nested", row["name"], nest(self.made(row)))) + failures

    def kept(self, row):
        sent = self.made(row)
        self.bus.call("keep", row["name"], sent)
        failures = self.seen(self.bus.call("check_kept", row["name"]))
        return failures + self.back(row, sent, self.bus.call("take_kept", row["name"]))

    def named(self, row):
        sent = self.made(row)
        failures = self.back(row, sent, self.bus.call("echo", v=sent))
        return self.seen(self.bus.call("check", name=row["name"], v=self.made(row))) + failures

    def called_back(self, row, verb):
        sent, seen = self.made(row), []
        back = verb("apply", lambda v: seen.append(v) or v, sent)
        return self.back(row, sent, seen[0]) + self.back(row, sent, back)

    def streamed(self, row, taken):
        sent = self.made(row)
        one, two = taken(self.bus.stream("restream", iter([sent, sent])))
        return self.back(row, sent, one) + self.back(row, sent, two)

    def iterated(self, stream):
        async def go():
            return [v async for v in stream]

        return self.loop.run_until_complete(go())

    def given(self, row, verb):
        v = verb("give", row["name"])
        if row["lent"] or "make" not in row:
            return [] if evaluated(row.get("again") or row["python"], v=v) else [saw(v)]
        return [] if same(v, self.made(row)) else [saw(v)]

    def seen(self, complaint):
        return [] if complaint is True else [complaint]


def outcome(play):
    try:
        return play()
    except Exception:
        return [traceback.format_exc()]


def main(name, callee):
    with isthmus.connect(name) as bus:
        player = Player(bus, callee)
        for row in rows.values():
            failures = [f"{mode}: {failure}" for mode, play in player.play(row) for failure in outcome(play)]
            print(json.dumps({"name": row["name"], "failures": failures}), flush=True)
        player.loop.close()
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
