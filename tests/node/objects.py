"""What tests/cross/peer.py offers, and more that is driven from JavaScript."""

import asyncio
import contextlib
import itertools
import sys
from pathlib import Path

import numpy as np

import isthmus

sys.path.insert(0, str(Path(__file__).parents[1] / "cross"))

import peer


@isthmus.export
def nested():
    return {"box": peer.Box(3), "list": [peer.Box(4)]}


@isthmus.export
def array(n):
    return np.arange(n)


class Managed:
    def __enter__(self):
        peer.events.append("enter")
        return peer.Box(1)

    def __exit__(self, kind, error, trace):
        peer.events.append(["exit", None if kind is None else str(error)])
        return error is not None and "swallow" in str(error)


class ManagedAsync:
    async def __aenter__(self):
        await asyncio.sleep(0)
        peer.events.append("aenter")
        return 5

    async def __aexit__(self, kind, error, trace):
        peer.events.append("aexit")


@isthmus.export
def managed():
    return Managed()


@isthmus.export
def managed_async():
    return ManagedAsync()


@isthmus.export
def endless(size=0):
    with contextlib.suppress(GeneratorExit):
        for i in itertools.count():
            peer.made = i + 1
            yield i if size == 0 else "x" * size


@isthmus.export
async def two(flag):
    """Gives the second one when its caller sets the flag, which lies in bus memory."""
    yield 1
    await asyncio.to_thread(peer.hold, flag)
    yield 2


@isthmus.export
def pair():
    return iter([1, "two", None, [3], {"four": 4}])


@isthmus.export
def collect(stream):
    taken = []
    try:
        taken.extend(stream)
    except Exception as error:
        taken.append(f"{type(error).__name__}: {error}")
    return taken
