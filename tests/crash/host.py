"""A callee that computes, holds, keeps and dies on demand."""

import ctypes
import gc
import itertools
import os
import signal
import sys
import time

import numpy as np

import isthmus

kept = []


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def echo(v):
    return v


@isthmus.export
def pid():
    return os.getpid()


@isthmus.export
def next(x):
    return np.add(x, 1, out=isthmus.empty(x.shape, x.dtype))


@isthmus.export
def fresh(length):
    return isthmus.empty(length, "float64")


@isthmus.export
def keep(x):
    kept.append(x)


@isthmus.export
def keep_all(values):
    kept.extend(values)


@isthmus.export(name="kept")
def how_many():
    return len(kept)


@isthmus.export
def last():
    return kept[-1]


@isthmus.export
def use():
    return kept[0](1)


@isthmus.export
def drop():
    kept.clear()


@isthmus.export
def fill(count):
    """Memory that the kernel has to tear down."""
    kept.append(b"\1" * count)


@isthmus.export
def apply(f, *args):
    return f(*args)


@isthmus.export
def adder(n):
    return lambda x: x + n


@isthmus.export
def restream(stream):
    yield from stream


closed = 0


@isthmus.export
def forever():
    global closed
    try:
        yield from itertools.count()
    finally:
        closed += 1


@isthmus.export(name="closed")
def how_many_closed():
    return closed


@isthmus.export
def read(stream):
    """How many items there were, and how it ended."""
    count = 0
    try:
        for _ in stream:
            count += 1
    except Exception as error:
        return [count, type(error).__name__]
    return [count, None]


@isthmus.export
def read_and_keep(stream):
    kept.append(read(stream))


class Thing:
    living = 0

    def __init__(self):
        Thing.living += 1

    def __del__(self):
        Thing.living -= 1


@isthmus.export
def thing():
    return Thing()


@isthmus.export
def things(n):
    return [Thing() for _ in range(n)]


@isthmus.export
def living():
    gc.collect()
    return Thing.living


@isthmus.export
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@isthmus.export
def compute(seconds):
    """Computes and lets no other thread have the GIL."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end:
        turns += sum(range(1000)) > 0
    sys.setswitchinterval(interval)
    return turns > 0


@isthmus.export
def spin(seconds):
    """Computes and lets other threads have the GIL."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


deaths = {
    "sys.exit": lambda: sys.exit(3),
    "os._exit": lambda: os._exit(3),
    "a segmentation fault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "fork": fork,
}


@isthmus.export
def die(how):
    deaths[how]()
    return how
