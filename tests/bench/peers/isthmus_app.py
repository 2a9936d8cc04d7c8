import asyncio
import statistics
import time

import numpy as np

import isthmus


@isthmus.export
def add(a, b):
    return a + b


@isthmus.export
def total_plus_one(x):
    return x.sum(), x + 1


@isthmus.export
def same(x):
    return x


@isthmus.export
def double(x):
    return x * 2


@isthmus.export
def double_alone(x, seconds):
    """What that takes here, on memory that is warm: the median, in microseconds."""
    y = np.empty_like(x)
    times = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end or len(times) < 4:
        np.multiply(x, 2, out=y)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) * 1e6


@isthmus.export
def length(x):
    return len(x)


@isthmus.export
async def nap(seconds):
    await asyncio.sleep(seconds)
    return seconds


@isthmus.export
def count(n):
    yield from range(n)
