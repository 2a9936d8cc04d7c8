"""What workers serve in the tests of both adapters."""

import asyncio
import os
import time
from pathlib import Path

import isthmus

me = object()  # another one in each interpreter


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def who():
    return id(me)


@isthmus.export
async def later(seconds=0):
    await asyncio.sleep(seconds)
    return id(me)


@isthmus.export
def hold(gate):
    """Tells in `gate`.begun that a call has come to it, and where; ends once the file `gate` is there."""
    gate = Path(gate)
    gate.with_suffix(".begun").write_text(str(os.getpid()))
    while not gate.exists():
        time.sleep(0.002)
    return os.getpid()


@isthmus.export
async def hold_on_loop(gate):
    return await asyncio.to_thread(hold, gate)


@isthmus.export
def count(items):
    for i in range(items):
        yield [i, os.getpid()]


@isthmus.export
def total(x):
    return [float(x.sum()), os.getpid()]


@isthmus.export
def call_back(function):
    return [function(os.getpid()), os.getpid()]
