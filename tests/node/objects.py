import asyncio
import contextlib
import gc
import itertools

import numpy as np

import isthmus


class Box:
    """Counts what is done to it."""

    living = 0

    def __init__(self, value=0):
        Box.living += 1
        self.value = value
        self.reads = 0
        self.calls = 0
        self._release = "mine"

    def __del__(self):
        Box.living -= 1

    def __str__(self):
        return f"a box of {self.value}"

    def __float__(self):
        return float(self.value)

    def __getitem__(self, key):
        return [type(key).__name__, repr(key)]

    def __setitem__(self, key, value):
        self.value = [key, value]

    def __add__(self, other):
        return Box(self.value + other)

    def __lt__(self, other):
        return self.value < other.value

    def __len__(self):
        return 7

    def __iter__(self):
        yield from range(self.value)

    @property
    def seen(self):
        self.reads += 1
        return self

    def add(self, n, *, times=1):
        self.calls += 1
        return Box(self.value + n * times)

    def get(self):
        return self.value

    def counts(self):
        return [self.reads, self.calls]

    def fail(self, message):
        raise LookupError(message)

    def same(self, other):
        return self is other

    def release(self):
        return "python's release"

    def text(self, value):
        return repr(value)


@isthmus.export
def box(value=0):
    return Box(value)


@isthmus.export
def boxes(n):
    return [Box(i) for i in range(n)]


@isthmus.export
def living():
    gc.collect()
    return Box.living


@isthmus.export
def value_of(box):
    return box.value


@isthmus.export
def identity(x):
    return x


@isthmus.export
def apply(function, *args):
    return function(*args)


@isthmus.export
def adder(n):
    return lambda x: x + n


@isthmus.export
def nested():
    return {"box": Box(3), "list": [Box(4)]}


@isthmus.export
def array(n):
    return np.arange(n)


events = []


@isthmus.export
def take_events():
    taken = list(events)
    events.clear()
    return taken


class Managed:
    def __enter__(self):
        events.append("enter")
        return Box(1)

    def __exit__(self, kind, error, trace):
        events.append(["exit", None if kind is None else str(error)])
        return error is not None and "swallow" in str(error)


class ManagedAsync:
    async def __aenter__(self):
        await asyncio.sleep(0)
        events.append("aenter")
        return 5

    async def __aexit__(self, kind, error, trace):
        events.append("aexit")


@isthmus.export
def managed():
    return Managed()


@isthmus.export
def managed_async():
    return ManagedAsync()


@isthmus.export
def count(n, fail_at=-1):
    try:
        for i in range(n):
            if i == fail_at:
                raise ValueError(f"no {i}")
            yield i
    finally:
        events.append("closed")


produced = 0


@isthmus.export
def endless(size=0):
    global produced
    produced = 0
    with contextlib.suppress(GeneratorExit):
        for i in itertools.count():
            produced = i + 1
            yield i if size == 0 else "x" * size


@isthmus.export
def how_many():
    return produced


@isthmus.export
async def ticks(n, pause=0.001):
    try:
        for i in range(n):
            await asyncio.sleep(pause)
            yield i
    finally:
        events.append("ticks closed")


@isthmus.export
def pair():
    return iter([1, "two", None, [3], {"four": 4}])


@isthmus.export
def total(stream):
    return sum(stream)


@isthmus.export
async def total_async(stream):
    result = 0
    async for item in stream:
        result += item
    return result


@isthmus.export
def first(stream, n):
    taken = list(itertools.islice(stream, n))
    stream.close()
    return taken


@isthmus.export
def collect(stream):
    taken = []
    try:
        taken.extend(stream)
    except Exception as error:
        taken.append(f"{type(error).__name__}: {error}")
    return taken
